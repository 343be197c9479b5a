"""Flower messages in frames: cut into chunks on one side of a line, put together and bounded on the other.

The frames are those of wire.proto. Beside the arrays themselves either side holds a chunk or two: chunks are cut when
the line can take the next one, and a message that announces more than it may is refused before a byte of it is kept.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import version
from typing import Generic, TypeVar

from . import wire_pb2 as wire
from .base import Message, WireError, pack_message, unpack_message

RELEASE = version("fedbox")
"""This release, as it is told to the other side."""
OLDEST, NEWEST = 1, 1
"""Versions of the protocol that this release speaks."""
CHUNK = 2**18
"""Most bytes of a chunk: larger ones travel no faster."""
LARGEST = 2**32
FRAME = 2**23
"""Most bytes of one frame: what gRPC itself takes, and so the most that a message's head may have."""
MOST_ARRAYS = 100_000
TASK_NAME = 80
"""Most bytes of a task's name."""
MOST_HELD = 500
"""Most tasks that a client may name as in hand."""

F = TypeVar("F")


def cut(bodies: Iterable[bytes], size: int = CHUNK, compress: bool = False) -> Iterator[wire.Chunk]:
    """Give the bodies, one behind the other, in chunks of `size` bytes; the last one may be smaller."""
    pieces: list[memoryview] = []
    room = size
    for body in bodies:
        view = memoryview(body)
        while view:
            pieces.append(view[:room])
            view = view[room:]
            room -= len(pieces[-1])
            if room == 0:
                yield _chunk(pieces, compress)
                pieces, room = [], size
    if pieces:
        yield _chunk(pieces, compress)


def _chunk(pieces: list[memoryview], compress: bool) -> wire.Chunk:
    data = b"".join(pieces)
    if compress:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return wire.Chunk(data=packed, packed=True)
    return wire.Chunk(data=data)


def body_of(task: str, message: Message, seconds: float = 0.0, largest: int = LARGEST) -> tuple[wire.Body, list[bytes]]:
    """Give the Body frame that announces a message, and the bytes that follow it in chunks.

    Raises WireError where the other side would not take it: the arrays may have `largest` bytes.
    """
    head, bodies = pack_message(message)
    if len(head) > FRAME - 2**16:
        raise WireError(f"the message has {len(head):,} bytes beside its arrays; at most {FRAME - 2**16:,} travel")
    body = wire.Body(task=task, head=head, sizes=[len(body) for body in bodies], seconds=seconds)
    _check_sizes(body.sizes, largest)
    return body, bodies


def _check_sizes(sizes: Collection[int], largest: int) -> None:
    if len(sizes) > MOST_ARRAYS or sum(sizes) > largest:
        raise WireError(
            f"a message of {len(sizes):,} arrays and {sum(sizes):,} bytes; at most {MOST_ARRAYS:,} arrays and "
            f"{largest:,} bytes are taken (--max-message of fedbox serve)"
        )


class Intake:
    """A message on its way in. Raises WireError for one that is larger than `largest`, or other than announced."""

    def __init__(self, body: wire.Body, largest: int = LARGEST, chunk: int = CHUNK) -> None:
        self.task = body.task
        self._head = body.head
        self._sizes = deque(body.sizes)
        self._chunk = chunk
        self._bodies: list[bytes | bytearray] = []
        self._body = bytearray()
        _check_sizes(self._sizes, largest)
        self._need = 0
        self._open_next()

    @property
    def complete(self) -> bool:
        """Say whether all arrays are there."""
        return not self._sizes and not self._need

    def take(self, chunk: wire.Chunk) -> None:
        """Add what a chunk brings."""
        view = memoryview(_unpacked(chunk, self._chunk))
        if len(view) > self._chunk:
            raise WireError(f"a chunk of {len(view):,} bytes; at most {self._chunk:,} were agreed on")
        while view:
            if self.complete:
                raise WireError(f"{len(view):,} bytes more than the message announced")
            part, view = view[: self._need], view[self._need :]
            self._body += part  # grows as bytes come, whatever was announced, and is handed on without a copy
            self._need -= len(part)
            if not self._need:
                self._bodies.append(self._body)
                self._body = bytearray()
                self._open_next()

    def _open_next(self) -> None:
        """Go on to the next array that has bytes; those without any are complete at once."""
        while self._sizes and not self._need:
            self._need = self._sizes.popleft()
            if not self._need:
                self._bodies.append(b"")

    def message(self) -> Message:
        """Give the message once it is complete. Raises WireError."""
        return unpack_message(self._head, self._bodies)


def _unpacked(chunk: wire.Chunk, most: int) -> bytes:
    if not chunk.packed:
        return chunk.data
    try:
        reader = zlib.decompressobj()
        data = reader.decompress(chunk.data, most + 1)
    except zlib.error as error:
        raise WireError(f"a chunk cannot be decompressed: {error}") from error
    if not reader.eof and len(data) <= most:
        raise WireError("a compressed chunk is cut short")
    return data


class Outbox(Generic[F]):
    """Frames that wait for the line: urgent ones first, then streams of frames, each made when it can be sent."""

    def __init__(self) -> None:
        self._urgent: deque[F] = deque()
        self._streams: deque[Iterator[F]] = deque()
        self._something = asyncio.Event()
        self._closed = False

    @property
    def urgent(self) -> int:
        """Give the number of urgent frames that wait."""
        return len(self._urgent)

    def put(self, frame: F) -> None:
        """Send a frame as soon as the line can take one."""
        self._urgent.append(frame)
        self._something.set()

    def stream(self, frames: Iterator[F]) -> None:
        """Send many frames, one by one, behind the streams that already wait."""
        self._streams.append(frames)
        self._something.set()

    def close(self) -> None:
        """End the outbox once its urgent frames are sent."""
        self._closed = True
        self._something.set()

    async def get(self) -> F | None:
        """Wait for the next frame; None when the outbox is closed."""
        while True:
            if self._urgent:
                return self._urgent.popleft()
            if self._closed:
                return None
            if self._streams:
                frame = next(self._streams[0], None)
                if frame is not None:
                    return frame
                self._streams.popleft()
                continue
            self._something.clear()
            await self._something.wait()
