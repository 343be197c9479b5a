"""Images with boxes, in memory or mapped from a file: the two value types that every detection reader returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .arrays import DataError, Int64Array, UInt8Array, _check_array, check_constants, check_shapes_and_classes
from .rows import Rows

Float32Array = NDArray[np.float32]

_FIELDS = (
    ("images", np.uint8, 4),
    ("boxes", np.float32, 2),
    ("box_labels", np.int64, 1),
    ("offsets", np.int64, 1),
)


@dataclass(frozen=True, eq=False)
class Regions:
    """Places in n images where what is found counts neither way: crowds, groups, difficult objects.

    boxes: float32, [k, 4]; labels: int64, [k]; offsets: int64, [n + 1], as in `BoxData`.
    """

    boxes: Float32Array
    labels: Int64Array
    offsets: Int64Array

    def take(self, indices: Int64Array) -> "Regions":
        """Return those of the images at `indices` (int64, [m]), in that order."""
        rows, offsets = _rows(self.offsets, indices)
        return Regions(self.boxes[rows], self.labels[rows], offsets)


def offsets_of(counts: Int64Array) -> Int64Array:
    """Return where the boxes of each image begin, int64 [n + 1], from the number that each image has, [n]."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _rows(offsets: Int64Array, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the places of the boxes of some images, and the offsets of these images by themselves."""
    counts = np.diff(offsets)[indices]
    own = offsets_of(counts)
    # Each image's start, counted up.
    return np.repeat(offsets[:-1][indices] - own[:-1], counts) + np.arange(own[-1]), own


@dataclass(frozen=True, eq=False)
class BoxData:
    """Images with any number of boxes each.

    images: uint8, [n, c, h, w], values 0..255; as `Rows` they stay in their file until they are indexed.
    boxes: float32, [m, 4], x1, y1, x2, y2 in pixels of the image; 0 is the left or upper edge of the first
    pixel, w or h the far edge of the last one. Each lies inside its image and has an area.
    box_labels: int64, [m], each at least 0.
    offsets: int64, [n + 1]; image i has the boxes offsets[i]:offsets[i + 1].
    attributes: natural keys (weather, town), name to an array [n].
    names: str, [n], the file each image came from; None where there is none.
    annotated: bool, [n], whether annotations speak of the image, though they may mark nothing; None for all.
    ignored: regions where what is found counts neither way; None where there are none.

    Raises DataError if a type, a shape, a length or a value does not fit.
    """

    images: UInt8Array | Rows
    boxes: Float32Array
    box_labels: Int64Array
    offsets: Int64Array
    attributes: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    names: NDArray[np.str_] | None = None
    annotated: NDArray[np.bool_] | None = None
    ignored: Regions | None = None

    def __post_init__(self) -> None:
        for name, dtype, ndim in _FIELDS:
            if not isinstance(getattr(self, name), Rows):
                _check_array(name, getattr(self, name), np.dtype(dtype), ndim)
        self._check_lengths()
        self._check_values()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def counts(self) -> Int64Array:
        """Boxes of each image, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Int64Array:
        """The image of each box, int64 [m], ascending."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    @property
    def labels(self) -> Int64Array:
        """One class for each image, int64 [n], for partitions and roles that go by class.

        It is the class with most boxes in the image, the lower on a tie, and 0 where there is no box.
        """
        classes = int(self.box_labels.max()) + 1 if len(self.box_labels) else 1
        votes = np.bincount(self.owners * classes + self.box_labels, minlength=len(self) * classes)
        most: Int64Array = votes.reshape(len(self), classes).argmax(1).astype(np.int64)
        return most

    def of(self, index: int) -> tuple[Float32Array, Int64Array]:
        """Return the boxes, float32 [k, 4], and labels, int64 [k], of an image; raise DataError if it is not there."""
        if not 0 <= index < len(self):
            raise DataError(f"image {index} does not exist; there are images 0..{len(self) - 1}")
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[part], self.box_labels[part]

    def take(self, indices: Int64Array) -> "BoxData":
        """Return the images at `indices` (int64, [m]), in that order, with their boxes and attributes.

        Images in memory are copied; those in a file stay there.
        """
        rows, offsets = _rows(self.offsets, indices)
        return BoxData(
            self.images.take(indices) if isinstance(self.images, Rows) else self.images[indices],
            self.boxes[rows],
            self.box_labels[rows],
            offsets,
            {name: values[indices] for name, values in self.attributes.items()},
            None if self.names is None else self.names[indices],
            None if self.annotated is None else self.annotated[indices],
            None if self.ignored is None else self.ignored.take(indices),
        )

    def _check_lengths(self) -> None:
        count, total = len(self.images), len(self.boxes)
        if self.boxes.shape[1] != 4:
            raise DataError(f"boxes must be [m, 4] (x1, y1, x2, y2), got {self.boxes.shape}")
        if len(self.box_labels) != total:
            raise DataError(f"{total} boxes but {len(self.box_labels)} labels: give one label a box")
        if len(self.offsets) != count + 1:
            raise DataError(f"{count} images need {count + 1} offsets, got {len(self.offsets)}")
        if self.offsets[0] != 0 or self.offsets[-1] != total or (np.diff(self.offsets) < 0).any():
            raise DataError(f"offsets must rise from 0 to the {total} boxes")
        columns = {f"attribute {name!r}": values for name, values in self.attributes.items()}
        columns |= {} if self.names is None else {"names": self.names}
        columns |= {} if self.annotated is None else {"annotated": self.annotated}
        for name, values in columns.items():
            if np.shape(values) != (count,):
                raise DataError(f"{name} has shape {np.shape(values)}; one value for each of {count} images is needed")

    def _check_values(self) -> None:
        if len(self.box_labels) and self.box_labels.min() < 0:
            row = int(np.argmin(self.box_labels))
            raise DataError(f"label {self.box_labels[row]} of box {row} is negative: labels start at 0")
        height, width = self.images.shape[2:]
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        # Written so that a NaN fails it.
        fits = (low >= 0).all(1) & (high <= (width, height)).all(1) & (high > low).all(1)
        if not fits.all():
            row = int(np.argmin(fits))
            image = int(np.searchsorted(self.offsets, row, "right")) - 1
            raise DataError(
                f"box {row} (of image {image}) is {self.boxes[row].tolist()}; x1 < x2 <= {width} and "
                f"y1 < y2 <= {height} are needed, all at least 0"
            )


@dataclass(frozen=True, eq=False)
class BoxSet:
    """A named detection data set with its own test part.

    classes: the name of each label, label 0 first.
    mean, std: known constants for each channel on the scale 0..1, never computed from what clients hold.

    Raises DataError if the parts disagree in shape, a label has no class, or a constant is missing.
    """

    name: str
    train: BoxData
    test: BoxData
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_shapes_and_classes(self.name, self.train.images.shape, self.test.images.shape, self.classes)
        for part, data in (("train", self.train), ("test", self.test)):
            if len(data.box_labels) and int(data.box_labels.max()) >= len(self.classes):
                row = int(np.argmax(data.box_labels))
                raise DataError(
                    f"{self.name}: label {data.box_labels[row]} of {part} box {row} is out of range; "
                    f"{len(self.classes)} classes allow 0..{len(self.classes) - 1}"
                )
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise DataError(f"{self.name}: mean {self.mean} and std {self.std} need one value for each channel")
        check_constants(self.name, self.mean, self.std)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width
