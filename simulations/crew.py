"""The worker processes of a pool: how many there are, what they are set up for, who takes the place of whom."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..strategies.device import gpus
from ..strategies.federation import Federation
from .processes import WorkerProcess, start_worker
from .protocol import Setup
from .retries import Retries
from .schedule import Schedule
from .shared import Block
from .sharing import share
from .workers import WorkerError

SLABS = 2  # a reply may be read while the next client already runs
ATTEMPTS = 2  # at a worker that ends before it is ready


class Crew:
    """Starts workers, sets them up, replaces those that end, lets half of them go where memory is short."""

    def __init__(self, workers: int) -> None:
        self._data, self._broadcast = Block(), Block()
        self._setup: Setup | None = None
        self._gpus: list[str] = []
        self._peak_mb = 0.0
        self.retries = Retries()
        self._lost = 0  # workers in a row that ended before they were ready
        self.workers = self._wanted = workers
        self._workers: list[WorkerProcess] = []
        try:
            self._complete()
        except BaseException:
            self.close()
            raise

    def _complete(self) -> None:
        """Start the workers that are missing: at first, for a next run, and where a round was cut short."""
        while sum(not worker.retired for worker in self._workers) < self.workers:
            self._workers.append(self._start())

    def _start(self, gpu: str | None = None) -> WorkerProcess:
        worker = start_worker(SLABS, (self._data.fd, self._broadcast.fd))
        worker.gpu = gpu
        if self._setup is not None:
            self._tell(worker)
        return worker

    def setup(self, federation: Federation, config_json: str, folder: str) -> None:
        """Give every worker the configuration and the data. Raises WorkerError, or what a worker's setup raised.

        The workers of a run that has ended can be set up for the next one, which has as many as the pool was made with.
        """
        self.schedule = Schedule(federation)
        self._setup, self.workers = None, self._wanted
        self._gpus = gpus(federation.config.engine.device)
        self._complete()
        shared = share(federation, self._data)
        self._setup = Setup(config_json, folder, shared)
        for worker in self._workers:
            worker.ready = False
            self._tell(worker)
        self.await_ready()

    def _tell(self, worker: WorkerProcess) -> None:
        assert self._setup is not None
        if worker.gpu is None and self._gpus:
            taken = Counter(each.gpu for each in self._workers if not each.retired)
            worker.gpu = min(self._gpus, key=lambda gpu: taken[gpu])
        # A worker that is already dead is noticed when its answer is awaited.
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(replace(self._setup, gpu=worker.gpu))

    def _await_ready(self, worker: WorkerProcess) -> None:
        if worker.ready:
            return
        try:
            problem = worker.hear()
        except EOFError as error:
            self._lost += 1
            if self._lost < ATTEMPTS:
                self._replace(worker)
                return
            raise WorkerError(
                f"a worker process ended with code {worker.process.wait()} before it was ready, and so did the one "
                "before it; what it said stands above; with engine.workers=1 everything runs in this process"
            ) from error
        if problem is not None:
            raise problem
        worker.ready, self._lost = True, 0

    def await_ready(self) -> None:
        """Wait until every worker can take clients, those that replace others included. Raises as `setup` does."""
        self._complete()
        while waiting := [worker for worker in self._workers if not worker.ready]:
            self._await_ready(waiting[0])

    def _halve(self, first: WorkerProcess, client: str, sent: float) -> None:
        """Retire half of the workers, `first` and idle ones before others; those that run a client end it."""
        active = [worker for worker in self._workers if not worker.retired]
        ranked = _by_turns(sorted(active, key=lambda worker: (worker is not first, len(worker.jobs))))
        gone = self.retries.half(client, sent, ranked)
        self.workers = len(active) - len(gone)
        for worker in gone:
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
        self._workers[self._workers.index(worker)] = self._start(worker.gpu)

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


def _by_turns(workers: Sequence[WorkerProcess]) -> list[WorkerProcess]:
    """Give the workers so that their GPUs take turns, and otherwise in their order."""
    turns = Counter[str | None]()
    ranked: list[tuple[int, WorkerProcess]] = []
    for worker in workers:
        turns[worker.gpu] += 1
        ranked.append((turns[worker.gpu], worker))
    return [worker for _, worker in sorted(ranked, key=lambda pair: pair[0])]
