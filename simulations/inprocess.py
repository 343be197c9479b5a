"""A Flower Grid that drives the unmodified ClientApp: here, in a pool of workers, or in the actors of a Ray cluster."""

import time
from collections.abc import Iterable, Iterator

from flwr.serverapp import Grid
from flwr.supercore.run import Run

from ..client.app import app as client_app
from ..strategies.base import Message, RecordDict, run_config, with_id
from ..strategies.federation import Federation
from .driver import RUN_ID, App, context_for, drive
from .pool import Workers

_FIRST_NODE = 2  # node 1 is the server


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
        return int(name.rpartition("-")[2]) + _FIRST_NODE


class InProcessGrid(Grid):
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
        self.roster = PopulationRoster(clients)
        self.pool = pool
        self._app = app
        self._run_config = run_config(config_json, folder)
        self._run = Run.create_empty(RUN_ID)
        self._sent = 0
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run; Flower's runtime calls this, the simulation has one run only."""
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

    def get_node_ids(self) -> Iterable[int]:
        """Give the node ids of all clients."""
        return range(_FIRST_NODE, _FIRST_NODE + len(self.roster))

    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Give the replies as they come; after `timeout` seconds no more come.

        Without a pool a client that runs cannot be cut short: the time is looked at between two clients.
        """
        if self.pool is not None:
            self.pool.await_ready()  # the start of workers is not the clients' time
        deadline = None if timeout is None else time.monotonic() + timeout
        tasks = ((self._client(message), self._stamped(message)) for message in messages)
        if self.pool is not None:
            yield from self.pool.stream(tasks, deadline)
            return
        for client, message in tasks:
            if deadline is not None and time.monotonic() > deadline:
                return
            node = message.metadata.dst_node_id
            yield drive(self._app, message, context_for(node, node - _FIRST_NODE, client, self._run_config))

    def _client(self, message: Message) -> str:
        number = message.metadata.dst_node_id - _FIRST_NODE
        if not 0 <= number < len(self.roster):
            raise ValueError(f"no client has the node id {message.metadata.dst_node_id}")
        return self.roster.name(number)

    def _stamped(self, message: Message) -> Message:
        self._sent += 1
        return with_id(message, str(self._sent))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' clients; give the messages' ids."""
        pushed = list(messages)
        replies = {reply.metadata.reply_to_message_id: reply for reply in self.stream(pushed)}
        self._replies |= replies
        return [message.metadata.message_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Give, once, the replies to pushed messages."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Give all the replies that come within `timeout` seconds."""
        return list(self.stream(messages, timeout=timeout))

    def close(self) -> None:
        """End the workers."""
        if self.pool is not None:
            self.pool.close()
