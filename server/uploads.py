"""Replies on their way: offered first, then granted a few at a time, so that memory stays bounded.

A line has one grant at most, so a client that is slow, or means harm, keeps one slot from the others and no more.
"""

import time
from collections import deque

from ..strategies import wire_pb2 as wire
from ..strategies.base import WireError
from ..strategies.frames import Intake
from .lines import Line, Terms


class Uploads:
    """The slots for replies. One is taken by a grant, and free again once the reply has been used, or does not come."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.free = terms.uploads
        self._waiting: deque[Line] = deque()
        """Lines with an offer and without a grant."""

    def offer(self, line: Line, task: str) -> None:
        """Hear that a reply is ready; it is granted when its turn comes."""
        if task == line.granted or task in line.offers:
            return
        line.offers.append(task)
        if not line.granted and len(line.offers) == 1:
            self._waiting.append(line)
        self._grant()

    def withdraw(self, line: Line, task: str) -> None:
        """Forget an offer that is not wanted any more. What was granted may be on its way, and comes to its end."""
        if task in line.offers:
            line.offers.remove(task)
            if not line.offers and not line.granted:
                self._waiting.remove(line)

    def begin(self, line: Line, body: wire.Body) -> None:
        """Take the head of a reply. Raises WireError unless it was granted."""
        if not body.task or body.task != line.granted:
            raise WireError(f"a reply to {body.task[:80]!r}, which was not granted")
        if line.intake is not None:
            raise WireError("a reply began before the last one was complete")
        line.intake = Intake(body, self._terms.largest, self._terms.piece)
        line.moved = time.monotonic()

    def take(self, line: Line, chunk: wire.Chunk) -> None:
        """Take a piece of a reply. Raises WireError where it belongs to none."""
        if line.intake is None:
            raise WireError("a chunk that belongs to no reply")
        line.intake.take(chunk)
        line.moved = time.monotonic()

    def completed(self, line: Line) -> Intake | None:
        """Give the reply that has come to its end; its slot is taken until `release`."""
        intake = line.intake
        if intake is None or not intake.complete:
            return None
        self._next(line)
        self._grant()
        return intake

    def release(self) -> None:
        """Hear that a reply has been used: another one may come."""
        self.free += 1
        self._grant()

    def take_back(self, line: Line) -> None:
        """Take the slot of a line, if it has one, for another; what comes of its reply after all ends the line."""
        if line.granted:
            self._next(line)
            self.release()

    def leave(self, line: Line) -> None:
        """Forget a line that has ended."""
        if line.offers and not line.granted:
            self._waiting.remove(line)
        line.offers.clear()
        self.take_back(line)

    def _next(self, line: Line) -> None:
        """Let a line wait for its next grant."""
        line.granted, line.intake = "", None
        if line.offers:
            self._waiting.append(line)

    def _grant(self) -> None:
        while self.free > 0 and self._waiting:
            line = self._waiting.popleft()
            line.granted, line.moved = line.offers.popleft(), time.monotonic()
            self.free -= 1
            line.note(grant=wire.Note(task=line.granted))
