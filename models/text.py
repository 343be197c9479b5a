"""A text classifier: a small transformer from its options.

A sentence is an image [1, 1, length] whose values are the numbers of its words, 0 to 255 (data set `topics`).
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .classifiers import Classifier, Shape, whole
from .errors import ModelError
from .small import _Attention

_VOCABULARY = 256


def transformer(
    shape: Shape, classes: int, width: int = 32, depth: int = 1, heads: int = 4, features: int | None = None
) -> Classifier:
    """Build a transformer over words: `depth` blocks of `width`, `heads` heads, the mean of the words, a linear head.

    Word 0 fills up and does not enter the mean. 1,1,16 and 4 classes: 17,348 weights; width 160, depth 4: 0.87 M.
    """
    for name, value in (("width", width), ("depth", depth), ("heads", heads)):
        whole("transformer", name, value, 1)
    if width % heads:
        raise ModelError(f"transformer: width is {width}, heads is {heads}; wanted a width that the heads divide.")
    return Classifier(_Words(shape, width, depth, heads), width, classes, features)


class _Words(nn.Module):
    """Words [b, 1, 1, length] -> [b, width]."""

    def __init__(self, shape: Shape, width: int, depth: int, heads: int) -> None:
        super().__init__()
        _check_shape("transformer", shape)
        self.words = nn.Embedding(_VOCABULARY, width)
        self.place = nn.Parameter(torch.randn(1, shape[2], width) * 0.02)
        self.blocks = nn.Sequential(
            OrderedDict((f"block{number}", _Attention(width, heads)) for number in range(1, depth + 1))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        words = _numbers(x)
        seen = (words > 0).float().unsqueeze(-1)
        out: Tensor = self.norm(self.blocks(self.words(words) + self.place))
        return (out * seen).sum(1) / seen.sum(1).clamp_min(1)


def _numbers(x: Tensor) -> Tensor:
    return x.flatten(1).round().long().clamp(0, _VOCABULARY - 1)


def _check_shape(name: str, shape: Shape) -> None:
    if tuple(shape[:2]) != (1, 1):
        raise ModelError(f"{name}: the samples are {tuple(shape)}; wanted sentences, (1, 1, length).")
