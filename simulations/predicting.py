"""A finished model as it is used: pictures in, classes or boxes out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..configs import Config
from ..data.arrays import DataError, UInt8Array
from ..data.files import read_bytes
from ..data.inputs import Inputs
from ..data.pictures import loaded, upright
from ..models.detections import ObjectDetector
from ..strategies.contract import Metrics, Samples, Site

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = Union[str, Path, "Image"]
Size = tuple[int, int]
Measure = Callable[[Site, Samples], Metrics]

BATCH = 16
"""Pictures that are predicted at a time."""
SCORE = 0.3
"""Boxes with a score above this are told, unless another threshold is given."""


@dataclass(frozen=True)
class Found:
    """What a model sees in a picture.

    category: the name of the class; category_id: its number, as in `FinishedModel.classes`. score: within 0 and 1.
    bbox: x, y, width, height in pixels of the picture, x and y those of the left upper corner; None for a class of the
    whole picture.
    """

    category: str
    category_id: int
    score: float
    bbox: tuple[float, float, float, float] | None = None


class FinishedModel:
    """The model of a run, as `fedbox.load` gives it.

    config: the run's configuration. round: the last one that the model has seen. note: what to know of it, such as
    that the run has not ended; empty where there is nothing. inputs: the shape, the constants and the classes.
    """

    def __init__(self, config: Config, inputs: Inputs, site: Site, measure: Measure, note: str = "") -> None:
        self.config, self.inputs, self.note, self.round = config, inputs, note, site.round
        self._site, self._measure = site, measure
        self._blank = samples_of(inputs, site.device)

    def __repr__(self) -> str:
        kind = f"{self.config.strategy}, {self.config.model.name}, round {self.round}"
        return f"FinishedModel({kind}, {len(self.classes)} classes{f', note={self.note!r}' if self.note else ''})"

    @property
    def model(self) -> nn.Module:
        """The network on its device, in eval mode.

        A classifier maps normalised images, float32 [n, channels, height, width], to logits [n, classes]; a detector is
        an `ObjectDetector`, whose `detect` gives boxes in pixels of these images.
        """
        return self._site.model.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class, in the order of their numbers."""
        return self.inputs.classes

    @property
    def boxed(self) -> bool:
        """Whether it finds boxes; otherwise it gives one class to each picture."""
        return self.inputs.task == "boxes"

    def predict(self, images: Sequence[Picture] | Tensor, *, threshold: float | None = None) -> list[list[Found]]:
        """Say what is in each image: its likeliest class, or the boxes of a detector, best first.

        images: paths of pictures, or Pillow images, which are turned upright, resized and normalised as those of the
            run; or a floating-point tensor [n, channels, height, width] of values within 0 and 1, of the run's shape,
            not normalised yet.
        threshold: what has no score above it, within 0 and 1, is left out; by default 0.3 for boxes, 0 for a class.

        Boxes are in pixels of the picture as given, upright; of a tensor in its own. Raises DataError for a picture
        that cannot be read or does not decode, which it names, for a model of sentences, and for a tensor of another
        kind; ValueError for a threshold that is not within 0 and 1.
        """
        if threshold is None:
            threshold = SCORE if self.boxed else 0.0
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold!r}; wanted: a number within 0 and 1")
        self.inputs.check_pictures()
        if isinstance(images, str | Path):  # a text is a sequence, of letters
            raise DataError(f"images is one path; wanted: a list of pictures, as [{str(images)!r}]")
        found: list[list[Found]] = []
        for x, sizes in self._tensors(images) if isinstance(images, Tensor) else self._pictures(images):
            found += self._boxes(x, sizes, threshold) if self.boxed else self._classes(x, threshold)
        return found

    def measure(self, samples: Samples, batch_size: int) -> Metrics:
        """Measure the model as the run does; see `finished.evaluate`."""
        self._site.batch_size = batch_size
        return self._measure(self._site, samples)

    def _pictures(self, images: Sequence[Picture]) -> Iterator[tuple[Tensor, list[Size]]]:
        """Give normalised images, some at a time, and the (width, height) of their pictures."""
        for start in range(0, len(images), BATCH):
            batch = [
                opened(image, f"image {start + place}") for place, image in enumerate(images[start : start + BATCH])
            ]
            pixels = np.stack([self.inputs.image(picture, name) for picture, name in batch])
            yield (
                samples_of(self.inputs, self._site.device, pixels).x(slice(None)),
                [picture.size for picture, _ in batch],
            )

    def _tensors(self, images: Tensor) -> Iterator[tuple[Tensor, list[Size]]]:
        shape = self.inputs.shape
        if images.shape[1:] != shape or not images.is_floating_point():
            raise DataError(f"the images are {images.dtype} {list(images.shape)}; wanted floats [n, {shape}]")
        if len(images) and not (images.min() >= 0 and images.max() <= 1):  # written so that a NaN fails it
            raise DataError(
                f"the images have values from {float(images.min()):g} to {float(images.max()):g}; wanted: within 0 and "
                "1, not normalised"
            )
        for part in torch.split(images, BATCH) if len(images) else ():
            x = self._blank.normalize(part.to(self._site.device, torch.float32))
            yield x, [(shape[2], shape[1])] * len(part)

    @torch.no_grad()
    def _classes(self, x: Tensor, threshold: float) -> list[list[Found]]:
        scores, labels = self.model(x).softmax(1).max(1)
        found = zip(scores.tolist(), labels.tolist(), strict=True)
        return [[Found(self.classes[label], label, score)] if score > threshold else [] for score, label in found]

    def _boxes(self, x: Tensor, sizes: Sequence[Size], threshold: float) -> list[list[Found]]:
        found = []
        for each, size in zip(cast(ObjectDetector, self.model).detect(x, threshold), sizes, strict=True):
            corners = self.inputs.boxes(each.boxes.cpu().numpy(), size)
            rows = zip(corners.tolist(), each.labels.tolist(), each.scores.tolist(), strict=True)
            found.append(
                [
                    Found(self.classes[label], label, score, (x1, y1, x2 - x1, y2 - y1))
                    for (x1, y1, x2, y2), label, score in rows
                    if x1 < x2 and y1 < y2  # what lies in the grey margins alone is no part of the picture
                ]
            )
        return found


def samples_of(inputs: Inputs, device: torch.device, images: UInt8Array | None = None) -> Samples:
    """Give images, uint8 [n, channels, height, width], as samples without labels; without images none."""
    images = np.zeros((0, *inputs.shape), np.uint8) if images is None else images
    labels = np.zeros(len(images), np.int64)
    return Samples(images, labels, mean=inputs.mean, std=inputs.std, device=device, labelled=False)


def opened(image: Picture, name: str) -> tuple["Image", str]:
    """Give a picture, turned as its EXIF data say, and what to call it: its path, or `name`. Raises DataError."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return upright(image), name
    if not isinstance(image, str | Path):
        raise DataError(f"{name} is a {type(image).__name__}; wanted: a path, a Pillow image, or all as one tensor")
    return loaded(read_bytes(Path(image)), str(image)), str(image)
