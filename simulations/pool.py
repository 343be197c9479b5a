"""A pool of worker processes with one queue: whoever is free takes the next client.

Out of memory (`driver.lacks_memory`, or a client's worker is killed): half of the workers go, and the client is tried
once more beside the others.
"""

import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler

from ..strategies.base import LOST, ArrayRecord, Error, Message
from ..strategies.federation import Federation
from ..strategies.grids import Span
from .crew import SLABS, Crew
from .packing import layout_of, unpack, write_arrays
from .processes import Job, WorkerProcess
from .protocol import Done, Task
from .retries import Retries, lacked_memory

_AHEAD = 2**15  # bytes of a task that a pipe surely takes in one go, though nobody reads from it


class Pool(Crew):
    """Gives the workers clients and takes their replies."""

    def __init__(self, workers: int) -> None:
        self._record: ArrayRecord | None = None
        self._version = self._record_size = self._numbers = 0
        self.spans: list[Span] = []
        super().__init__(workers)

    def setup(self, federation: Federation, config_json: str, folder: str) -> None:
        """Give every worker the configuration and the data. Raises WorkerError, or what a worker's setup raised."""
        self.retries = Retries()
        super().setup(federation, config_json, folder)

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
                ready = wait([each for worker in busy for each in worker.news], left)
                if not ready:
                    return
                for worker in busy:
                    if worker not in self._workers:
                        continue  # gone meanwhile, for lack of memory
                    if not worker.has_news(ready):
                        continue
                    if worker.ready:
                        yield from self._take(worker, queue)
                    else:
                        self._await_ready(worker)
        finally:
            for worker in list(self._workers):
                if worker.jobs:  # cut short: the deadline came, or whoever reads the replies stops, perhaps for good
                    self._dismiss(worker)

    def _fill(self, source: Iterator[tuple[str, Message]], queue: deque[Job]) -> None:
        """Give a client to every idle worker, and a second one while so many wait that nobody will stand idle."""
        for depth in range(1, SLABS + 1):
            for worker in [worker for worker in self._workers if worker.ready and not worker.retired]:
                spare = self.workers if depth > 1 else 1
                while len(queue) < spare and (job := self._next(source)):
                    queue.append(job)
                if len(queue) >= spare and len(worker.jobs) < depth and (depth == 1 or not queue[0].large):
                    job = queue.popleft()
                    if not self._send(worker, job):
                        queue.appendleft(job)

    def _next(self, source: Iterator[tuple[str, Message]]) -> Job | None:
        item = next(source, None)
        if item is None:
            return None
        self._numbers += 1
        return Job(self._numbers, *item)

    def _send(self, worker: WorkerProcess, job: Job) -> bool:
        """Send a client to a worker; False where that must wait until the worker is idle.

        While it runs a client it does not read: a task that does not fit into the pipe would make us wait for it, and
        it for us, where its own reply does not fit either.
        """
        records = dict(job.message.content)
        record, layout = records.get("arrays"), None
        if isinstance(record, ArrayRecord) and self._publish(record):
            layout = layout_of(record)
            del records["arrays"]
        metadata, size = job.message.metadata, self._record_size
        task = Task(job.number, job.client, metadata, records, self._version, layout, size)
        data = ForkingPickler.dumps(task)
        job.large = len(data) > _AHEAD
        if job.large and worker.jobs:
            return False
        worker.jobs.append(job)
        job.sent = time.monotonic()
        try:
            worker.pipe.send_bytes(data)
            job.unheard = False
        except BrokenPipeError:  # reading from its pipe tells, and the job is taken up there
            job.unheard = True
        return True

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
            done: Done = worker.hear()
        except EOFError:
            yield from self._bury(worker, queue)
            return
        job = worker.jobs.popleft()
        worker.rss_mb, place = done.rss_mb, str(self._workers.index(worker) + 1)
        reply = unpack(done.packed, worker.slabs[done.slab])
        again = lacked_memory(reply) and self._try_again(worker, job, short=True)
        if worker.retired and not worker.jobs:
            self._dismiss(worker)
        if again:
            queue.appendleft(job)
        else:
            self.spans.append(Span(job.client, place, done.began, done.ended))
            yield reply

    def _bury(self, worker: WorkerProcess, queue: deque[Job]) -> Iterator[Message]:
        """Replace a dead worker; its running client is tried again once, the one that waited behind it goes back.

        A client that never reached it has not been tried: several workers may die while they are idle.
        """
        running, *waiting = worker.jobs
        worker.jobs.clear()
        queue.extendleft(reversed(waiting))
        code = worker.process.wait()
        again = running.unheard or self._try_again(worker, running, short=code == -signal.SIGKILL)
        self._replace(worker)
        if again:
            queue.appendleft(running)
            return
        reason = f"the worker process died twice while it ran {running.client} (exit code {code})"
        if code == -signal.SIGKILL:
            reason += "; it was killed, perhaps for lack of memory: fewer engine.workers need less"
        yield Message(Error(LOST, reason), reply_to=running.message)

    def _try_again(self, worker: WorkerProcess, job: Job, short: bool) -> bool:
        """Say whether a client that failed with its worker is to be run once more; halve the workers if `short`."""
        job.attempts += 1
        if not self.retries.again(job.client, job.attempts):
            return False
        if short:
            self._halve(worker, job.client, job.sent)
        return True
