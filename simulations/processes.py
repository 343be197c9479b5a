"""The pool's end of a worker process: how it is started, what it runs, how it ends."""

import contextlib
import os
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ..strategies.base import Message
from .forking import NURSERY, Child, module_path
from .protocol import Surroundings
from .shared import Block


@dataclass
class Job:
    """One client to be run; `sent` is when it went to a worker, of `time.monotonic`."""

    number: int
    client: str
    message: Message
    attempts: int = 0
    sent: float = 0.0


@dataclass(eq=False)
class WorkerProcess:
    """A worker process and the clients that were sent to it, the running one first."""

    process: Child
    pipe: Connection
    lifeline: int
    slabs: list[Block]
    jobs: deque[Job] = field(default_factory=deque)
    ready: bool = False
    retired: bool = False
    """Gets no more clients, and goes when it has none."""
    rss_mb: float = 0.0

    def close(self) -> None:
        """End the process and free what it held."""
        os.close(self.lifeline)
        self.pipe.close()
        self.process.end()
        for slab in self.slabs:
            slab.close()


def start_worker(slabs: int, shared: tuple[int, int]) -> WorkerProcess:
    """Have a worker forked with so many reply blocks; `shared`: the descriptors of the data and the broadcast."""
    pipe, theirs = Pipe()
    lifeline, kept = os.pipe()
    blocks = [Block() for _ in range(slabs)]
    process = NURSERY.fork([theirs.fileno(), lifeline, *shared, *(block.fd for block in blocks)])
    theirs.close()
    os.close(lifeline)
    with contextlib.suppress(BrokenPipeError):  # one that is already dead is noticed when its answer is awaited
        pipe.send(Surroundings(dict(os.environ), module_path(), os.getcwd()))
    return WorkerProcess(process, pipe, kept, blocks)
