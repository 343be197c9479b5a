"""Flower messages between processes of one machine: array bytes in shared memory, all else through a pipe.

Both ends are ours and on one machine; what comes through the pipe is trusted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..strategies.base import Array, ArrayRecord, Error, Message, Metadata, RecordDict, arrays_size, remade
from .shared import Block

Layout = list[tuple[str, str, tuple[int, ...], int]]


@dataclass(frozen=True)
class Packed:
    """A message without the bytes of its arrays. `records` maps a key to a layout, or to a small record as it is."""

    metadata: Metadata
    records: dict[str, Any]
    error: tuple[int, str] | None
    size: int


def layout_of(record: ArrayRecord) -> Layout:
    """Give (name, type, shape, bytes) of each array."""
    return [(name, array.dtype, tuple(array.shape), len(array.data)) for name, array in record.items()]


def write_arrays(record: ArrayRecord, room: memoryview, offset: int) -> int:
    """Copy the arrays' bytes into shared memory, one behind the other; give where they end."""
    for array in record.values():
        end = offset + len(array.data)
        room[offset:end] = array.data
        offset = end
    return offset


def read_arrays(layout: Layout, data: memoryview, offset: int) -> tuple[ArrayRecord, int]:
    """Make an ArrayRecord from shared memory; the bytes are copied, so the memory may be used anew."""
    record = ArrayRecord()  # filled one by one: made from a mapping, Flower would build each Array again
    for name, dtype, shape, size in layout:
        record[name] = Array(dtype, shape, "numpy.ndarray", bytes(data[offset : offset + size]))
        offset += size
    return record, offset


class Broadcasts:
    """The arrays that are the same for all clients, decoded once for all that run in this process."""

    def __init__(self) -> None:
        self._version, self._record = -1, ArrayRecord()

    def content(
        self, records: dict[str, Any], layout: Layout | None, version: int, data: Callable[[], memoryview]
    ) -> RecordDict:
        """Give a task's content of its own records and, where there is a layout, the broadcast of this version."""
        content = RecordDict(records)
        if layout is not None:
            if version != self._version:
                self._record, _ = read_arrays(layout, data(), 0)
                self._version = version
            content["arrays"] = self._record
        return content


def pack(message: Message, block: Block) -> Packed:
    """Put a message's arrays into the block and give the rest."""
    if message.has_error():
        return Packed(message.metadata, {}, (message.error.code, message.error.reason or ""), 0)
    content = message.content
    size = arrays_size(content)
    room, offset = block.room(max(size, 1)), 0
    records: dict[str, Any] = {}
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            records[key] = layout_of(record)
            offset = write_arrays(record, room, offset)
        else:
            records[key] = record
    return Packed(message.metadata, records, None, size)


def unpack(packed: Packed, block: Block) -> Message:
    """Make the message again."""
    if packed.error is not None:
        return remade(packed.metadata, Error(*packed.error))
    content, data, offset = RecordDict(), block.view(packed.size), 0
    for key, value in packed.records.items():
        if isinstance(value, list):
            content[key], offset = read_arrays(value, data, offset)
        else:
            content[key] = value
    return remade(packed.metadata, content)
