"""Ray under the Grid: what `pool.Pool` is on one machine, over the actors of a Ray cluster.

The actors are `resident.Resident`. The data and, once a round, the broadcast weights go to Ray's object store, which
brings them to each node once; the actors of a node read the same pages. Only this file and `ray_cluster.py` import Ray.
"""

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from ..configs.schema import RayConfig
from ..strategies.base import LOST, ArrayRecord, Error, Message
from ..strategies.federation import Federation
from ..strategies.grids import Span
from .forking import module_path
from .packing import Layout, layout_of, unpack, write_arrays
from .ray_cluster import Cluster, actors_of
from .resident import MARK, Resident
from .retries import Retries, lacked_memory
from .schedule import Schedule
from .shared import LocalBlock
from .sharing import share
from .workers import WorkerError

_STARTS = 3  # attempts to replace an actor, one after the other, none of which gets ready
_SETTLED = 2.0  # seconds after which a process has ended whose node did: it looks for that once a second
_PLACED = 120.0  # seconds that a cluster has to start an actor, imports included


@dataclass
class _Job:
    client: str
    message: Message
    attempts: int = 0


@dataclass
class _Actor:
    handle: Any
    waits_for: Any  # the answer of `ready` or `run`
    ready: bool = False
    job: _Job | None = None
    rss_mb: float = 0.0
    began: float = 0.0  # when the job was sent: the clocks of two nodes differ, so both ends are taken here
    starts: int = 1  # how often this place in the pool was filled since an actor was ready there
    node: str = ""  # which one it is on, as `Resident.ready` names it
    doubted: bool = False  # another one on its node died: it has to show that it lives, once it has no client
    retired: bool = False  # goes when it has no client


