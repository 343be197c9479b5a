"""What the readers of detection data share: how boxes follow a resized picture, and which are bad.

A picture is scaled to fit into the wanted size, keeps its proportions and lies in the middle of grey
margins; its boxes move along. A box that reaches out of its picture is clipped; one that then has no area
is bad.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .arrays import DataError, UInt8Array
from .boxes_data import BoxData
from .draws import generator
from .pictures import decode
from .trees import Tree

log = logging.getLogger(__name__)

Side = Annotated[int, Field(ge=32, multiple_of=32)]
BoxSize = Side | tuple[Side, Side]
BadBoxes = Literal["error", "drop"]
Limit = Annotated[int, Field(ge=1)] | None
TestLimit = Annotated[int, Field(ge=0)] | None
MinSide = Annotated[float, Field(ge=0)]

# Real photographs: the constants of ImageNet.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNKNOWN = "unknown"
_MARGIN = 114
_SHOWN = 5  # faults told in full


@dataclass(frozen=True)
class Mark:
    """One box as its file has it: corners in pixels of the picture (or in shares of its sides), and where."""

    corners: tuple[float, float, float, float]
    label: int
    where: str


@dataclass(frozen=True)
class Picture:
    """One picture as its file has it.

    path: below the root. size: (width, height) as the annotations claim, None where they do not.
    shares: the corners of its marks are shares of its sides. where: the record that speaks of it.
    """

    path: str
    where: str
    marks: Sequence[Mark] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    shares: bool = False


def inside(path: str, where: str) -> str:
    """Return a path below the root in plain form; raise DataError if it leads out of it."""
    plain = PurePosixPath(path.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        raise DataError(f"{where}: picture {path!r} must be a path below the root")
    return plain.as_posix()


def check_present(tree: Tree, pictures: Sequence[Picture]) -> None:
    """Raise DataError that names the pictures which the annotations speak of and which are not there."""
    lost = [picture for picture in pictures if not tree.has(picture.path)]
    if lost:
        told = "; ".join(f"{picture.where}: {picture.path!r}" for picture in lost[:_SHOWN])
        hint = "; are these the annotations of other pictures?" if len(lost) == len(pictures) else ""
        raise DataError(f"{len(lost)} of {len(pictures)} pictures are not in {tree.place}{hint} ({told})")


def limited(pictures: Sequence[Picture], limit: int | None, part: str) -> list[Picture]:
    """Keep `limit` pictures, the first of a fixed shuffle, in their old order; all without a limit."""
    if limit is None or limit >= len(pictures):
        return list(pictures)
    kept = generator(0, f"limit-{part}").permutation(len(pictures))[:limit]
    return [pictures[row] for row in np.sort(kept)]


def chosen_classes(known: Sequence[str], wanted: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the classes to keep, in order: `wanted`, or all; raise DataError for one that is not known."""
    if wanted is None:
        return tuple(known)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise DataError(f"{where} has no class {', '.join(unknown) or '(none wanted)'}; it has {', '.join(known)}")
    return tuple(wanted)


