"""The cut-outs of which `scenes` are made: drawn from polygons once, kept at many sizes.

A cut-out says of each pixel how much of it is of which material. Its outline touches all four sides, so
that the place of a cut-out is its exact box.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .scene_shapes import DRAWINGS, Shape

Float32 = NDArray[np.float32]

MATERIALS = 7
_DRAWN = 96  # height or width in pixels, whichever is longer, of the largest size kept
_LEVELS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24)


class Sprite(NamedTuple):
    """A cut-out: its size in metres, and float32 [h, w, 7] shares of each material at falling sizes."""

    width: float
    height: float
    levels: tuple[Float32, ...]

    def at(self, height: int, width: int, rows: range, columns: range, mirrored: bool) -> Float32:
        """Return a window of the cut-out at a size in pixels, float32 [rows, columns, 7], from the next larger size."""
        chosen = self.levels[0]
        for level in self.levels:
            if level.shape[0] < height or level.shape[1] < width:
                break
            chosen = level
        across = np.arange(columns.start, columns.stop)
        across = (width - 1 - across if mirrored else across) * 2 + 1
        down = np.arange(rows.start, rows.stop) * 2 + 1
        sources = down * chosen.shape[0] // (2 * height), across * chosen.shape[1] // (2 * width)
        window: Float32 = chosen[sources[0]].take(sources[1], 1)
        return window


@cache
def sprite(name: str) -> Sprite:
    """Return a cut-out by its name, drawn at the first call."""
    width, height, shapes = DRAWINGS[name]
    scale = _DRAWN / max(width, height)
    rows, columns = max(round(height * scale), 8), max(round(width * scale), 8)
    drawn = _trimmed(_draw(shapes, 2 * rows, 2 * columns))
    shares = np.eye(MATERIALS + 1, dtype=np.float32)[drawn, :MATERIALS]
    sizes = [(max(round(rows / level), 1), max(round(columns / level), 1)) for level in _LEVELS]
    return Sprite(width, height, tuple(_shrunk(shares, *size) for size in sizes))


def _draw(shapes: Sequence[Shape], rows: int, columns: int) -> NDArray[np.int64]:
    """Return the material of each pixel, [rows, columns], -1 where there is none."""
    drawn = np.full((rows, columns), -1, np.int64)
    for material, points in shapes:
        xs, ys = zip(*points, strict=True)
        top, left = max(int(min(ys) * rows), 0), max(int(min(xs) * columns), 0)
        part = drawn[top : int(max(ys) * rows) + 1, left : int(max(xs) * columns) + 1]
        y = (np.arange(top, top + part.shape[0]) + 0.5)[:, None] / rows
        x = (np.arange(left, left + part.shape[1]) + 0.5)[None] / columns
        # Even-odd rule: a pixel is inside if a ray to the right crosses the outline an odd number of times.
        inside = np.zeros(part.shape, bool)
        for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
            if y1 != y2:
                inside ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        part[inside] = material
    return drawn


def _trimmed(drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    rows, columns = (np.flatnonzero((drawn >= 0).any(axis)) for axis in (1, 0))
    return drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _shrunk(shares: Float32, rows: int, columns: int) -> Float32:
    """Average over blocks that differ by at most a pixel."""
    for axis, new in ((0, rows), (1, columns)):
        starts = np.arange(new) * shares.shape[axis] // new
        counts = np.diff(starts, append=shares.shape[axis]).astype(np.float32)
        shares = np.add.reduceat(shares, starts, axis) / counts.reshape((-1,) + (1,) * (2 - axis))
    return np.ascontiguousarray(shares)
