"""Convolutions in groups: every bit that they have one by one, part by part, in whatever way that takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fedbox.models import stacked_conv

ALONE = stacked_conv.Alike(False, False, False)
GROUPED = stacked_conv.Alike()


def _layer(inputs: int, outputs: int, kernel: int, stride: int, biased: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=biased)


def _values(layer: nn.Conv2d, models: int, batch: int, size: int, last: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    x = torch.randn(batch, models * layer.in_channels, size, size)
    weight = torch.randn(models * layer.out_channels, *layer.weight.shape[1:])
    bias = None if layer.bias is None else torch.randn(len(weight))
    return stacked_conv.laid_out(x, last), stacked_conv.laid_out(weight, last), bias


def _everything(
    alike: stacked_conv.Alike, shape: stacked_conv.Shape, x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor
) -> list[Tensor]:
    output = stacked_conv.forward(x, weight, bias, shape, alike)
    grads = stacked_conv.backward(grad, x, weight, shape, alike, (True, True, bias is not None))
    return [output, *grads[: 2 + (bias is not None)]]


@given(
    inputs=st.sampled_from([1, 2, 3, 16]),
    outputs=st.sampled_from([1, 4, 16]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    models=st.integers(1, 9),
    batch=st.integers(1, 5),
    last=st.booleans(),
    biased=st.booleans(),
)
def test_what_is_found_alike_is_alike_for_other_values(
    inputs: int, outputs: int, kernel: int, stride: int, models: int, batch: int, last: bool, biased: bool
) -> None:
    layer = _layer(inputs, outputs, kernel, stride, biased)
    x, weight, bias = _values(layer, models, batch, 8, last)
    shape = stacked_conv.shape_of(x, weight, layer, models)
    alone = stacked_conv.forward(x, weight, bias, shape, ALONE)
    grad = torch.randn_like(alone)
    wanted = _everything(ALONE, shape, x, weight, bias, grad)
    found = _everything(stacked_conv.alike(shape, x.dtype), shape, x, weight, bias, grad)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("alike", [ALONE, GROUPED], ids=["alone", "grouped"])
def test_either_way_is_what_autograd_gives_for_each_model(alike: stacked_conv.Alike) -> None:
    layer = _layer(3, 4, 3, 2, True)
    layer.double()
    x, weight, bias = (value.double() for value in _values(layer, 3, 2, 8, True) if value is not None)
    shape = stacked_conv.shape_of(x, weight, layer, 3)
    grad = torch.randn_like(stacked_conv.forward(x, weight, bias, shape, alike))
    found = _everything(alike, shape, x, weight, bias, grad)
    for model in range(3):
        mine = [x[:, 3 * model : 3 * model + 3], weight[4 * model : 4 * model + 4], bias[4 * model : 4 * model + 4]]
        leaves = [value.clone().requires_grad_() for value in mine]
        output = functional.conv2d(*leaves, stride=2, padding=1)
        grads = torch.autograd.grad(output, leaves, grad[:, 4 * model : 4 * model + 4])
        parts = [value.chunk(3, side)[model] for value, side in zip(found, (1, 1, 0, 0), strict=True)]
        for one, other in zip(parts, [output, *grads], strict=True):
            torch.testing.assert_close(one, other)


def test_what_is_not_wanted_changes_nothing_of_what_is() -> None:
    """As for the first layer, whose input is data."""
    layer = _layer(1, 4, 3, 1, True)
    x, weight, bias = _values(layer, 2, 3, 8, True)
    shape = stacked_conv.shape_of(x, weight, layer, 2)
    grad = torch.randn_like(stacked_conv.forward(x, weight, bias, shape, ALONE))
    whole = stacked_conv.backward(grad, x, weight, shape, ALONE, (True, True, True))
    part = stacked_conv.backward(grad, x, weight, shape, stacked_conv.Alike(True, True, False), (False, True, True))
    torch.testing.assert_close(part[1:], whole[1:], rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_is_told_from_the_strides(channels: int) -> None:
    """Where torch calls one channel contiguous in both formats, the way of a convolution hangs on the strides."""
    for shape in ((2, channels, 4, 5), (2, channels, 1, 1)):
        x = torch.randn(shape)
        for last in (True, False):
            laid = stacked_conv.laid_out(x, last)
            torch.testing.assert_close(laid, x, rtol=0, atol=0)
            assert stacked_conv.is_last(laid) == last or (channels, shape[2]) == (1, 1)
    layer = nn.Conv2d(channels, 4, 1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert stacked_conv.is_last(layer.weight)
