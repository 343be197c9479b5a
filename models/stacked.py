"""Several models of one kind as one: their weights in one buffer [models, n], one forward pass for all of them.

Where layers are small, a step costs the calls that it is made of and not the arithmetic. Stacked layers do the work of
many models in one call: `bmm` for linear layers, grouped convolutions and group norms over all channels side by side.
Activations of images lie as [b, models * channels, h, w], features as [models, b, d]; pooling and ReLU need no change.

Autograd sees activations only. Each layer writes the gradient of its weights straight into the buffer of gradients,
so nothing is zeroed before a step and nothing is added up.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import stacked_conv
from .classifiers import Classifier, ResidualBlock
from .flat import FlatModel

_CONTAINERS = (nn.Sequential, Classifier, ResidualBlock)
_TINY = 400  # multiplications of one product
_AS_THEY_ARE = (nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Identity)


class StackError(ValueError):
    """A model cannot be stacked; the text says why."""


class Bank:
    """Weights and gradients of `models` copies of a model, [models, n], and which of them take part now.

    n and the places of the parameters are those of the FlatModel. `exact`: each model is to have the bits that it has
    alone, where that is a matter of calling convolutions one by one.
    """

    def __init__(self, like: FlatModel, models: int, exact: bool) -> None:
        self.exact = exact
        self.flat = like.flat.new_zeros((models, like.flat.numel()))
        self.grad = torch.zeros_like(self.flat)
        self.models = slice(0, models)
        self._weights: dict[str, Tensor] = {}
        self._grads: dict[str, Tensor] = {}
        for name, value in like.module.named_parameters():
            shape, strides = (models, *value.shape), (self.flat.shape[1], *value.stride())
            for kept, buffer in ((self._weights, self.flat), (self._grads, self.grad)):
                kept[name] = buffer.as_strided(shape, strides, like.spans[name].start)

    def weight(self, name: str) -> Tensor:
        """Give the parameter of the models that take part, [m, *shape]."""
        return self._weights[name][self.models]

    def keep(self, name: str, grad: Tensor) -> None:
        """Write a gradient, with as many values as `weight` has, in their order."""
        target = self._grads[name][self.models]
        target.copy_(grad.view(target.shape))

    def arrays(self, row: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Give the parameters of one model by name, as views into the buffer."""
        return {name: self._weights[name][row].detach().cpu().numpy() for name in names}

    def room(self, name: str) -> Tensor:
        """Give where the gradient of the models that take part lies, [m, *shape]."""
        return self._grads[name][self.models]


def _tiny(left: Tensor, right: Tensor) -> bool:
    """Say whether torch's batched product would leave the library that computes a single one, and round otherwise."""
    return left.shape[1] * left.shape[2] * right.shape[2] < _TINY


def _products(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Give the matrix products [m, a, c] of [m, a, b] and [m, b, c], each rounded as it would be alone."""
    if not _tiny(left, right):
        return torch.bmm(left, right) if out is None else torch.bmm(left, right, out=out)
    each = torch.stack([torch.mm(one, other) for one, other in zip(left, right, strict=True)])
    return each if out is None else out.copy_(each)


class _Linear(torch.autograd.Function):
    """x [m, b, i] -> [m, b, o]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, bank: Bank, name: str, layer: nn.Linear) -> Tensor:
        ctx.bank, ctx.name, ctx.bias = bank, name, layer.bias is not None
        weight = bank.weight(f"{name}weight")
        ctx.save_for_backward(x, weight)
        if not ctx.bias:
            return _products(x, weight.transpose(1, 2))
        biases = bank.weight(f"{name}bias")
        if _tiny(x, weight.transpose(1, 2)):
            each = zip(biases, x, weight, strict=True)
            return torch.stack([torch.addmm(bias, one, matrix.t()) for bias, one, matrix in each])
        return torch.baddbmm(biases.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight), bank = grads, ctx.saved_tensors, ctx.bank
        _products(grad.transpose(1, 2), x, bank.room(f"{ctx.name}weight"))
        if ctx.bias:
            torch.sum(grad, 1, out=bank.room(f"{ctx.name}bias"))
        return (_products(grad, weight) if ctx.needs_input_grad[0] else None, None, None, None, None)


