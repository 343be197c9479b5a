"""The pool's end of a worker process: how it is started, what it runs, how it ends."""

import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ..strategies.base import Message
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

    process: "subprocess.Popen[bytes]"
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
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        os.close(self.lifeline)
        for slab in self.slabs:
            slab.close()


def start_worker(slabs: int, shared: list[int]) -> WorkerProcess:
    """Start a process with so many reply blocks that inherits the shared descriptors."""
    pipe, theirs = Pipe()
    lifeline, kept = os.pipe()
    blocks = [Block() for _ in range(slabs)]
    fds = [theirs.fileno(), lifeline, *(block.fd for block in blocks)]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fedbox.simulations.worker", *map(str, fds)],
        pass_fds=[*fds, *shared],
        stdin=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C reaches only us; the lifeline ends the workers
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    theirs.close()
    os.close(lifeline)
    return WorkerProcess(process, pipe, kept, blocks)
