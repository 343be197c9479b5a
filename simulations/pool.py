"""A pool of worker processes with one queue: whoever is free takes the next client.

Out of memory (a client raises MemoryError or torch.OutOfMemoryError, or its worker is killed): half of the workers go,
and the client is tried once more beside the others.
"""

import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait

from ..strategies.base import LOST, OUT_OF_MEMORY, ArrayRecord, Error, Message
from ..strategies.federation import Federation
from ..strategies.grids import Span
from .packing import layout_of, unpack, write_arrays
from .processes import Job, WorkerProcess, start_worker
from .protocol import Done, Setup, Task
from .schedule import Schedule
from .shared import Block
from .sharing import share
from .workers import WorkerError

SLABS = 2  # a reply may be read while the next client already runs
_ATTEMPTS = 2

log = logging.getLogger(__name__)


class Pool:
    """Starts workers, gives them clients, takes their replies; replaces a worker that dies."""

    def __init__(self, workers: int) -> None:
        self._data, self._broadcast = Block(), Block()
        self._setup: Setup | None = None
        self._record: ArrayRecord | None = None
        self._version = self._record_size = self._numbers = 0
        self._peak_mb = 0.0
        self._shrunk, self._hopeless = 0.0, set[str]()
        self.spans: list[Span] = []
        self.workers = self._wanted = workers
        self._workers = [self._start() for _ in range(workers)]

    def _start(self) -> WorkerProcess:
        worker = start_worker(SLABS, (self._data.fd, self._broadcast.fd))
        if self._setup is not None:
            self._tell(worker)
        return worker

    def setup(self, federation: Federation, config_json: str, folder: str) -> None:
        """Give every worker the configuration and the data. Raises WorkerError, or what a worker's setup raised.

        The workers of a run that has ended can be set up for the next one, which has as many as the pool was made with.
        """
        self.schedule, self._hopeless = Schedule(federation), set()
        self._setup = None
        self._workers += [self._start() for _ in range(self._wanted - len(self._workers))]
        self.workers = self._wanted
        shared = share(federation, self._data)
        self._setup = Setup(config_json, folder, shared)
        for worker in self._workers:
            worker.ready = False
            self._tell(worker)
        self.await_ready()

    def _tell(self, worker: WorkerProcess) -> None:
        # A worker that is already dead is noticed when its answer is awaited.
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(self._setup)

    def _await_ready(self, worker: WorkerProcess) -> None:
        if worker.ready:
            return
        try:
            problem = worker.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise WorkerError(
                f"a worker process ended with code {worker.process.wait()} before it was ready; "
                "its own message stands above; with engine.workers=1 everything runs in this process"
            ) from error
        if problem is not None:
            raise problem
        worker.ready = True

    def await_ready(self) -> None:
        """Wait until every worker can take clients, those that replace others included. Raises as `setup` does."""
        for worker in self._workers:
            self._await_ready(worker)

    def stream(self, tasks: Iterable[tuple[str, Message]], deadline: float | None) -> Iterator[Message]:
        """Give the replies to (client, message) pairs as they come, until all are there or the deadline has passed.

        `deadline` is a time of `time.monotonic`. At the deadline the workers that still run are ended; no reply comes
        for their clients. A client whose worker dies, or that lacks memory, is run once more, then gets an error reply.
        """
        source = iter(tasks)
        queue: deque[Job] = deque()
        try:
            while True:
                self._fill(source, queue)
                busy = [worker for worker in self._workers if worker.jobs or not worker.ready]
                if not any(worker.jobs for worker in busy) and len(busy) < len(self._workers):
                    return  # someone is free, and there is nothing left to do
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                ready = wait([worker.pipe for worker in busy], left)
                if not ready:
                    return
                for worker in busy:
                    if worker not in self._workers:
                        continue  # gone meanwhile, for lack of memory
                    if worker.pipe in ready and worker.ready:
                        yield from self._take(worker, queue)
                    elif worker.pipe in ready:
                        self._await_ready(worker)
        finally:
            for worker in list(self._workers):
                if worker.jobs:  # cut short: the deadline, or whoever reads the replies, stopped
                    self._replace(worker)

    def _fill(self, source: Iterator[tuple[str, Message]], queue: deque[Job]) -> None:
        """Give a client to every idle worker, and a second one while so many wait that nobody will stand idle."""
        for depth in range(1, SLABS + 1):
            for worker in [worker for worker in self._workers if worker.ready and not worker.retired]:
                spare = self.workers if depth > 1 else 1
                while len(queue) < spare and (job := self._next(source)):
                    queue.append(job)
                if len(queue) >= spare and len(worker.jobs) < depth:
                    self._send(worker, queue.popleft())

    def _next(self, source: Iterator[tuple[str, Message]]) -> Job | None:
        item = next(source, None)
        if item is None:
            return None
        self._numbers += 1
        return Job(self._numbers, *item)

    def _send(self, worker: WorkerProcess, job: Job) -> None:
        records = dict(job.message.content)
        record, layout = records.get("arrays"), None
        if isinstance(record, ArrayRecord) and self._publish(record):
            layout = layout_of(record)
            del records["arrays"]
        worker.jobs.append(job)
        job.sent = time.monotonic()
        # If the worker is dead, reading from its pipe tells, and the job is taken up there.
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(
                Task(
                    job.number,
                    job.client,
                    job.message.metadata,
                    records,
                    self._version,
                    layout,
                    self._record_size,
                )
            )

    def _publish(self, record: ArrayRecord) -> bool:
        """Put a record that goes to many clients into shared memory; False while another one is still being read."""
        if record is self._record:
            return True
        if any(worker.jobs for worker in self._workers):
            return False
        size = sum(len(array.data) for array in record.values())
        write_arrays(record, self._broadcast.room(max(size, 1)), 0)
        self._record, self._record_size, self._version = record, size, self._version + 1
        return True

    def _take(self, worker: WorkerProcess, queue: deque[Job]) -> Iterator[Message]:
        try:
            done: Done = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            yield from self._bury(worker, queue)
            return
        job = worker.jobs.popleft()
        worker.rss_mb, place = done.rss_mb, str(self._workers.index(worker) + 1)
        reply = unpack(done.packed, worker.slabs[done.slab])
        short = reply.has_error() and reply.error.code == OUT_OF_MEMORY
        again = short and self._try_again(worker, job, short=True)
        if worker.retired and not worker.jobs:
            self._dismiss(worker)
        if again:
            queue.appendleft(job)
        else:
            self.spans.append(Span(job.client, place, done.began, done.ended))
            yield reply

    def _bury(self, worker: WorkerProcess, queue: deque[Job]) -> Iterator[Message]:
        """Replace a dead worker; its running client is tried again once, the one that waited behind it goes back."""
        running, *waiting = worker.jobs
        worker.jobs.clear()
        queue.extendleft(reversed(waiting))
        code = worker.process.wait()
        again = self._try_again(worker, running, short=code == -signal.SIGKILL)
        self._replace(worker)
        if again:
            queue.appendleft(running)
            return
        reason = f"the worker process died twice while it ran {running.client} (exit code {code})"
        if code == -signal.SIGKILL:
            reason += "; it was killed, perhaps for lack of memory: fewer engine.workers need less"
        yield Message(Error(LOST, reason), reply_to=running.message)

    def _try_again(self, worker: WorkerProcess, job: Job, short: bool) -> bool:
        """Say whether a client that failed with its worker is to be run once more; halve the workers if `short`.

        They stay as many where the client ran beside more of them than there are now, and where it failed before,
        however few there were.
        """
        job.attempts += 1
        if job.attempts >= _ATTEMPTS:
            self._hopeless.add(job.client)
            return False
        if short and job.client not in self._hopeless and job.sent >= self._shrunk:
            self._halve(worker, job.client)
        return True

    def _halve(self, first: WorkerProcess, client: str) -> None:
        """Retire half of the workers, `first` and idle ones before others; those that run a client end it."""
        active = [worker for worker in self._workers if not worker.retired]
        if len(active) < 2:
            return
        self.workers, self._shrunk = len(active) // 2, time.monotonic()
        log.warning(
            "out of memory while %s ran: going on with %d worker(s) in place of %d", client, self.workers, len(active)
        )
        ranked = sorted(active, key=lambda worker: (worker is not first, len(worker.jobs)))
        for worker in ranked[: len(active) - self.workers]:
            worker.retired = True
            if worker is not first and not worker.jobs:
                self._dismiss(worker)

    def _dismiss(self, worker: WorkerProcess) -> None:
        self._peak_mb += worker.rss_mb
        worker.close()
        self._workers.remove(worker)

    def _replace(self, worker: WorkerProcess) -> None:
        if worker.retired:
            self._dismiss(worker)
            return
        self._peak_mb += worker.rss_mb
        worker.close()
        self._workers[self._workers.index(worker)] = self._start()

    @property
    def peak_rss_mb(self) -> float:
        """The workers' largest resident memory together, in MB; shared pages count once for each worker."""
        return self._peak_mb + sum(worker.rss_mb for worker in self._workers)

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._data.close()
        self._broadcast.close()
