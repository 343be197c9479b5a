"""The plain path: a module as torch makes it, separate tensors in contiguous format, torch's own optimisers.

It is what the fast path (flat.py) is held against, and easier to step through. Strategies speak of `flat` and
`flat_grad`; here these are copies, made anew whenever they are asked for, and what is written into them goes back to
the module before it is used again.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .flat import FlatModel, strides_of
from .parts import chosen_parts


class _Mirror:
    """A vector beside tensors, in the layout of FlatModel: `lend` copies them in, `settle` copies changes back."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._before: Tensor | None = None

    def attach(self, span: slice, strides: tuple[int, ...], value: Tensor) -> None:
        """Let a tensor have its place in the vector."""
        self._pairs.append((self.vector[span].as_strided(value.shape, strides), value))

    def lend(self) -> Tensor:
        """Give the vector with what the tensors hold now."""
        self.settle()
        for view, value in self._pairs:
            view.copy_(value)
        self._before = self.vector.clone()
        return self.vector

    def settle(self) -> None:
        """Copy back what was written since the vector was lent; a vector that was only read changes nothing."""
        if self._before is None:
            return
        changed = not torch.equal(self._before, self.vector)
        self._before = None
        if changed:
            for view, value in self._pairs:
                value.copy_(view)


class PlainModel(FlatModel):
    """A FlatModel without flat buffers, for `engine.kind: plain`; see FlatModel for arguments and errors.

    flat, flat_grad: [n] copies in FlatModel's layout. Ask for them anew at each use: one that is held while the module
    trains does not follow. Every forward of a module, and every method here, first takes in what was written to them.
    """

    plain = True

    def __init__(self, module: nn.Module, device: torch.device | str | None = None) -> None:
        self._weights = self._gradients = _Mirror(torch.empty(0))
        super().__init__(module, device)
        for each in module.modules():
            each.register_forward_pre_hook(lambda *_: self.settle())

    @property
    def flat(self) -> Tensor:
        """The weights, [n]."""
        with torch.no_grad():
            return self._weights.lend()

    @flat.setter
    def flat(self, vector: Tensor) -> None:
        self._weights = _Mirror(vector)

    @property
    def flat_grad(self) -> Tensor:
        """The gradients, [n]."""
        with torch.no_grad():
            return self._gradients.lend()

    @flat_grad.setter
    def flat_grad(self, vector: Tensor) -> None:
        self._gradients = _Mirror(vector)

    def settle(self) -> None:
        """Bring what was written into `flat` and `flat_grad` to the module."""
        with torch.no_grad():
            self._weights.settle()
            self._gradients.settle()

    def _attach(self, name: str, value: nn.Parameter) -> None:
        strides, span = strides_of(value), self.spans[name]
        # Not .contiguous(): where a size is 1 it keeps the strides of channels-last, and convolutions go by them.
        value.data = torch.empty(value.shape, dtype=value.dtype, device=value.device).copy_(value.detach())
        value.grad = self._grads[name] = torch.zeros_like(value)
        self._weights.attach(span, strides, value.data)
        self._gradients.attach(span, strides, self._grads[name])

    def zero_grad(self) -> None:
        """Set all gradients to zero, and mend those that were replaced or set to None."""
        self.settle()
        for name, value in self._parameters.items():
            value.grad = self._grads[name].zero_()

    def trainable(self, wanted: Iterable[str] | None = None) -> list[nn.Parameter]:
        """Let only the wanted parts (None: all) be trained; return their parameters, one by one."""
        chosen = chosen_parts(self.parts, wanted)
        names = {name for part in chosen for name in self.parts[part] if self._wanted[name]}
        for name, value in self._parameters.items():
            value.requires_grad_(name in names)
        self.zero_grad()
        return [value for name, value in self._parameters.items() if name in names]

    def state(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Copy parameters and buffers out; see FlatModel.state."""
        self.settle()
        return super().state(names)

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays in; see FlatModel.load."""
        self.settle()
        super().load(arrays)

    def reset_buffers(self) -> None:
        """Give every buffer its initial value."""
        self.settle()
        super().reset_buffers()

    def check(self) -> None:
        """Do nothing: there are no views that could be lost."""
        self.settle()
