"""How long each phase of a round took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """How long the phases of one round took, in seconds, and when each began and ended, of `time.monotonic`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phases: list[tuple[str, float, float]] = []

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Take the time of a phase, or of one more piece of it."""
        start = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            self._add(phase, end - start)
            self.phases.append((phase, start, end))

    @contextmanager
    def charged(self, phase: str, instead: str) -> Iterator[None]:
        """Take a time that lies within the phase `instead` for another one's; both keep when they began and ended."""
        start = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - start
            self._add(instead, -spent)
            self._add(phase, spent)

    def _add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
