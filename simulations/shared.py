"""Memory that processes share by handing down a file descriptor: it has no name, so nothing is left when they die."""

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedbox")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Block:
    """A piece of shared memory that its one writer may let grow. Readers map it anew when it has grown."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _anonymous_file() if fd is None else fd
        self._map: mmap.mmap | None = None
        self._size = 0

    def room(self, size: int) -> memoryview:
        """Give at least `size` writable bytes, enlarging the block when needed. For the writer only."""
        if size > self._size:
            os.ftruncate(self.fd, max(size, 2 * self._size))
            self._remap()
        assert self._map is not None
        return memoryview(self._map)

    def view(self, size: int) -> memoryview:
        """Give the bytes for reading; `size` is how many the writer says there are."""
        if size > self._size:
            self._remap()
        if size == 0:
            return memoryview(b"")
        assert self._map is not None
        return memoryview(self._map)[:size]

    def _remap(self) -> None:
        # The old map is not closed: arrays may still look into it. It goes when they do.
        self._size = os.fstat(self.fd).st_size
        self._map = mmap.mmap(self.fd, self._size)

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.fd)


Layout = dict[str, tuple[str, tuple[int, ...], int]]


def put(arrays: dict[str, NDArray[np.generic]], block: Block) -> Layout:
    """Copy arrays into a block; give name -> (type, shape, offset)."""
    layout: Layout = {}
    offset = 0
    for name, value in arrays.items():
        layout[name] = (value.dtype.str, value.shape, offset)
        offset += -(-value.nbytes // 64) * 64
    room = block.room(max(offset, 1))
    for name, value in arrays.items():
        kind, shape, start = layout[name]
        np.frombuffer(room, kind, value.size, start).reshape(shape)[...] = value
    return layout


def get(block: Block, layout: Layout) -> dict[str, NDArray[np.generic]]:
    """Give the arrays of a block, without copying, read-only."""
    found: dict[str, NDArray[np.generic]] = {}
    for name, (kind, shape, offset) in layout.items():
        size = int(np.prod(shape, dtype=np.int64))
        data = block.view(offset + size * np.dtype(kind).itemsize)
        value = np.frombuffer(data, kind, size, offset).reshape(shape)
        value.flags.writeable = False
        found[name] = value
    return found


class LocalBlock(Block):
    """The same over one array of bytes: what travels by other means than a descriptor, such as an object store."""

    def __init__(self, data: NDArray[np.uint8] | None = None) -> None:
        self.data = np.empty(0, np.uint8) if data is None else data

    def room(self, size: int) -> memoryview:
        """Give `size` writable bytes, new ones each time: whoever holds the former ones keeps them."""
        self.data = np.empty(size, np.uint8)
        return self.data.data

    def view(self, size: int) -> memoryview:
        """Give the first `size` bytes."""
        return self.data.data[:size]

    def close(self) -> None:
        """Let go of the bytes."""
        self.data = np.empty(0, np.uint8)
