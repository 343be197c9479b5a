"""Images that stay in a file: chosen rows of a mapped array, read when they are asked for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import Int64Array, UInt8Array


@dataclass(frozen=True, eq=False)
class Rows:
    """Some images of a .npy file, uint8 [n, c, h, w], in any order.

    An index reads: `rows[index]` gives an array in memory, [c, h, w] for a number, [m, c, h, w] for a slice or for
    int64 [m]. `take` chooses and reads nothing.

    path: the file, absolute. mapped: its array. index: int64, [n]; row i is the file's image index[i].
    """

    path: Path
    mapped: UInt8Array
    index: Int64Array

    @classmethod
    def open(cls, path: Path, index: Int64Array | None = None) -> "Rows":
        """Map a file; `index` chooses its rows, by default all of them.

        Raises OSError where the file cannot be read, ValueError where it is damaged or holds something else.
        """
        mapped = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if mapped.dtype != np.uint8 or mapped.ndim != 4:
            raise ValueError(f"{path} holds {mapped.dtype} {mapped.shape}; wanted uint8 [n, c, h, w]")
        return cls(path.resolve(), mapped, np.arange(len(mapped)) if index is None else index)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of images, channels, height, width."""
        channels, height, width = self.mapped.shape[1:]
        return len(self.index), channels, height, width

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | slice | Int64Array) -> UInt8Array:
        images: UInt8Array = np.take(self.mapped, self.index[key], axis=0)
        return images

    def take(self, indices: Int64Array) -> "Rows":
        """Return the images at `indices` (int64, [m]), in that order, without reading them."""
        return Rows(self.path, self.mapped, self.index[indices])
