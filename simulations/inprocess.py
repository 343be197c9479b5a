"""A Flower Grid that drives the unmodified ClientApp: here, in a pool of workers, or in the actors of a Ray cluster."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from ..client.app import app as client_app
from ..client.driver import App, context_for, drive
from ..server.grouping import Cut
from ..server.loop import RunFailedError
from ..strategies.base import DISK, Message, run_config
from ..strategies.contract import ClientHalf
from ..strategies.federation import Federation
from ..strategies.grids import FIRST_NODE, Span, StreamGrid
from ..strategies.partial import GROUP
from .cutting import Cutter
from .retries import lacked_memory
from .workers import Workers

log = logging.getLogger(__name__)


class PopulationRoster:
    """Clients client-0 to client-(n-1), without a list of them: a population of 100,000 costs nothing."""

    def __init__(self, clients: int) -> None:
        self._clients = clients

    def __len__(self) -> int:
        return self._clients

    def name(self, number: int) -> str:
        """Give the name of client `number`."""
        return Federation.name(number)

    def node(self, name: str) -> int:
        """Give the node id of a client."""
        return int(name.rpartition("-")[2]) + FIRST_NODE


class InProcessGrid(StreamGrid):
    """Carries messages to simulated clients.

    With a pool the clients run in worker processes; without one they run here, one after the other, which is easy to
    debug. `stream` hands replies over as they come and takes messages only as workers become free.
    """

    def __init__(
        self,
        clients: int,
        config_json: str,
        folder: str,
        pool: Workers | None = None,
        app: App = client_app,
    ) -> None:
        super().__init__()
        self.roster = PopulationRoster(clients)
        self.pool = pool
        self._app = app
        self._spans: list[Span] = []
        self._kind = "train"
        self._cutter: Cutter | None = None
        self._run_config = run_config(config_json, folder)

    @property
    def here(self) -> bool:
        """Whether the clients run in this process, so that nothing goes on beside them."""
        return self.pool is None

    def get_node_ids(self) -> Iterable[int]:
        """Give the node ids of all clients."""
        return range(FIRST_NODE, FIRST_NODE + len(self.roster))

    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Give the replies as they come; after `timeout` seconds no more come.

        Without a pool a client that runs cannot be cut short: the time is looked at between two clients. Raises
        RunFailedError where what a client keeps cannot be saved or read.
        """
        if self.pool is not None:
            self.pool.await_ready()  # the start of workers is not the clients' time
        deadline = None if timeout is None else time.monotonic() + timeout
        with closing(self._answers(self._tasks(messages), deadline)) as replies:
            for reply in replies:
                if reply.has_error() and reply.error.code == DISK:  # what follows without it would be another run
                    raise RunFailedError(f"{reply.error.reason}; then go on with --resume")
                yield reply

    def _answers(self, tasks: Iterator[tuple[str, Message]], deadline: float | None) -> Generator[Message, None, None]:
        if self.pool is not None:
            yield from self.pool.stream(tasks, deadline)
            return
        for client, message in tasks:
            if deadline is not None and time.monotonic() > deadline:
                return
            context = context_for(message.metadata.dst_node_id, client, self._run_config)
            began = time.monotonic()
            reply = drive(self._app, message, context)
            if lacked_memory(reply):  # what it held is free again, and it may have lacked it for another program's sake
                log.warning("out of memory while %s ran: running it once more", client)
                reply = drive(self._app, message, context)
            self._spans.append(Span(client, "1", began, time.monotonic()))
            yield reply

    def spans(self) -> list[Span]:
        """Give, once, when each client ran whose reply came; for a group, under the name of its first client."""
        kept = self._spans if self.pool is None else self.pool.spans
        found = list(kept)
        kept.clear()
        alone = found if self._cutter is None else self._cutter.learn(found)
        if self.pool is not None:
            self.pool.schedule.learn(self._kind, alone)
        return found

    def ordered(self, kind: str, names: Sequence[str]) -> Sequence[str]:
        """Give a cohort in the order in which it is to be asked: longest first, where several run at a time."""
        return names if self.pool is None else self.pool.schedule.order(kind, names)

    def _tasks(self, messages: Iterable[Message]) -> Iterator[tuple[str, Message]]:
        for message in messages:
            if message.metadata.message_type != GROUP:
                self._kind = message.metadata.message_type
            yield self._client(message), self.stamped(message)

    def meet(self, federation: Federation, half: ClientHalf[Any], tell: Callable[[str], None]) -> None:
        """Get to know the run, so that its cohorts can be cut; `tell` takes a word about how its clients run."""
        # An app of a test's own, a Grid that listens to what passes and the plain path get every message by itself.
        plain = federation.config.engine.kind == "plain"
        if self._app is client_app and type(self).stream is InProcessGrid.stream and not plain:
            self._cutter = Cutter(federation, half, tell)

    def cut(self, cohort: Sequence[str]) -> Cut | None:
        """Give the groups in which a cohort trains here; None where each client is to be asked by itself."""
        workers = 1 if self.pool is None else self.pool.workers
        return None if self._cutter is None else self._cutter.cut(cohort, workers, partial(self.ordered, "train"))

    def _client(self, message: Message) -> str:
        number = message.metadata.dst_node_id - FIRST_NODE
        if not 0 <= number < len(self.roster):
            raise ValueError(f"no client has the node id {message.metadata.dst_node_id}")
        return self.roster.name(number)

    def close(self) -> None:
        """End the workers."""
        if self.pool is not None:
            self.pool.close()
