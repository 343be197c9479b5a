"""From pictures with marks to images of one size with boxes.

A picture is scaled to fit into the wanted size, keeps its proportions and lies in the middle of grey
margins; its boxes move along. A box that reaches out of its picture is clipped; one that then has no area
is bad.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from .annotations import (
    UNKNOWN,
    BadBoxes,
    BoxSize,
    CacheFolder,
    Mark,
    Picture,
    check_distinct,
    check_present,
    limited,
    listed,
)
from .arrays import DataError, Int64Array, UInt8Array
from .boxes_data import BoxData, Float32Array, Regions, offsets_of
from .cores import cores
from .image_cache import FORMAT, Extent, cached_images
from .pictures import opened
from .progress import progress
from .rows import Rows
from .trees import Tree

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_MARGIN = 114
_NO_AREA = "has no area (x1 < x2 and y1 < y2 are needed)"


@dataclass(frozen=True)
class Framing:
    """How pictures become images of one size, what happens to their boxes, and where the images are kept.

    cache: a folder for the images, from which they are mapped; None keeps them in memory.
    """

    size: BoxSize
    min_side: float
    bad_boxes: BadBoxes
    cache: CacheFolder = None

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def parts(
        self, tree: Tree, train: Sequence[Picture], test: Sequence[Picture], limits: tuple[int | None, int | None]
    ) -> tuple[BoxData, BoxData]:
        """Give both parts, each limited, with the same attributes.

        Raises DataError for pictures that are missing, or that are given twice, and for what `build` does.
        """
        if not train:
            raise DataError(f"{tree.place} has no train pictures")
        check_present(tree, [*train, *test])
        check_distinct(tree, {"train": train, "test": test})
        names = sorted({name for picture in [*train, *test] for name in picture.attributes})
        kept = limited(train, limits[0], "train"), limited(test, limits[1], "test")
        self._check_marks([*kept[0], *kept[1]])
        return self.build(tree, kept[0], names, "train"), self.build(tree, kept[1], names, "test")

    def build(self, tree: Tree, pictures: Sequence[Picture], attributes: Sequence[str], part: str) -> BoxData:
        """Decode pictures, or map what the cache holds of them, and move their boxes along.

        Boxes with a side under min_side pixels afterwards are left out. Raises DataError for a picture that
        does not decode or has another size than claimed, unless bad_boxes is "drop" for bad boxes, and for
        images that fit neither into memory nor into the cache.
        """
        images, sizes = self._images(tree, pictures, part)
        boxes, labels, owners, ignored = self._boxes(pictures, sizes)
        marked, others = (
            (boxes[which], labels[which], offsets_of(np.bincount(owners[which], minlength=len(pictures))))
            for which in (~ignored, ignored)
        )
        columns = {
            name: np.array([picture.attributes.get(name, UNKNOWN) for picture in pictures], np.str_)
            for name in attributes
        }
        return BoxData(
            images,
            *marked,
            columns,
            np.array([picture.path for picture in pictures], np.str_),
            np.array([picture.annotated for picture in pictures], bool),
            Regions(*others) if ignored.any() else None,
        )

    def _check_marks(self, pictures: Sequence[Picture]) -> None:
        """Raise DataError for bad boxes, unless they are to be left out, before the hours that decoding may take.

        Where annotations do not claim the size of a picture, only boxes without area are known to be bad.
        """
        if self.bad_boxes == "drop":
            return
        claims = [(picture, picture.size) for picture in pictures if picture.size is not None]
        self._boxes([picture for picture, _ in claims], [size for _, size in claims])
        marks = [mark for picture in pictures if picture.size is None for mark in picture.marks]
        empty = _empty(np.array([mark.corners for mark in marks], np.float64).reshape(-1, 2, 2))
        self._tell([_fault(marks[row], np.array(marks[row].corners), _NO_AREA) for row in np.flatnonzero(empty)])

    def _images(self, tree: Tree, pictures: Sequence[Picture], part: str) -> tuple[UInt8Array | Rows, Sequence[Extent]]:
        """Return the images, uint8 [n, 3, h, w], and the (width, height) of each picture."""
        shape = len(pictures), 3, *self.frame

        def frames() -> Iterator[tuple[UInt8Array, Extent]]:
            decoded = _in_order(partial(self._framed, tree), pictures)
            return progress(decoded, f"decoding {tree.dataset} {part}", len(pictures))

        if self.cache is not None and pictures:
            name = f"{tree.dataset}-{part}-{shape[2]}x{shape[3]}-{self._fingerprint(tree, pictures)}"
            images, sizes = cached_images(self.cache, name, shape, frames)
            for picture, size in zip(pictures, sizes, strict=True):
                _check_size(picture, size)
            return images, sizes
        _check_memory(tree, shape)
        stack, sizes = np.empty(shape, np.uint8), []
        for row, (image, size) in enumerate(frames()):
            stack[row] = image
            sizes.append(size)
        return stack, sizes

    def _framed(self, tree: Tree, picture: Picture) -> tuple[UInt8Array, Extent]:
        decoded = opened(tree.read(picture.path), tree.full(picture.path), 3, picture.turns)
        _check_size(picture, decoded.size)
        return letterbox(decoded, self.frame), decoded.size

    def _fingerprint(self, tree: Tree, pictures: Sequence[Picture]) -> str:
        """Return a digest of all that the pixels depend on."""
        from PIL import __version__ as pillow

        digest = sha256(repr((FORMAT, pillow, self.frame, tree.origin)).encode())
        for picture in pictures:
            # The claimed size and whether there is one decide how the picture is turned.
            told = picture.path, tree.stamp(picture.path), picture.size, picture.annotated
            digest.update(repr(told).encode())
        return digest.hexdigest()[:24]

    def _boxes(
        self, pictures: Sequence[Picture], sizes: Sequence[Extent]
    ) -> tuple[Float32Array, Int64Array, Int64Array, NDArray[np.bool_]]:
        """Return the boxes that are good and large enough, float32 [m, 4], their labels, pictures and whether ignored.

        Raises DataError for bad boxes, unless they are to be left out.
        """
        marks = [mark for picture in pictures for mark in picture.marks]
        counts = np.array([len(picture.marks) for picture in pictures], np.int64)
        owners = np.repeat(np.arange(len(pictures)), counts)
        corners = np.array([mark.corners for mark in marks], np.float64).reshape(-1, 2, 2)
        extents = np.array(sizes, np.float64).reshape(-1, 1, 2)[owners]
        fits = [fit(size, self.frame) for size in sizes]
        scales = np.array([new for new, _ in fits], np.float64).reshape(-1, 1, 2)[owners] / extents
        shifts = np.array([shift for _, shift in fits], np.float64).reshape(-1, 1, 2)[owners]
        shares = np.array([picture.shares for picture in pictures], bool)[owners]
        corners = corners * np.where(shares[:, None, None], extents, 1)
        empty = _empty(corners)
        clipped = np.clip(corners, 0, extents)
        outside = np.asarray((clipped[:, 1] <= clipped[:, 0]).any(1))
        moved = (clipped * scales + shifts).astype(np.float32)
        bad = empty | (moved[:, 1] <= moved[:, 0]).any(1)
        faults = []
        for row in np.flatnonzero(bad):
            fault = f"is too thin to have an area in images of {self.frame[1]} x {self.frame[0]} pixels"
            if empty[row]:
                fault = _NO_AREA
            elif outside[row]:
                fault = "lies outside its picture of {} x {} pixels".format(*sizes[owners[row]])
            faults.append(_fault(marks[row], corners[row], fault))
        self._tell(faults)
        sides = np.diff(moved.astype(np.float64), axis=1).min((1, 2))
        kept = np.flatnonzero(~bad & (sides >= self.min_side))
        labels = np.array([mark.label for mark in marks], np.int64)[kept]
        ignored = np.array([mark.ignored for mark in marks], bool)[kept]
        return moved[kept].reshape(-1, 4), labels, owners[kept], ignored

    def _tell(self, faults: Sequence[str]) -> None:
        if not faults:
            return
        if self.bad_boxes == "error":
            raise DataError(f"{len(faults)} bad box(es); set bad_boxes: drop to leave them out: {listed(faults)}")
        log.warning("%d bad box(es) left out: %s", len(faults), listed(faults))


@lru_cache(1024)
def fit(size: Extent, frame: tuple[int, int]) -> tuple[Extent, Extent]:
    """Fit a picture of (width, height) into a frame (height, width); return its new size and its left and top there.

    Proportions are kept but for the rounding to whole pixels: new = old * new size / size + (left, top).
    """
    width, height = size
    ratio = min(frame[0] / height, frame[1] / width)
    new = max(round(width * ratio), 1), max(round(height * ratio), 1)
    return new, ((frame[1] - new[0]) // 2, (frame[0] - new[1]) // 2)


def unfit(boxes: NDArray[np.floating], size: Extent, frame: tuple[int, int]) -> NDArray[np.float64]:
    """Turn boxes [n, 4] of a frame (height, width) back into those of its picture of (width, height), clipped to it."""
    new, shift = fit(size, frame)
    corners = (boxes.astype(np.float64).reshape(-1, 2, 2) - shift) * size / new
    return np.clip(corners, 0, size).reshape(-1, 4)


def letterbox(picture: "Image", frame: tuple[int, int]) -> UInt8Array:
    """Return a picture of mode RGB fitted into `frame` (height, width), on grey, uint8 [3, *frame]."""
    from PIL import Image

    new, (left, top) = fit(picture.size, frame)
    image = np.full((3, *frame), _MARGIN, np.uint8)
    if new != picture.size:
        picture = picture.resize(new, Image.Resampling.BILINEAR)
    image[:, top : top + new[1], left : left + new[0]] = np.asarray(picture).transpose(2, 0, 1)
    return image


def _in_order(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield work(item) for each item, in order; threads run a few items ahead, for Pillow decodes without the GIL."""
    waiting: deque[Future[R]] = deque()
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _empty(corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each box, [n, 2, 2], whether it has no area."""
    return np.asarray((~np.isfinite(corners) | (corners[:, 1:] <= corners[:, :1])).any((1, 2)))


def _fault(mark: Mark, corners: NDArray[np.float64], fault: str) -> str:
    return f"{mark.where}: box {[round(float(value), 2) for value in corners.ravel()]} {fault}"


def _check_size(picture: Picture, size: Extent) -> None:
    if picture.size is not None and picture.size != size:
        raise DataError(
            f"{picture.where}: {picture.path} is {size[0]} x {size[1]} (width x height) but the annotations say "
            f"{picture.size[0]} x {picture.size[1]}; are they those of other pictures?"
        )


def _check_memory(tree: Tree, shape: tuple[int, ...]) -> None:
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if prod(shape) > there:
        raise DataError(
            f"{tree.place}: {shape[0]:,} images need {prod(shape):,} bytes of memory, this machine has {there:,}; "
            "give a folder as cache, a smaller size or a limit"
        )
