"""Two more small image classifiers, of the kinds that edge devices run: depthwise convolutions and a transformer."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from .classifiers import Classifier, Shape, conv3, norm_layer, whole
from .errors import ModelError


def mobilenet(
    shape: Shape, classes: int, width: int = 16, depth: int = 4, expansion: int = 4, features: int | None = None
) -> Classifier:
    """Inverted residual blocks (Sandler et al., 2018), for small images; 31,706 weights for 1x28x28 and 10 classes.

    `depth` blocks; every second one halves the image and doubles the channels, which begin at `width`. A block widens
    its channels by `expansion`. Differs from MobileNetV2: GroupNorm, no buffers; no wide last convolution.
    """
    whole("mobilenet", "width", width, 1)
    whole("mobilenet", "depth", depth, 1)
    whole("mobilenet", "expansion", expansion, 1)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=conv3(shape[0], width, 1), norm=norm_layer("group", width), relu=nn.ReLU6()
    )
    channels = width
    for number in range(1, depth + 1):
        halves = number % 2 == 0
        wanted = 2 * channels if halves else channels
        layers[f"block{number}"] = _Inverted(channels, wanted, 2 if halves else 1, expansion)
        channels = wanted
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return Classifier(nn.Sequential(layers), channels, classes, features)


class _Inverted(nn.Module):
    """Widen, filter each channel, narrow: [b, channels, h, w] -> [b, wanted, h / stride, w / stride]."""

    def __init__(self, channels: int, wanted: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.widen = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = norm_layer("group", inner)
        self.filter = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.norm2 = norm_layer("group", inner)
        self.narrow = nn.Conv2d(inner, wanted, 1, bias=False)
        self.norm3 = norm_layer("group", wanted)
        self.residual = stride == 1 and channels == wanted

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional.relu6(self.norm1(self.widen(x)))
        out = functional.relu6(self.norm2(self.filter(out)))
        out = self.norm3(self.narrow(out))
        return x + out if self.residual else out


def vit(
    shape: Shape,
    classes: int,
    patch: int = 4,
    width: int = 48,
    depth: int = 2,
    heads: int = 4,
    features: int | None = None,
) -> Classifier:
    """Vision transformer (Dosovitskiy et al., 2021) for small images; 41,674 weights for 1x28x28 and 10 classes.

    Squares of `patch` pixels, `depth` blocks of `width` with `heads` heads. Differs from the paper: the mean of the
    squares in the place of a class token, twice the width inside a block, no dropout.
    """
    for name, value in (("patch", patch), ("width", width), ("depth", depth), ("heads", heads)):
        whole("vit", name, value, 1)
    if width % heads:
        raise ModelError(f"vit: width is {width}, heads is {heads}; wanted a width that the heads divide.")
    layers: OrderedDict[str, nn.Module] = OrderedDict(patches=_Patches(shape, patch, width))
    for number in range(1, depth + 1):
        layers[f"block{number}"] = _Attention(width, heads)
    layers["norm"] = nn.LayerNorm(width)
    layers["mean"] = _Mean()
    return Classifier(nn.Sequential(layers), width, classes, features)


class _Patches(nn.Module):
    """Images [b, c, h, w] -> squares [b, n, width] with their learnt places; what lacks at the edges is 0."""

    def __init__(self, shape: Shape, patch: int, width: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.pad = (0, -breadth % patch, 0, -height % patch)
        self.conv = nn.Conv2d(channels, width, patch, stride=patch)
        count = -(-height // patch) * -(-breadth // patch)
        self.place = nn.Parameter(torch.randn(1, count, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        squares: Tensor = self.conv(functional.pad(x, self.pad))
        return squares.flatten(2).transpose(1, 2) + self.place


class _Attention(nn.Module):
    """A block of a transformer, normalised first: [b, n, width] -> [b, n, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asks = nn.Linear(width, 3 * width)
        self.joins = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        asked = self.asks(self.norm1(x)).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*asked.unbind(0))
        x = x + self.joins(seen.transpose(1, 2).reshape(count, length, width))
        wide: Tensor = self.widen(self.norm2(x))
        return x + self.narrow(functional.gelu(wide))  # type: ignore[no-any-return]


class _Mean(nn.Module):
    """Squares [b, n, width] -> [b, width]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)
