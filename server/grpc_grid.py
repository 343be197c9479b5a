"""The gRPC Grid: carries Flower messages to clients on other machines, each on a stream that it opened itself.

gRPC runs on a thread of its own with an event loop; the round loop stays where it is and takes replies from a queue.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from ..configs.tls import Identity
from ..strategies.base import Message
from ..strategies.grids import StreamGrid
from .fleet import Fleet
from .grpc_service import Service
from .lines import Job
from .roster import NamedRoster


class GrpcGrid(StreamGrid):
    """A Grid over the clients of a fleet. `listen` is HOST:PORT; port 0 takes a free one, told by `port`."""

    def __init__(self, fleet: Fleet, listen: str, identity: Identity | None, life: str) -> None:
        super().__init__()
        self.fleet = fleet
        self.roster = NamedRoster({name: station.node for name, station in fleet.stations.items()})
        self.service = Service(fleet)
        self._names = {station.node: name for name, station in fleet.stations.items()}
        self._life = life
        self._late: queue.SimpleQueue[tuple[Job, Message]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name="fedbox-grpc", daemon=True)
        self._thread.start()
        opening = asyncio.run_coroutine_threadsafe(self.service.open(listen, identity), self._loop)
        try:
            self.port: int = opening.result(30)
        except BaseException:
            self._end_thread()
            raise

    def get_node_ids(self) -> Iterable[int]:
        """Give the node ids of all clients on the list."""
        return list(self._names)

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, keep_late: bool = False
    ) -> Iterator[Message]:
        """Give the replies as they come; after `timeout` seconds no more come.

        With `keep_late` a reply that comes later waits for `late_replies`; else it is dropped.
        """
        replies: queue.SimpleQueue[tuple[Job, Message, bool]] = queue.SimpleQueue()
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting: set[str] = set()

        def answer(job: Job, reply: Message, holds: bool) -> None:
            if job.late:
                self._late.put((job, reply))
                if holds:
                    self.fleet.release()
            else:
                replies.put((job, reply, holds))

        for message in messages:
            stamped = self.stamped(message)
            job = Job(f"{self._life}-{stamped.metadata.message_id}", stamped, deadline, answer)
            waiting.add(job.task)
            self._call(self.fleet.assign, self._names[message.metadata.dst_node_id], job)
        try:
            while waiting:
                left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                if left <= 0:
                    return
                try:
                    job, reply, holds = replies.get(timeout=left)
                except queue.Empty:
                    continue
                waiting.discard(job.task)
                yield reply
                if holds:
                    self._call(self.fleet.release)
        finally:
            self._call(self._abandon, waiting, keep_late, replies)

    def _abandon(
        self, waiting: set[str], keep_late: bool, replies: "queue.SimpleQueue[tuple[Job, Message, bool]]"
    ) -> None:
        """Let go of what nobody waits for any more, on the loop's thread: no reply can come in between."""
        self.fleet.withdraw(waiting, keep_late)
        while not replies.empty():
            job, reply, holds = replies.get()
            if keep_late:
                self._late.put((job, reply))
            if holds:
                self.fleet.release()

    def late_replies(self) -> list[Message]:
        """Give the replies to earlier rounds that have come since this was last asked."""
        found = []
        while not self._late.empty():
            found.append(self._late.get()[1])
        return found

    def wait_for(self, wanted: int, told: Callable[[list[str]], None], every: float = 10.0) -> None:
        """Wait until so many clients are on line and have said what they hold; tell now and then who is missing."""
        due = 0.0
        while True:
            ready = [s for s in list(self.fleet.stations.values()) if s.line is not None and s.holding]
            if len(ready) >= wanted:
                return
            if time.monotonic() >= due:
                told([s.name for s in self.fleet.stations.values() if s not in ready])
                due = time.monotonic() + every
            time.sleep(0.05)

    def close(self, reason: str = "the server stops", over: bool = False, linger: float = 0.0) -> None:
        """Say good-bye to the clients and end the thread.

        `over` tells them that the run has ended; those who are off line just then are awaited for `linger` seconds, or
        until the program is interrupted: nothing is left to be done then but this.
        """
        if not self._thread.is_alive():
            return
        shutting = asyncio.run_coroutine_threadsafe(self.service.shut(reason, over, linger), self._loop)
        try:
            shutting.result(30 + linger)
        except KeyboardInterrupt:
            shutting.cancel()
            if not over:
                raise
            asyncio.run_coroutine_threadsafe(self.service.shut(reason, over, 0.0), self._loop).result(30)
        self._end_thread()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._stop.wait())
        self._loop.close()
