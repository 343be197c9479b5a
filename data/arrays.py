"""Image data held in memory: the two value types every reader returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]


class DataError(ValueError):
    """Data that cannot be read, or a wish about data that cannot be granted."""

    exit_code = 3


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images with one label each.

    images: uint8, [n, c, h, w], values 0..255.
    labels: int64, [n], each at least 0.
    attributes: natural keys (domain, weather, town), name to an array [n].

    Raises DataError if a type, a shape or a length does not fit.
    """

    images: UInt8Array
    labels: Int64Array
    attributes: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_array("images", self.images, np.dtype(np.uint8), 4)
        _check_array("labels", self.labels, np.dtype(np.int64), 1)
        if len(self.labels) != len(self.images):
            raise DataError(f"{len(self.images)} images but {len(self.labels)} labels: give one label an image")
        if len(self.labels) and self.labels.min() < 0:
            row = int(np.argmin(self.labels))
            raise DataError(f"label {self.labels[row]} of image {row} is negative: labels start at 0")
        for name, values in self.attributes.items():
            if np.shape(values) != (len(self.images),):
                raise DataError(
                    f"attribute {name!r} has shape {np.shape(values)}; one value for each of the "
                    f"{len(self.images)} images is needed"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Int64Array) -> "ImageData":
        """Return the samples at `indices` (int64, [m]), in that order, with their attributes."""
        attributes = {name: values[indices] for name, values in self.attributes.items()}
        return ImageData(self.images[indices], self.labels[indices], attributes)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named data set with its own test part.

    classes: the name of each label, label 0 first.
    mean, std: known constants for each channel on the scale 0..1. They belong to the data set and are
    never computed from what clients hold, so that normalising an image reveals nothing about them.

    Raises DataError if the parts disagree in shape, a label has no class, or a constant is missing.
    """

    name: str
    train: ImageData
    test: ImageData
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_shapes_and_classes(self.name, self.train.images.shape, self.test.images.shape, self.classes)
        for part, data in (("train", self.train), ("test", self.test)):
            if len(data) and int(data.labels.max()) >= len(self.classes):
                row = int(np.argmax(data.labels))
                raise DataError(
                    f"{self.name}: label {data.labels[row]} of {part} image {row} is out of range; "
                    f"{len(self.classes)} classes allow 0..{len(self.classes) - 1}"
                )
        channels = self.shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise DataError(
                f"{self.name}: mean {self.mean} and std {self.std} need one value for each of {channels} channel(s)"
            )
        check_constants(self.name, self.mean, self.std)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


@dataclass(frozen=True, eq=False)
class TextSet(DataSet):
    """Sentences that go the ways of images, as tokens in [n, channels, 1, length]: there are no views of them."""


def _check_array(name: str, values: object, dtype: np.dtype[np.generic], ndim: int) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != dtype or values.ndim != ndim:
        given = f"{values.dtype} with shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{name} must be a {dtype} array with {ndim} axes, got {given}")


def check_shapes_and_classes(
    name: str, train: tuple[int, ...], test: tuple[int, ...], classes: tuple[str, ...]
) -> None:
    """Raise DataError unless the shapes of the parts' images, [n, c, h, w], agree and the class names differ."""
    if train[1:] != test[1:]:
        raise DataError(
            f"{name}: train images are {train[1:]} (channels, height, width), test images {test[1:]}; both must agree"
        )
    if len(set(classes)) != len(classes):
        raise DataError(f"{name}: class names must differ, got {list(classes)}")


def check_constants(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise DataError unless the means lie in 0..1 and the standard deviations above 0."""
    if not all(0 <= value <= 1 for value in mean) or not all(value > 0 for value in std):
        raise DataError(f"{name}: mean {mean} must lie in 0..1 and std {std} above 0")
