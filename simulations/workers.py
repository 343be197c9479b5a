"""What every pool has in common, be it of worker processes or of the actors of a Ray cluster."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from ..strategies.base import Message
from ..strategies.federation import Federation
from ..strategies.grids import Span
from .schedule import Schedule


class WorkerError(RuntimeError):
    """A worker process did not start."""

    exit_code = 1


class Workers(Protocol):
    """Who runs clients elsewhere than in this process: worker processes, or the actors of a Ray cluster."""

    spans: list[Span]
    """When each client ran whose reply came; whoever reads them takes them out."""
    schedule: Schedule
    """Who is likely to take longest; there from `setup` on."""

    @property
    def workers(self) -> int:
        """Number of clients that run at a time."""

    @property
    def peak_rss_mb(self) -> float:
        """The largest resident memory of all together, in MB."""

    def setup(self, federation: Federation, config_json: str, folder: str) -> None:
        """Give everyone the configuration and the data."""

    def await_ready(self) -> None:
        """Wait until clients can be taken."""

    def stream(self, tasks: Iterable[tuple[str, Message]], deadline: float | None) -> Iterator[Message]:
        """Give the replies to (client, message) pairs as they come."""

    def close(self) -> None:
        """End all of them."""
