"""Samples as a strategy sees them: tensors made from a client's part of the data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# Up to this many values a whole part is turned into floats once; larger ones are turned batch by batch.
_CACHED_VALUES = 8_000_000


@dataclass(frozen=True)
class Batch:
    """Some samples: `x` float [b, c, h, w], normalised, after the view; `y` and `index` in `Samples`, int64 [b]."""

    x: Tensor
    y: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.y)


class Samples:
    """A part of the data set on one device.

    `y` holds the labels, int64 [n]; -1 throughout for unlabelled samples, whose true labels stand in `truth` for
    diagnostics only: a method that trained on `truth` would not be semi-supervised.
    """

    def __init__(
        self,
        images: NDArray[Any],
        labels: NDArray[Any],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        labelled: bool = True,
    ) -> None:
        # A copy: the arrays may be read-only memory that other processes share.
        self._bytes = torch.from_numpy(images.copy()).to(device)
        self.truth = torch.from_numpy(labels.copy()).to(device)
        self.y = self.truth if labelled else torch.full_like(self.truth, -1)
        self._mean = torch.tensor(list(mean), device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(list(std), device=device).view(1, -1, 1, 1)
        self._x: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def images(self, index: Tensor) -> Tensor:
        """Give images in [0, 1], float32 [b, c, h, w]: what views work on."""
        return self._bytes[index].float().div_(255)

    def normalize(self, images: Tensor) -> Tensor:
        """Subtract the data set's mean and divide by its standard deviation, channel by channel."""
        return (images - self._mean).div_(self._std)

    def x(self, index: Tensor | slice) -> Tensor:
        """Give normalised images, float32 [b, c, h, w]."""
        if self._x is None and self._bytes.numel() <= _CACHED_VALUES:
            self._x = self.normalize(self._bytes.float().div_(255))
        if self._x is not None:
            return self._x[index]
        return self.normalize(self._bytes[index].float().div_(255))

    def batch(self, index: Tensor) -> Batch:
        """Give the samples at `index` (int64 [b]) without a view."""
        return Batch(self.x(index), self.y[index], index)