class RayPool:
    """Starts actors on a Ray cluster, gives them clients, takes their replies; replaces an actor that dies."""

    def __init__(self, config: RayConfig, workers: int, device: str) -> None:
        """Start a cluster of `workers` cores here, or join the one at the address. Raises ConfigError.

        `device` is what the clients train on.
        """
        self.config, self._gpus = config, config.claimed(device)
        self._actors: list[_Actor] = []
        self.spans: list[Span] = []
        self._record: ArrayRecord | None = None
        self._layout: Layout = []
        self._data: Any = None
        self._version, self._peak_mb = 0, 0.0
        self._mark: Path | None = None
        self.retries = Retries()
        self._arguments: tuple[Any, ...] = ()
        self._cluster = Cluster(config, workers)
        with ExitStack() as stack:
            stack.callback(self._cluster.close)
            self.workers = actors_of(config, self._gpus)
            stack.pop_all()

    def setup(self, federation: Federation, config_json: str, folder: str) -> None:
        """Give every actor the configuration and the data. Raises WorkerError, or what an actor's setup raised."""
        self.schedule = Schedule(federation)
        block, mark = LocalBlock(), uuid.uuid4().hex
        shared = share(federation, block)
        self._mark = Path(folder, MARK)
        self._mark.write_text(mark, encoding="utf-8")
        path = module_path()
        self._arguments = (path, config_json, folder, mark, shared, ray.put(block.data))
        self._actors = [self._start() for _ in range(self.workers)]
        for actor in self._actors:
            self._await(actor)

    def _start(self) -> _Actor:
        options = {"num_cpus": self.config.cpus, "num_gpus": self._gpus, "scheduling_strategy": "SPREAD"}
        handle = ray.remote(Resident).options(max_restarts=0, **options).remote(*self._arguments)
        return _Actor(handle, handle.ready.remote())

    def _await(self, actor: _Actor) -> None:
        try:
            actor.node = ray.get(actor.waits_for, timeout=_PLACED)
        except ray.exceptions.GetTimeoutError as error:
            raise WorkerError(
                f"the Ray cluster started no actor within {_PLACED:g} s; `ray status` tells what it waits for"
            ) from error
        except ray.exceptions.RayError as error:
            raise WorkerError(f"an actor ended before it was ready: {_cause(error)}") from error
        actor.ready, actor.starts = True, 0

    def await_ready(self) -> None:
        """Wait until one actor can take clients; those that replace a lost node's may wait for room for ever."""
        self._renew()
        end = time.monotonic() + _PLACED
        while not any(actor.ready for actor in self._actors):
            waiting = [actor.waits_for for actor in self._actors]
            done, _ = ray.wait(waiting, timeout=max(end - time.monotonic(), 0.0))
            if done:
                self._admit(self._of(done[0]))
            else:
                self._await(self._actors[0])

    def stream(self, tasks: Iterable[tuple[str, Message]], deadline: float | None) -> Iterator[Message]:
        """Give the replies to (client, message) pairs as they come; see `pool.Pool.stream`.

        Raises WorkerError when all actors are gone and no new one comes.
        """
        source = iter(tasks)
        again: deque[_Job] = deque()
        while True:
            for actor in self._actors:
                if actor.ready and not actor.retired and actor.job is None and (job := _next(again, source)):
                    self._send(actor, job)
            busy = [actor for actor in self._actors if actor.job or not actor.ready]
            if not any(actor.job for actor in busy) and len(busy) < len(self._actors):
                return
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not any(actor.job for actor in busy):  # nobody is left: a new actor comes, or none does
                left = min(left, _PLACED) if left is not None else _PLACED
            done, _ = ray.wait([actor.waits_for for actor in busy], timeout=left)
            if not done and (deadline is None or time.monotonic() < deadline):
                raise WorkerError(  # never a round without these clients: its model would be another one
                    f"no actor is left, and the Ray cluster started none within {_PLACED:g} s; `ray status` tells "
                    "what it waits for; then go on with --resume"
                )
            if not done:
                return
            yield from self._take(self._of(done[0]), again)

    def _renew(self) -> None:
        """Replace the actors that still run a client of a round that is over.

        Not when that round ends: it may end by a signal, which Ray's own processes got as well, and a start would wait
        for them for ever.
        """
        for actor in [actor for actor in self._actors if actor.job]:
            self._replace(actor)

    def _of(self, answer: Any) -> _Actor:
        return next(actor for actor in self._actors if actor.waits_for == answer)

    def _send(self, actor: _Actor, job: _Job) -> None:
        records = dict(job.message.content)
        record, layout = records.get("arrays"), None
        if isinstance(record, ArrayRecord):
            del records["arrays"]
            self._publish(record)
            layout = self._layout
        actor.job, actor.began = job, time.monotonic()
        actor.waits_for = actor.handle.run.remote(
            job.client, job.message.metadata, records, self._version, layout, self._data
        )

    def _publish(self, record: ArrayRecord) -> None:
        """Put a record into the object store unless it is the one that lies there: once a round, not once a client."""
        if record is self._record:
            return
        block, self._layout = LocalBlock(), layout_of(record)
        write_arrays(record, block.room(max(sum(size for *_, size in self._layout), 1)), 0)
        self._record, self._data, self._version = record, ray.put(block.data), self._version + 1

    def _take(self, actor: _Actor, queue: deque[_Job]) -> Iterator[Message]:
        if not actor.ready:
            self._admit(actor)
            return
        job = actor.job
        assert job is not None
        try:
            packed, data, actor.rss_mb = ray.get(actor.waits_for)
        except ray.exceptions.RayError as error:
            again = self._try_again(actor, job, isinstance(error, ray.exceptions.OutOfMemoryError))
            self._replace(actor)
            self._doubt(actor.node)
            reason = f"the actor died twice while it ran {job.client}: {_cause(error)}"
            reply = Message(Error(LOST, reason), reply_to=job.message)
        else:
            actor.job = None
            reply, place = unpack(packed, LocalBlock(data)), str(self._actors.index(actor) + 1)
            again = lacked_memory(reply) and self._try_again(actor, job, short=True)
            if not again:
                self.spans.append(Span(job.client, place, actor.began, time.monotonic()))
            if actor.retired:
                self._dismiss(actor)
            elif actor.doubted:
                self._probe(actor)
        if again:
            queue.append(job)
        else:
            yield reply

    def _doubt(self, node: str) -> None:
        """Give no client to the actors of a node of which one died before they have shown that they live.

        Where the node itself died they are dead as well, or will be in a moment; none is to tell that by losing a
        client, least of all the one that the first has lost already.
        """
        for actor in [actor for actor in self._actors if actor.ready and actor.node == node]:
            actor.doubted = True
            if actor.job is None:
                self._probe(actor)

    def _probe(self, actor: _Actor) -> None:
        actor.ready = actor.doubted = False
        actor.waits_for = actor.handle.ready.remote(_SETTLED)

    def _try_again(self, actor: _Actor, job: _Job, short: bool) -> bool:
        """Say whether a client that failed with its actor is to be run once more; halve the actors if `short`."""
        job.attempts += 1
        if not self.retries.again(job.client, job.attempts):
            return False
        if short:
            self._halve(actor, job.client)
        return True

    def _halve(self, first: _Actor, client: str) -> None:
        """Retire half of the actors, `first` and idle ones before others; those that run a client end it."""
        active = [actor for actor in self._actors if not actor.retired]
        ranked = sorted(active, key=lambda actor: (actor is not first, actor.job is not None, actor.ready))
        gone = self.retries.half(client, first.began, ranked)
        self.workers = len(active) - len(gone)
        for actor in gone:
            actor.retired = True
            if actor is not first and actor.job is None:
                self._dismiss(actor)

    def _dismiss(self, actor: _Actor) -> None:
        self._peak_mb += actor.rss_mb
        ray.kill(actor.handle)
        self._actors.remove(actor)

    def _admit(self, actor: _Actor) -> None:
        """Take in an actor whose start is over. Raises WorkerError when the last of several starts failed as well."""
        try:
            self._await(actor)
        except WorkerError as error:  # its node may have gone meanwhile: another one may do better
            if actor.starts >= _STARTS:
                raise WorkerError(f"an actor was started {_STARTS} times in place of one that died; {error}") from error
            self._replace(actor)

    def _replace(self, actor: _Actor) -> None:
        if actor.retired:
            self._dismiss(actor)
            return
        self._peak_mb += actor.rss_mb
        ray.kill(actor.handle)
        new = self._start()
        new.starts = actor.starts + 1
        self._actors[self._actors.index(actor)] = new

    @property
    def peak_rss_mb(self) -> float:
        """The actors' largest resident memory together, in MB; shared pages count once for each actor."""
        return self._peak_mb + sum(actor.rss_mb for actor in self._actors)

    def close(self) -> None:
        """End the actors, and the cluster where it was started here; what a signal has ended already is passed over."""
        for actor in self._actors:
            with suppress(Exception):  # in the place of what broke the run off it would be told
                ray.kill(actor.handle)
        self._actors.clear()
        self._cluster.close()
        if self._mark is not None:
            self._mark.unlink(missing_ok=True)


def _next(again: deque[_Job], source: Iterator[tuple[str, Message]]) -> _Job | None:
    return again.popleft() if again else next((_Job(*item) for item in source), None)


def _cause(error: BaseException) -> str:
    return str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
