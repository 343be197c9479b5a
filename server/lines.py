"""What the fleet is made of: terms, jobs, lines and the stations of the clients."""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ..strategies import wire_pb2 as wire
from ..strategies.base import Message, RecordDict
from ..strategies.frames import CHUNK, LARGEST, Intake, Outbox

_LEAST_CHUNK = 2**12
_SLOWEST = 2**14  # bytes a second of a line that still counts as alive, whatever the heartbeat


@dataclass(frozen=True)
class Terms:
    """How the server treats its lines. Times in seconds, sizes in bytes."""

    heartbeat: float = 30.0
    grace: float = 60.0
    largest: int = LARGEST
    chunk: int = CHUNK
    compress: bool = False
    uploads: int = 8
    """Replies that may be on their way, or wait to be used, at a time."""
    frames: int = 500
    """Most frames a second, beside chunks, that a client may send."""
    unread: float = 60.0
    """Seconds for which a line may be so full that nothing more goes in, or the heartbeat where that is longer."""
    tries: int = 8
    """Times that a task is sent, or its reply begun, before it counts as lost."""

    @property
    def piece(self) -> int:
        """Give the bytes of a chunk: so few that a slow line carries one within a heartbeat, for less is not heard."""
        return min(self.chunk, max(_LEAST_CHUNK, int(self.heartbeat * _SLOWEST)))

    @property
    def full(self) -> float:
        """Give the seconds for which nothing may go into a line."""
        return max(self.heartbeat, self.unread)

    def patience(self, size: int) -> float:
        """Give the seconds in which a live line takes a frame of so many bytes."""
        return self.full + size / _SLOWEST


@dataclass
class Job:
    """One message to one client. `answer` is told the reply, whether it holds an upload slot, and the job."""

    task: str
    message: Message
    deadline: float | None
    answer: Callable[["Job", Message, bool], None]
    late: bool = False
    sent: int = 0
    begun: int = 0
    """How often it was sent, and how often its reply began to come."""

    def outlive(self) -> None:
        """Hear that its round has closed, and that a reply is taken all the same; it is never sent again."""
        self.late = True
        self.message.content = RecordDict()


class Line:
    """One open stream of a client."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outbox: Outbox[wire.ServerFrame] = Outbox()
        self.heard = self.pinged = time.monotonic()
        self.due = math.inf
        """When the frame that goes out now must have gone, for the other side reads."""
        self.credit = 0.0
        self.offers: deque[str] = deque()
        self.granted = ""
        """The task whose reply may come now: one at a time."""
        self.moved = 0.0
        """When that was granted, or last brought something."""
        self.intake: Intake | None = None
        self.ended = asyncio.Event()

    def note(self, **frame: Any) -> None:
        """Send a small frame."""
        self.outbox.put(wire.ServerFrame(**frame))

    def end(self, reason: str, over: bool = False) -> None:
        """Say good-bye and close."""
        if self.ended.is_set():
            return
        self.note(bye=wire.Bye(reason=reason, over=over))
        self.outbox.close()
        self.ended.set()


@dataclass
class Station:
    """A client of the list, whether it is there or not."""

    name: str
    node: int
    since: float = field(default_factory=time.monotonic)
    """When it came, or went."""
    line: Line | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    holding: dict[str, int] = field(default_factory=dict)

    def pass_over(self, task: str, offered: Collection[str]) -> None:
        """Hear of an offer: a client works in order, so what it had before that and did not offer is never answered.

        So it is with tasks that ran out of time while they waited at a busy client. It lets go of them without a word.
        """
        before = itertools.takewhile(lambda name: name != task, list(self.jobs))
        for name in [name for name in before if self.jobs[name].late and name not in offered]:
            del self.jobs[name]
