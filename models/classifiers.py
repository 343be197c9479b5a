"""Small image classifiers of two named parts: `backbone` (images to features), `head` (features to logits).

All take float32 images [b, channels, height, width] in either memory format and give logits [b, classes]. The
weights are laid out alike for both formats, so a model in channels-last trades weights with one that is not.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import ModelError, did_you_mean

Shape = tuple[int, int, int]


class Classifier(nn.Module):
    """A backbone [b, c, h, w] -> [b, feature_dim] and a linear head [b, feature_dim] -> [b, classes].

    `features` pools the backbone's outputs to so many (AdaptiveAvgPool1d), which lets different backbones speak of the
    same features. Raises ModelError unless it is at least 1.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, classes: int, features: int | None = None) -> None:
        super().__init__()
        if features is not None:
            whole(type(self).__name__, "features", features, 1)
            pool = OrderedDict(whole=backbone, pool=nn.AdaptiveAvgPool1d(features))
            backbone, feature_dim = nn.Sequential(pool), features
        self.backbone = backbone
        self.head = nn.Linear(feature_dim, classes)
        self.feature_dim = feature_dim

    def features(self, x: Tensor) -> Tensor:
        """Return the features [b, feature_dim] of images [b, c, h, w]."""
        out: Tensor = self.backbone(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [b, classes] of images [b, c, h, w]."""
        out: Tensor = self.head(self.features(x))
        return out


def mlp(shape: Shape, classes: int, hidden: int | Sequence[int] = 72, features: int | None = None) -> Classifier:
    """Fully connected layers with ReLU; 57,250 weights for 1x28x28 and 10 classes.

    `hidden` is one width, or a list with one for each hidden layer; an empty list is logistic regression.
    """
    sizes = [hidden] if isinstance(hidden, int) else hidden
    if not isinstance(sizes, list | tuple):
        raise ModelError(f"mlp: hidden is {hidden!r}; wanted a width such as 72 or a list such as [64, 64].")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = shape[0] * shape[1] * shape[2]
    for index, size in enumerate(sizes, start=1):
        whole("mlp", "hidden", size, 1)
        layers[f"linear{index}"] = nn.Linear(width, size)
        layers[f"relu{index}"] = nn.ReLU()
        width = size
    return Classifier(nn.Sequential(layers), width, classes, features)


def cnn(shape: Shape, classes: int, width: int = 16, hidden: int = 32, features: int | None = None) -> Classifier:
    """Two 3x3 convolutions and one hidden layer; 55,338 weights for 1x28x28 and 10 classes.

    The convolutions have `width` and 2 x `width` channels; `hidden` 0 leaves the hidden layer out. Pooling
    comes before ReLU: the largest of some values, clipped at 0, is the largest of the clipped ones, and ReLU
    then sees a quarter of the values. The weights lie in channels-last format.
    """
    whole("cnn", "width", width, 1)
    whole("cnn", "hidden", hidden, 0)
    channels, height, breadth = shape
    if min(height, breadth) < 4:
        raise ModelError(f"cnn: images are {height}x{breadth}; it halves them twice, so 4x4 is the least. Use mlp.")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, width, 3, padding=1),
        pool1=nn.MaxPool2d(2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(width, 2 * width, 3, padding=1),
        pool2=nn.MaxPool2d(2),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),  # reads in logical order, whatever the memory format
    )
    size = 2 * width * (height // 4) * (breadth // 4)
    if hidden:
        layers["linear"] = nn.Linear(size, hidden)
        layers["relu3"] = nn.ReLU()
    model = Classifier(nn.Sequential(layers), hidden or size, classes, features)
    # Pooling is the larger part of a step in the default format: this one halves the time on a CPU.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def resnet(
    shape: Shape,
    classes: int,
    depth: int = 8,
    width: int = 16,
    norm: Literal["group", "batch"] = "group",
    features: int | None = None,
) -> Classifier:
    """Residual network for small images (He et al., 2016, section 4.2); 77,754 weights for 1x28x28.

    `depth` is 6n + 2 layers (8, 14, 20, ...): three stages of n blocks with `width`, 2 x and 4 x `width`
    channels. `norm` is "group" (no buffers) or "batch" (running statistics, for which parts.py has policies).
    Differs from the paper: GroupNorm by default; shortcuts that change the shape are 1x1 convolutions.
    """
    if norm not in {"group", "batch"}:
        raise ModelError(f"resnet: norm is {norm!r}.{did_you_mean(str(norm), ('group', 'batch'))}")
    whole("resnet", "width", width, 1)
    whole("resnet", "depth", depth, 8)
    if (depth - 2) % 6:
        raise ModelError(f"resnet: depth is {depth}; wanted 6n + 2, such as 8, 14, 20 or 32.")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=conv3(shape[0], width, 1), norm=norm_layer(norm, width), relu=nn.ReLU()
    )
    channels = width
    for stage in (1, 2, 3):
        wanted = width * 2 ** (stage - 1)
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            layers[f"stage{stage}_block{block}"] = ResidualBlock(channels, wanted, stride, norm)
            channels = wanted
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    model = Classifier(nn.Sequential(layers), channels, classes, features)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [b, channels, h, w] -> [b, wanted, h / stride, w / stride]."""

    def __init__(self, channels: int, wanted: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = conv3(channels, wanted, stride)
        self.norm1 = norm_layer(norm, wanted)
        self.conv2 = conv3(wanted, wanted, 1)
        self.norm2 = norm_layer(norm, wanted)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != wanted:
            conv = nn.Conv2d(channels, wanted, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=norm_layer(norm, wanted)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return self.joined(self._modules, x)

    @staticmethod
    def joined(layers: Mapping[str, Any], x: Tensor) -> Tensor:
        """Give the block's output where these are its layers, or what stands for them, by name."""
        out = torch.relu(layers["norm1"](layers["conv1"](x)))
        return torch.relu(layers["norm2"](layers["conv2"](out)) + layers["shortcut"](x))


def conv3(channels: int, wanted: int, stride: int) -> nn.Conv2d:
    """Give a 3x3 convolution without bias that keeps the size, or divides it by `stride`."""
    return nn.Conv2d(channels, wanted, 3, stride=stride, padding=1, bias=False)


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Give a normalisation layer: "batch", or GroupNorm with up to 8 groups."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(count for count in (8, 4, 2, 1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


def whole(model: str, option: str, value: object, least: int) -> None:
    """Raise ModelError, naming model and option, unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ModelError(f"{model}: {option} is {value!r}; wanted a whole number of at least {least}.")
