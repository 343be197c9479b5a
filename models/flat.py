"""A module that lives on one flat buffer: all weights in one vector, all gradients in another.

One optimiser step then touches one tensor in place of dozens, and a client's weights, gradients or their
difference are plain vectors. Every weight of the module stays a view with its own shape and memory format,
so the module is used as before.

Two things would break the views without a word, and `check` finds both: moving the module (`module.to(...)`)
and replacing a gradient (`zero_grad(set_to_none=True)`, which is also the default of torch's optimisers, or
`backward(create_graph=True)`). Call `zero_grad` of the FlatModel, which also mends replaced gradients.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import ModelError, did_you_mean
from .parts import chosen_parts, parts

ALIGNMENT = 16  # in weights: 64 bytes of float32, the width of a cache line and of the widest CPU vectors


class FlatModel:
    """Move `module` to `device` (None: where it is) and lay its parameters out in one vector, part by part.

    flat, flat_grad: [n] vectors of the module's dtype; the gaps that alignment leaves in them are zero.
    parts: the parameter names of each part; each part is one slice of the vectors (`slice_of`).
    spans: the slice of each parameter, gap not included, its values in the order in which they lie in memory.

    Every parameter starts at a multiple of 16 weights, so that vectorised sums do not depend on its
    neighbours. Raises ModelError for tied weights, for no parameters, for parameters of several dtypes or
    devices and for a dtype that is neither float32 nor float64.
    """

    plain: ClassVar[bool] = False
    """Whether this is the plain path (plain.py), which trains separate tensors with torch's own optimisers."""

    def __init__(self, module: nn.Module, device: torch.device | str | None = None) -> None:
        self.module = module if device is None else module.to(device)
        self.parts = parts(module)
        self._parameters = dict(module.named_parameters())
        self._dtype, self._device = _only_kind(module, self._parameters)
        self.spans: dict[str, slice] = {}
        self._slices: dict[str, slice] = {}
        size = self._lay_out()
        self.flat = torch.zeros(size, dtype=self._dtype, device=self._device)
        self.flat_grad = torch.zeros_like(self.flat)
        self._grads: dict[str, Tensor] = {}
        self._leaves: list[tuple[nn.Parameter, Tensor]] = []
        self._wanted = {name: value.requires_grad for name, value in self._parameters.items()}
        for name, value in self._parameters.items():
            self._attach(name, value)
        self._initial = {name: value.detach().clone() for name, value in module.named_buffers()}

    def slice_of(self, part: str) -> slice:
        """Return where the part lies in `flat` and `flat_grad`; ModelError when there is no such part."""
        return self._slices[chosen_parts(self.parts, [part])[0]]

    def zero_grad(self) -> None:
        """Set all gradients to zero in place, and mend those that were replaced or set to None."""
        self.flat_grad.zero_()
        for name, value in self._parameters.items():
            if value.grad is not self._grads[name]:
                value.grad = self._grads[name]
        for leaf, grad in self._leaves:
            if leaf.grad is not grad:
                leaf.grad = grad

    def settle(self) -> None:
        """Bring what was written into `flat` and `flat_grad` to the module; here it is there already."""

    def trainable(self, wanted: Iterable[str] | None = None) -> list[nn.Parameter]:
        """Let only the wanted parts (None: all) be trained; return what to hand to a torch optimiser.

        Gives one vector for each unbroken run of trained parameters, its `.grad` set: one vector when all are
        trained. Parameters that required no gradient when the FlatModel was made stay frozen. The other parts
        get no gradient and their slice of `flat_grad` is zero; their buffers still move in training mode.
        Vectors from an earlier call are no longer mended by `zero_grad`.

        Fit for optimisers that treat each weight by itself (SGD, Adam, AdamW), not for those that use the
        norm of a layer (LARS, LAMB, Adafactor). A parameter that the loss does not reach has the gradient 0.
        """
        chosen = chosen_parts(self.parts, wanted)
        runs: list[list[int]] = []
        joined = False
        for part, names in self.parts.items():
            for name in names:
                train = part in chosen and self._wanted[name]
                self._parameters[name].requires_grad_(train)
                span = self.spans[name]
                if train and joined:
                    runs[-1][1] = span.stop
                elif train:
                    runs.append([span.start, span.stop])
                joined = train
        self._leaves = []
        for start, stop in runs:
            leaf = nn.Parameter(self.flat[start:stop])
            leaf.grad = self.flat_grad[start:stop]
            self._leaves.append((leaf, leaf.grad))
        self.zero_grad()
        return [leaf for leaf, _ in self._leaves]

    def state(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Copy parameters and buffers out, in the order of names, as C-contiguous arrays of their shape."""
        tensors = self._tensors()
        return {name: np.array(_known(tensors, name).detach().cpu().numpy(), order="C", copy=True) for name in names}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays into the parameters and buffers of the same names; the others stay as they are.

        Raises ModelError for an unknown name, a wrong shape or a wrong dtype, and then has changed nothing.
        """
        tensors = self._tensors()
        pairs: list[tuple[Tensor, NDArray[Any]]] = []
        for name, given in arrays.items():
            target, array = _known(tensors, name), np.asarray(given)
            dtype = str(target.dtype).removeprefix("torch.")
            if array.shape != tuple(target.shape) or array.dtype != np.dtype(dtype):
                raise ModelError(
                    f"array {name!r} is {array.dtype.str} ({array.dtype}) {list(array.shape)}; "
                    f"wanted {dtype} {list(target.shape)}."
                )
            pairs.append((target, array))
        for target, array in pairs:
            # A fresh copy, for torch takes neither read-only nor reversed arrays.
            target.detach().copy_(torch.from_numpy(np.array(array, order="C", copy=True)))

    def reset_buffers(self) -> None:
        """Give every buffer, persistent or not, the value it had when the FlatModel was made."""
        for name, value in self.module.named_buffers():
            if name in self._initial:
                value.detach().copy_(self._initial[name])

    def check(self) -> None:
        """Raise ModelError when a weight or a gradient is no longer a view of the flat vectors."""
        for name, value in self._parameters.items():
            offset = self.spans[name].start * self.flat.element_size()
            grad = value.grad
            if not value.numel():
                continue
            if value.data_ptr() != self.flat.data_ptr() + offset:
                raise ModelError(f"{name!r} left the flat vector: the module was moved. Make a new FlatModel.")
            if grad is None or grad.data_ptr() != self.flat_grad.data_ptr() + offset:
                raise ModelError(
                    f"the gradient of {name!r} left the flat vector: it was replaced or set to None. Use the "
                    "FlatModel's zero_grad, and backward without create_graph."
                )
        if any(leaf.grad is not grad for leaf, grad in self._leaves):
            raise ModelError("an optimiser's gradient was replaced or set to None. Use the FlatModel's zero_grad.")

    def _lay_out(self) -> int:
        offset = 0
        for part, names in self.parts.items():
            start = offset
            for name in names:
                count = self._parameters[name].numel()
                self.spans[name] = slice(offset, offset + count)
                offset += -(-count // ALIGNMENT) * ALIGNMENT
            self._slices[part] = slice(start, offset)
        return offset

    def _attach(self, name: str, value: nn.Parameter) -> None:
        span, strides = self.spans[name], strides_of(value)
        view = self.flat[span].as_strided(value.shape, strides)
        view.copy_(value.detach())
        value.data = view
        value.grad = self._grads[name] = self.flat_grad[span].as_strided(value.shape, strides)

    def _tensors(self) -> dict[str, Tensor]:
        # Buffers are looked up anew each time, for a module may replace them.
        return {**self._parameters, **dict(self.module.named_buffers(remove_duplicate=False))}


def strides_of(value: Tensor) -> tuple[int, ...]:
    """Return the tensor's own strides when it fills its memory without gaps, else those of a contiguous one.

    The strides are kept to the letter: where a size is 1 several describe the same memory, but convolutions
    read the memory format from them.
    """
    pairs = sorted((stride, size) for size, stride in zip(value.shape, value.stride(), strict=True) if size > 1)
    filled = 1
    for stride, size in pairs:
        if stride != filled:
            return torch.empty(value.shape, device="meta").stride()
        filled *= size
    return value.stride()


def _only_kind(module: nn.Module, parameters: Mapping[str, Tensor]) -> tuple[torch.dtype, torch.device]:
    kinds = {(value.dtype, value.device): name for name, value in parameters.items()}
    if len(kinds) != 1:
        found = ", ".join(f"{name!r} is {dtype} on {device}" for (dtype, device), name in kinds.items())
        raise ModelError(
            f"{type(module).__name__}: wanted parameters of one dtype on one device; {found or 'it has no parameters'}."
        )
    dtype, device = next(iter(kinds))
    if dtype not in {torch.float32, torch.float64}:
        raise ModelError(f"{type(module).__name__}: parameters are {dtype}; wanted torch.float32 or float64.")
    return dtype, device


def _known(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ModelError(f"the model has no array {name!r}.{did_you_mean(name, tensors)}")
    return tensors[name]