@dataclass(frozen=True)
class Framing:
    """How pictures become images of one size, and what happens to their boxes (see `build`)."""

    size: BoxSize
    min_side: float
    bad_boxes: BadBoxes

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def parts(
        self, tree: Tree, train: Sequence[Picture], test: Sequence[Picture], limits: tuple[int | None, int | None]
    ) -> tuple[BoxData, BoxData]:
        """Decode both parts, each limited, with the same attributes."""
        if not train:
            raise DataError(f"{tree.place} has no train pictures")
        check_present(tree, [*train, *test])
        names = sorted({name for picture in [*train, *test] for name in picture.attributes})
        kept = limited(train, limits[0], "train"), limited(test, limits[1], "test")
        return self.build(tree, kept[0], names), self.build(tree, kept[1], names)

    def build(self, tree: Tree, pictures: Sequence[Picture], attributes: Sequence[str]) -> BoxData:
        """Decode pictures and move their boxes along.

        Boxes with a side under min_side pixels afterwards are left out. Raises DataError for a picture that
        does not decode or has another size than claimed and, unless bad_boxes is "drop", for bad boxes.
        """
        images = np.empty((len(pictures), 3, *self.frame), np.uint8)
        boxes: list[tuple[float, ...]] = []
        labels: list[int] = []
        counts: list[int] = []
        faults: list[str] = []
        for row, picture in enumerate(pictures):
            images[row], move = self._framed(tree, picture)
            before = len(boxes)
            for mark in picture.marks:
                moved, fault = move(mark)
                if fault:
                    faults.append(f"{mark.where}: {fault}")
                elif min(moved[2] - moved[0], moved[3] - moved[1]) >= self.min_side:
                    boxes.append(moved)
                    labels.append(mark.label)
            counts.append(len(boxes) - before)
        self._tell(faults)
        columns = {
            name: np.array([picture.attributes.get(name, UNKNOWN) for picture in pictures], np.str_)
            for name in attributes
        }
        return BoxData(
            images,
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            columns,
            np.array([picture.path for picture in pictures], np.str_),
        )

    def _framed(
        self, tree: Tree, picture: Picture
    ) -> tuple[UInt8Array, Callable[[Mark], tuple[tuple[float, ...], str]]]:
        """Return the image, uint8 [3, h, w], and a function that moves a mark: (corners, fault or "")."""
        pixels = decode(tree.read(picture.path), tree.full(picture.path), 3, None)
        height, width = pixels.shape[1:]
        if picture.size is not None and picture.size != (width, height):
            raise DataError(
                f"{picture.where}: {picture.path} is {width} x {height} (width x height) but the annotations say "
                f"{picture.size[0]} x {picture.size[1]}; are they those of other pictures?"
            )
        image, scale, shift = letterbox(pixels, self.frame)
        extent = np.array((width, height))
        unit = extent if picture.shares else 1

        def move(mark: Mark) -> tuple[tuple[float, ...], str]:
            corners = np.array(mark.corners, np.float64).reshape(2, 2) * unit
            told = f"box {[round(float(value), 2) for value in corners.ravel()]}"
            if not np.isfinite(corners).all() or (corners[1] <= corners[0]).any():
                return (), f"{told} has no area (x1 < x2 and y1 < y2 are needed)"
            moved = (np.clip(corners, 0, extent) * scale + shift).astype(np.float32)
            if (moved[1] <= moved[0]).any():
                return (), f"{told} lies outside its picture of {width} x {height} pixels"
            return tuple(moved.ravel().tolist()), ""

        return image, move

    def _tell(self, faults: Sequence[str]) -> None:
        if not faults:
            return
        told = "; ".join(faults[:_SHOWN]) + (f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")
        if self.bad_boxes == "error":
            raise DataError(f"{len(faults)} bad box(es); set bad_boxes: drop to leave them out: {told}")
        log.warning("%d bad box(es) left out: %s", len(faults), told)


def letterbox(
    pixels: UInt8Array, frame: tuple[int, int]
) -> tuple[UInt8Array, NDArray[np.float64], NDArray[np.float64]]:
    """Fit pixels [c, h, w] into `frame` (height, width), its proportions kept, in the middle of grey margins.

    Returns the image [c, *frame], the scale of x and y, and the shift of x and y: new = old * scale + shift.
    Scales differ by the rounding to whole pixels only.
    """
    from PIL import Image

    height, width = pixels.shape[1:]
    ratio = min(frame[0] / height, frame[1] / width)
    new = max(round(width * ratio), 1), max(round(height * ratio), 1)
    image = np.full((len(pixels), *frame), _MARGIN, np.uint8)
    left, top = (frame[1] - new[0]) // 2, (frame[0] - new[1]) // 2
    if new != (width, height):
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        pixels = np.asarray(picture.resize(new, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    image[:, top : top + new[1], left : left + new[0]] = pixels
    return image, np.array(new) / (width, height), np.array((left, top), np.float64)


def numbers(values: object, count: int, where: str) -> tuple[float, ...]:
    """Return `count` numbers, or raise DataError naming the record."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise DataError(f"{where}: {count} numbers are needed, got {values!r}")
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {count} numbers are needed, got {values!r}") from None


def records(content: object, key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record) of a list of JSON objects; raise DataError for anything else."""
    if not isinstance(content, list):
        raise DataError(f"{where}: {key} must be a list, got {type(content).__name__}")
    for row, record in enumerate(content):
        place = f"{where}: {key}[{row}]"
        if not isinstance(record, dict):
            raise DataError(f"{place} must be an object, got {record!r}")
        yield place, record


def needed(record: Mapping[str, Any], key: str, where: str) -> Any:
    """Return record[key], or raise DataError that names what is missing where."""
    if key not in record:
        raise DataError(f"{where} lacks {key!r}; it has {', '.join(map(str, record)) or 'nothing'}")
    return record[key]


def plain(values: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, str]:
    """Return the single values of a record as attributes, those named in `without` excluded."""
    return {
        str(key): str(value)
        for key, value in values.items()
        if key not in without and isinstance(value, str | int | float) and value != ""
    }
