"""Samples as a strategy sees them: a participant's part of the data set as tensors, and what is learnt from it.

Samples know their task: `loss` is what a model is trained on and `evaluate` how it is measured. Those of this file are
images, or sentences, with one class each; `box_samples.py` has images with boxes.
"""

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..data.rows import Rows

# Up to this many values a whole part is turned into floats once; larger ones are turned batch by batch.
_CACHED_VALUES = 8_000_000

Metrics = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """Some samples: `x` float [b, c, h, w], normalised, after the view; `index` int64 [b], their places in `Samples`.

    `y` holds the labels: int64 [b] for images with a class; a list of b pairs (boxes [k, 4], labels [k]) for boxes.
    """

    x: Tensor
    y: Any
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


class Samples:
    """Images with one class each, on one device; images of a file (`Rows`) are read batch by batch.

    `y` holds the labels, int64 [n]; -1 throughout for unlabelled samples, whose true labels stand in `truth` for
    diagnostics only: a method that trained on `truth` would not be semi-supervised.
    """

    def __init__(
        self,
        images: NDArray[Any] | Rows,
        labels: NDArray[Any],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        labelled: bool = True,
    ) -> None:
        # What lies in a file stays there; memory that is not the caller's own may be read-only, for others share it.
        if not isinstance(images, Rows) and not (images.flags.owndata and images.flags.writeable):
            images = images.copy()
        self._bytes = images if isinstance(images, Rows) else torch.from_numpy(images).to(device)
        self.known = labelled
        self.truth = torch.from_numpy(labels.copy()).to(device)
        self.y = self.truth if labelled else torch.full_like(self.truth, -1)
        self._mean = torch.tensor(list(mean), device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(list(std), device=device).view(1, -1, 1, 1)
        self._x: Tensor | None = None

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def values(self) -> int:
        """The number of values of one image, channels x height x width."""
        return math.prod(self._bytes.shape[1:])

    def images(self, index: Tensor) -> Tensor:
        """Give images in [0, 1], float32 [b, c, h, w]: what views work on."""
        return self._read(index).float().div_(255)

    def _read(self, index: Tensor | slice) -> Tensor:
        """Give images as they are kept, uint8 [b, c, h, w], on the device."""
        if isinstance(self._bytes, Tensor):
            return self._bytes[index]
        rows = index.cpu().numpy() if isinstance(index, Tensor) else index
        return torch.from_numpy(self._bytes[rows]).to(self.truth.device)

    def normalize(self, images: Tensor) -> Tensor:
        """Subtract the data set's mean and divide by its standard deviation, channel by channel."""
        return (images - self._mean).div_(self._std)

    def x(self, index: Tensor | slice) -> Tensor:
        """Give normalised images, float32 [b, c, h, w]."""
        if self._x is not None:
            return self._x[index]
        if isinstance(self._bytes, Tensor) and self._bytes.numel() <= _CACHED_VALUES:
            self._x = self.normalize(self._bytes.float().div_(255))
            return self._x[index]
        return self.normalize(self._read(index).float().div_(255))

    def batch(self, index: Tensor) -> Batch:
        """Give the samples at `index` (int64 [b]) without a view."""
        return Batch(self.x(index), self.y[index], index)

    def fill(self, index: Tensor, x: Tensor, y: Tensor) -> None:
        """Write the images and labels of `batch(index)` into x [b, c, h, w] and y [b]."""
        if self._x is not None and x.is_contiguous():
            torch.index_select(self._x, 0, index, out=x)
        else:
            x.copy_(self.x(index))
        torch.index_select(self.y, 0, index, out=y)

    def viewed(self, index: Tensor, view: Callable[..., Any], generator: torch.Generator) -> Batch:
        """Give the samples at `index` through a view, `Views.weak` or `Views.strong`."""
        return Batch(self.normalize(view(self.images(index), generator)), self.y[index], index)

    def take(self, index: Tensor) -> Self:
        """Give the samples at `index`, int64 [m], in that order, as samples of their own."""
        part = copy(self)
        rows = self._bytes
        part._bytes = rows[index] if isinstance(rows, Tensor) else rows.take(index.cpu().numpy())
        part.truth, part.y, part._x = self.truth[index], self.y[index], None
        return part

    @staticmethod
    def views(flip: bool, strength: float) -> Any:
        """Give the weak and strong views that fit these samples."""
        from ..data.views import Views

        return Views(flip=flip, strength=strength)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give the supervised loss of a batch, a scalar; here: cross-entropy."""
        return functional.cross_entropy(model(batch.x), batch.y)

    @torch.no_grad()
    def difficulty(self, model: nn.Module, batch_size: int, measure: str = "loss") -> Tensor:
        """Give each sample's loss, float32 [n], or with `error` 0 where the model is right, else 1.

        The samples are labelled, the model is in eval mode.
        """
        found = []
        for index in torch.split(torch.arange(len(self), device=self.truth.device), batch_size):
            scores, y = model(self.x(index)), self.y[index]
            wrong = (scores.argmax(1) != y).float()
            found.append(wrong if measure == "error" else functional.cross_entropy(scores, y, reduction="none"))
        return torch.cat(found)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch_size: int) -> Metrics:
        """Give `accuracy` in [0, 1] and mean cross-entropy `loss`; the model is in eval mode."""
        device = self.truth.device
        right, total = torch.zeros((), dtype=torch.int64, device=device), 0.0
        for index in torch.split(torch.arange(len(self), device=device), batch_size):
            scores, y = model(self.x(index)), self.truth[index]
            right += (scores.argmax(1) == y).sum()
            total += float(functional.cross_entropy(scores, y, reduction="sum"))
        return {"accuracy": float(right) / len(self), "loss": total / len(self)}


class TextSamples(Samples):
    """Sentences with one class each, as tokens where images have their values."""

    @staticmethod
    def views(flip: bool, strength: float) -> Any:
        """Raise TypeError: a mirrored or discoloured sentence is another one, or none."""
        raise TypeError("there are no views of sentences; take train.view=none, and a strategy that makes no views")
