"""Who is run once more: a client whose worker died, or that lacked memory; then perhaps beside half as many others."""

import logging
import time
from collections.abc import Sequence
from typing import TypeVar

from ..strategies.base import OUT_OF_MEMORY, Message

ATTEMPTS = 2  # at a client

Worker = TypeVar("Worker")
log = logging.getLogger(__name__)


def lacked_memory(reply: Message) -> bool:
    """Say whether a client could not run for lack of memory."""
    return reply.has_error() and reply.error.code == OUT_OF_MEMORY


class Retries:
    """What one run's pool keeps in mind of clients that failed."""

    def __init__(self) -> None:
        self._hopeless = set[str]()
        self._shrunk = 0.0

    def again(self, client: str, attempts: int) -> bool:
        """Say whether a client that failed so many times in this round is to be run once more."""
        if attempts >= ATTEMPTS:
            self._hopeless.add(client)
        return attempts < ATTEMPTS

    def half(self, client: str, sent: float, ranked: Sequence[Worker]) -> Sequence[Worker]:
        """Give which of the workers are to go since a client lacked memory: the first half of them, or none.

        They stay as many where the client was sent (a time of `time.monotonic`) while more of them ran than there are
        now, where it failed before, however few there were, and where one alone is left.
        """
        if client in self._hopeless or sent < self._shrunk or len(ranked) < 2:
            return ()
        left = len(ranked) // 2
        self._shrunk = time.monotonic()
        log.warning("out of memory while %s ran: going on with %d worker(s) in place of %d", client, left, len(ranked))
        return ranked[: len(ranked) - left]
