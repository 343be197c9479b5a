"""What all our Grids have in common: they stream replies, and Flower's older calls are made of that."""

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .base import Grid, Message, RecordDict, Run, with_id

RUN_ID = 1
FIRST_NODE = 2
"""Node id of the first client; node 1 is the server."""


_LONG, _HEAD, _TAIL = 2500, 1500, 500


def sayable(text: str) -> str:
    """Give a text that can travel: what is no Unicode, as in the name of a file that is not in UTF-8, becomes a ?."""
    return text.encode("utf-8", "replace").decode()


def brief(text: str) -> str:
    """Give a long text without its middle: of an error the type and the place stand at the ends."""
    if len(text) <= _LONG:
        return text
    return f"{text[:_HEAD]} [... {len(text) - _HEAD - _TAIL:,} characters ...] {text[-_TAIL:]}"


@dataclass(frozen=True)
class Span:
    """When a client ran, in seconds of this machine's `time.monotonic`, and which worker ran it."""

    client: str
    worker: str
    began: float
    ended: float


class StreamGrid(Grid):
    """A Grid that has `stream`: replies as they come. Flower's push and pull are kept, as Grid wants them."""

    def __init__(self) -> None:
        self._run = Run.create_empty(RUN_ID)
        self._numbers = itertools.count(1)
        self._replies: dict[str, Message] = {}

    @abstractmethod
    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Give the replies as they come; after `timeout` seconds no more come."""

    def spans(self) -> list[Span]:
        """Give, once, when those ran whose replies came since this was last asked; none where only they know it."""
        return []

    def stamped(self, message: Message) -> Message:
        """Give the message an id that no other of this Grid has."""
        return with_id(message, str(next(self._numbers)))

    def set_run(self, run: Run) -> None:
        """Set the run; Flower's runtime calls this, our Grids carry one run only."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (deprecated in Flower; kept because Grid wants it)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' clients; give the messages' ids."""
        pushed = list(messages)
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in self.stream(pushed)}
        return [message.metadata.message_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Give, once, the replies to pushed messages."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Give all the replies that come within `timeout` seconds."""
        return list(self.stream(messages, timeout=timeout))
