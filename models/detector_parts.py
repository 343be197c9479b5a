"""The three parts of the detector in detector.py: backbone, neck and head."""

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classifiers import norm_layer

STRIDES = (8, 16, 32)
PRIOR = 0.01  # objectness of every cell before training (focal loss, Lin et al., 2017, section 4.1)


class Size(NamedTuple):
    """Widths and depths of a detector."""

    backbone: tuple[int, int, int, int, int]  # channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image
    blocks: tuple[int, int, int]  # residual blocks at 1/8, 1/16 and 1/32
    neck: int  # channels of the neck and the head
    tower: int  # convolutions of the head before each of its two outputs


class Backbone(nn.Module):
    """Images to features at 1/8, 1/16 and 1/32."""

    def __init__(self, channels: int, size: Size, norm: str) -> None:
        super().__init__()
        widths = size.backbone
        self.stem = nn.Sequential(
            _unit(channels, widths[0], 3, norm, stride=2), _unit(widths[0], widths[1], 3, norm, stride=2)
        )
        stages = []
        for before, after, blocks in zip(widths[1:], widths[2:], size.blocks, strict=False):
            residual = [_Residual(after, norm) for _ in range(blocks)]
            stages.append(nn.Sequential(_unit(before, after, 3, norm, stride=2), *residual))
        self.stage8, self.stage16, self.stage32 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features [b, c, h / s, w / s] at the strides s of 8, 16 and 32."""
        fine = self.stage8(self.stem(x))
        middle = self.stage16(fine)
        return fine, middle, self.stage32(middle)


class _Residual(nn.Module):
    """Half as many channels by a 1x1 convolution, back by a 3x3 one, added to what came in."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.reduce = _unit(channels, channels // 2, 1, norm)
        self.expand = _unit(channels // 2, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.expand(self.reduce(x))
        return out


class Neck(nn.Module):
    """Features of three levels to `width` channels each, every level informed by the coarser ones."""

    def __init__(self, channels: tuple[int, ...], width: int, norm: str) -> None:
        super().__init__()
        self.lateral8, self.lateral16, self.lateral32 = (_unit(each, width, 1, norm) for each in channels)
        self.smooth8, self.smooth16 = (_unit(width, width, 3, norm) for _ in range(2))

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return features of `width` channels at the strides of those given."""
        coarse = self.lateral32(features[2])
        middle = self.smooth16(self.lateral16(features[1]) + F.interpolate(coarse, scale_factor=2.0))
        fine = self.smooth8(self.lateral8(features[0]) + F.interpolate(middle, scale_factor=2.0))
        return fine, middle, coarse


class Head(nn.Module):
    """Features of each level to raw numbers [b, cells, 5 + classes]: centre (2), log sides (2), objectness, classes."""

    def __init__(self, width: int, classes: int, depth: int, norm: str) -> None:
        super().__init__()
        self.box_tower = _Tower(width, depth, norm)
        self.class_tower = _Tower(width, depth, norm)
        self.box = nn.Conv2d(width, 5, 1)
        self.classes = nn.Conv2d(width, classes, 1)
        for output in (self.box, self.classes):
            nn.init.normal_(output.weight, std=0.01)
        nn.init.zeros_(self.box.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.box.bias[4:], -math.log((1 - PRIOR) / PRIOR))  # type: ignore[index]
        # Classes are learnt on matched points only, where each is as likely as the others.
        nn.init.constant_(self.classes.bias, -math.log(max(classes - 1, 1)))  # type: ignore[arg-type]

    def forward(self, features: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the raw numbers [b, cells, 5 + classes] of each level."""
        out = []
        for level, each in enumerate(features):
            boxes = self.box(self.box_tower(each, level))
            classes = self.classes(self.class_tower(each, level))
            out.append(torch.cat((boxes, classes), dim=1).permute(0, 2, 3, 1).flatten(1, 2))
        return out


class _Tower(nn.Module):
    """3x3 convolutions that the levels share, each followed by the level's own norm layer and ReLU.

    The levels' features differ in mean and spread; one BatchNorm for all would train on each level's statistics in
    turn and then test with their mixture.
    """

    def __init__(self, width: int, depth: int, norm: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(width, width, 3, 1) for _ in range(depth))
        self.norms = nn.ModuleList(norm_layer(norm, width) for _ in range(depth * len(STRIDES)))  # level by level

    def forward(self, x: Tensor, level: int) -> Tensor:
        for index, conv in enumerate(self.convs, start=level * len(self.convs)):
            x = F.relu(self.norms[index](conv(x)), inplace=True)
        return x


def _unit(channels: int, wanted: int, kernel: int, norm: str, stride: int = 1) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=_conv(channels, wanted, kernel, stride), norm=norm_layer(norm, wanted), relu=nn.ReLU(inplace=True)
    )
    return nn.Sequential(layers)


def _conv(channels: int, wanted: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, wanted, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