class _Conv(torch.autograd.Function):
    """x [b, m i, h, w] -> [b, m o, h', w']: a group of channels for each model."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, bank: Bank, name: str, layer: nn.Conv2d) -> Tensor:
        many = bank.weight(f"{name}weight")
        weight = stacked_conv.laid_out(many.flatten(0, 1), stacked_conv.is_last(layer.weight))
        bias = None if layer.bias is None else bank.weight(f"{name}bias").flatten()
        shape = stacked_conv.shape_of(x, weight, layer, len(many))
        alike = stacked_conv.alike(shape, x.dtype) if bank.exact else stacked_conv.Alike()
        ctx.bank, ctx.name, ctx.shape, ctx.alike = bank, name, shape, alike
        ctx.save_for_backward(x, weight)
        return stacked_conv.forward(x, weight, bias, shape, alike)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        shape, bank, wanted = ctx.shape, ctx.bank, (ctx.needs_input_grad[0], True, ctx.shape.biased)
        into, by_weight, by_bias = stacked_conv.backward(grads[0], x, weight, shape, ctx.alike, wanted)
        bank.keep(f"{ctx.name}weight", by_weight)
        if shape.biased:
            bank.keep(f"{ctx.name}bias", by_bias)
        return into if wanted[0] else None, None, None, None, None


class _GroupNorm(torch.autograd.Function):
    """x [b, m c, h, w] -> the same: the groups of all models side by side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, bank: Bank, name: str, layer: nn.GroupNorm) -> Tensor:
        weight = bank.weight(f"{name}weight")
        ctx.sizes = (x.shape[0], x.shape[1], x.shape[2:].numel(), len(weight) * layer.num_groups)
        flat = weight.flatten()
        normed: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_group_norm(
            x, flat, bank.weight(f"{name}bias").flatten(), *ctx.sizes, layer.eps
        )
        y, mean, rstd = normed
        ctx.bank, ctx.name = bank, name
        ctx.save_for_backward(x, mean, rstd, flat)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight = ctx.saved_tensors
        into, by_weight, by_bias = torch.ops.aten.native_group_norm_backward(
            grads[0], x, mean, rstd, weight, *ctx.sizes, [ctx.needs_input_grad[0], True, True]
        )
        ctx.bank.keep(f"{ctx.name}weight", by_weight)
        ctx.bank.keep(f"{ctx.name}bias", by_bias)
        return into, None, None, None, None


class Stack:
    """`models` copies of the model of a FlatModel. Raises StackError for a model with layers that cannot be stacked."""

    def __init__(self, like: FlatModel, models: int, exact: bool = False) -> None:
        refuse(like.module)
        self.size = models
        self.bank = Bank(like, models, exact)
        # Layers whose input is data have a backward pass only with something that wants a gradient.
        self._anchor = torch.zeros((), dtype=like.flat.dtype, requires_grad=True)
        self._channels_last = any(
            isinstance(layer, nn.Conv2d) and stacked_conv.is_last(layer.weight) for layer in like.module.modules()
        )
        self._run = self._stacked(like.module, "")
        self._images = any(isinstance(layer, nn.Conv2d) for layer in like.module.modules())

    def logits(self, x: Tensor, models: slice) -> Tensor:
        """Give the logits [m, b, classes] of images x [m, b, c, h, w] under the m models of a slice."""
        self.bank.models = models
        if self._images:
            x = stacked_conv.laid_out(x.transpose(0, 1).flatten(1, 2), self._channels_last)
        else:
            x = x.flatten(2)
        return self._run(x)

    def _stacked(self, module: nn.Module, prefix: str) -> Callable[[Tensor], Tensor]:
        """Give what a module does, for all models at once."""
        bank, anchor = self.bank, self._anchor
        own = {nn.Linear: _Linear, nn.Conv2d: _Conv, nn.GroupNorm: _GroupNorm}.get(type(module))
        if own is not None:
            return lambda x: own.apply(x, anchor, bank, prefix, module)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.Flatten):
            return self._features
        if isinstance(module, _AS_THEY_ARE):
            return module
        children = {name: self._stacked(child, f"{prefix}{name}.") for name, child in module.named_children()}
        if isinstance(module, ResidualBlock):
            return lambda x: module.joined(children, x)
        return _chain(list(children.values()))

    def _features(self, x: Tensor) -> Tensor:
        """Give features [m, b, c h w] of activations [b, m c, h, w]; features stay as they are."""
        if x.dim() == 3:
            return x
        models = self.bank.models.stop - self.bank.models.start
        return x.reshape(len(x), models, -1).transpose(0, 1)


def _chain(steps: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def refuse(module: nn.Module) -> None:
    """Raise StackError, naming the first layer at fault, where a model cannot be stacked."""
    for name, layer in module.named_modules():
        kind = type(layer)
        fits = kind in (*_CONTAINERS, *_AS_THEY_ARE, nn.Linear)
        fits |= kind is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)
        fits |= kind is nn.GroupNorm and layer.affine
        if kind is nn.Conv2d:
            fits = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if not fits:
            raise StackError(f"no stacked form of {kind.__name__} ({name or 'the model'})")
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
            raise StackError(f"{name or 'the model'} has hooks")
    if any(not value.requires_grad for value in module.parameters()):
        raise StackError("some of its weights are frozen")
    if any(True for _ in module.buffers()):
        raise StackError("it has buffers")
