"""Convolutions of many models side by side, and which parts of them round as the same convolutions one by one do.

The library that computes a convolution picks its way by shape, and groups of channels are another shape: with one input
channel, say, gradients are then summed in another order. So each part (the output and the three gradients) is tried
once for every shape, on made-up values; where its bits differ, that part is done model by model, the others in groups.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Grads = tuple[Tensor, Tensor, Tensor]


class Shape(NamedTuple):
    """What decides how a convolution of `groups` models is computed. `x`, `weight`: as [b, i, h, w], [o, i, k, k]."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    last: tuple[bool, bool]  # whether x and weight are in channels-last format
    biased: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Alike(NamedTuple):
    """Which parts of a grouped convolution have the bits of single ones."""

    output: bool = True
    by_input: bool = True
    by_weight: bool = True  # and by bias


def shape_of(x: Tensor, weight: Tensor, layer: nn.Conv2d, groups: int) -> Shape:
    """Give the shape of the convolution of x [b, m i, h, w] with weight [m o, i, k, k]."""
    one = (len(x), x.shape[1] // groups, *x.shape[2:])
    last = (is_last(x), is_last(weight))
    where = (tuple(layer.stride), tuple(map(int, layer.padding)), tuple(layer.dilation))
    return Shape(one, (len(weight) // groups, *weight.shape[1:]), last, layer.bias is not None, *where, groups)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, alike: Alike) -> Tensor:
    """Give [b, m o, h', w']."""
    if alike.output:
        return _conv(x, weight, bias, shape, shape.groups)
    biases = [None] * shape.groups if bias is None else bias.chunk(shape.groups)
    each = zip(_split(x, 1, shape), _split(weight, 0, shape), biases, strict=True)
    return torch.cat([_conv(*one, shape, 1) for one in each], 1)


def backward(grad: Tensor, x: Tensor, weight: Tensor, shape: Shape, alike: Alike, wanted: tuple[bool, ...]) -> Grads:
    """Give the gradients by input, weights and biases, as far as they are wanted."""
    same = (alike.by_input, alike.by_weight, alike.by_weight)
    grouped = [part and fits for part, fits in zip(wanted, same, strict=True)]
    alone = [part and not fits for part, fits in zip(wanted, same, strict=True)]
    found: list[Tensor] = list(_grads(grad, x, weight, shape, shape.groups, grouped)) if any(grouped) else [grad] * 3
    if any(alone):
        each = zip(_split(grad, 1, shape), _split(x, 1, shape), _split(weight, 0, shape), strict=True)
        parts = zip(*(_grads(*one, shape, 1, alone) for one in each), strict=True)
        for place, (part, many) in enumerate(zip(alone, parts, strict=True)):
            if part:
                found[place] = torch.cat(many, 1 if place == 0 else 0)
    return found[0], found[1], found[2]


@cache
def alike(shape: Shape, dtype: torch.dtype) -> Alike:
    """Try a shape on made-up values on the CPU: which parts have the same bits in groups as one by one."""
    rng = torch.Generator().manual_seed(0)
    size, out = (shape.x[0], shape.groups * shape.x[1], *shape.x[2:]), shape.groups * shape.weight[0]
    x = laid_out(torch.randn(size, generator=rng, dtype=dtype), shape.last[0])
    weight = laid_out(torch.randn((out, *shape.weight[1:]), generator=rng, dtype=dtype), shape.last[1])
    bias = torch.randn(out, generator=rng, dtype=dtype) if shape.biased else None
    with torch.no_grad():
        outputs = [forward(x, weight, bias, shape, Alike(same)) for same in (True, False)]
        grad = laid_out(torch.randn(outputs[0].shape, generator=rng, dtype=dtype), is_last(outputs[0]))
        wanted = (True, True, shape.biased)
        grads = [backward(grad, x, weight, shape, Alike(True, same, same), wanted) for same in (True, False)]
    into, by_weight, by_bias = (not part or torch.equal(*pair) for part, *pair in zip(wanted, *grads, strict=True))
    both = by_weight and by_bias  # one call gives both
    return Alike(torch.equal(*outputs), into, both)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, groups: int) -> Tensor:
    return functional.conv2d(x, weight, bias, shape.stride, shape.padding, shape.dilation, groups)


def _grads(grad: Tensor, x: Tensor, weight: Tensor, shape: Shape, groups: int, mask: list[bool]) -> Grads:
    where: Any = (shape.stride, shape.padding, shape.dilation)
    biases = [len(weight)] if mask[2] else None
    found: Grads = torch.ops.aten.convolution_backward(grad, x, weight, biases, *where, False, [0, 0], groups, mask)
    return found


def _split(many: Tensor, side: int, shape: Shape) -> list[Tensor]:
    """Give the channels of each model as a tensor of its own, in the same memory format."""
    last = is_last(many)
    return [laid_out(one, last) for one in many.chunk(shape.groups, side)]


def laid_out(x: Tensor, last: bool) -> Tensor:
    """Give x [b, c, h, w] in channels-last format or in torch's own, also where one channel makes both the same."""
    if not last:
        return x.contiguous()
    x = x.contiguous(memory_format=torch.channels_last)
    return x.as_strided(x.shape, (x.shape[1:].numel(), *_steps(x)))


def is_last(x: Tensor) -> bool:
    """Say whether x [b, c, h, w] is laid out as channels last: where one channel leaves it open, by its strides."""
    return x.stride()[1:] == _steps(x)


def _steps(x: Tensor) -> tuple[int, int, int]:
    """Give the strides of channels, rows and columns in channels-last format."""
    return 1, x.shape[1] * x.shape[3], x.shape[1]
