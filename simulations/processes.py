"""The pool's end of a worker process: how it is started, what it runs, how it ends."""

import contextlib
import errno
import os
from collections import deque
from collections.abc import Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from ..strategies.base import Message
from .forking import NURSERY, Child, module_path, working_folder
from .protocol import Surroundings
from .shared import Block
from .workers import WorkerError


@dataclass
class Job:
    """One client to be run; `sent` is when it went to a worker, of `time.monotonic`."""

    number: int
    client: str
    message: Message
    attempts: int = 0
    sent: float = 0.0
    large: bool = False
    """Its task goes to an idle worker only."""
    unheard: bool = False
    """The worker was dead already when it was sent."""


@dataclass(eq=False)
class WorkerProcess:
    """A worker process and the clients that were sent to it, the running one first."""

    process: Child
    pipe: Connection
    lifeline: int | None
    slabs: list[Block]
    jobs: deque[Job] = field(default_factory=deque)
    ready: bool = False
    retired: bool = False
    """Gets no more clients, and goes when it has none."""
    rss_mb: float = 0.0
    gpu: str | None = None
    """The GPU that it has, where there are several."""

    @property
    def news(self) -> list[Any]:
        """What can be read from whenever it has said something or has ended.

        The pipe alone would not tell: a process that a client started, and that outlives it, holds its end open.
        """
        return [self.pipe, *self.process.news]

    def has_news(self, ready: Collection[Any]) -> bool:
        """Say, of what `wait` gave, whether it has said something or has ended."""
        return self.pipe in ready or self.process.ended()

    def hear(self) -> Any:
        """Give what it says next; waits for that. Raises EOFError where it has ended, be it in the middle of a word."""
        while not self.pipe.poll():
            if self.process.ended():
                raise EOFError
            wait(self.news)
        try:
            return self.pipe.recv()
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        """End the process and free what it held. May be called anew where a signal broke it off."""
        lifeline, self.lifeline = self.lifeline, None
        if lifeline is not None:
            os.close(lifeline)
        self.pipe.close()
        self.process.end()
        while self.slabs:
            self.slabs.pop().close()


def start_worker(slabs: int, shared: tuple[int, int]) -> WorkerProcess:
    """Have a worker forked with so many reply blocks; `shared`: the descriptors of the data and the broadcast.

    Raises WorkerError where this process may open no more files.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        try:
            pipe, far = Pipe()
            ours.callback(pipe.close)
            theirs.callback(far.close)
            lifeline, kept = os.pipe()
            ours.callback(os.close, kept)
            theirs.callback(os.close, lifeline)
            blocks = [ours.enter_context(closing(Block())) for _ in range(slabs)]
            process = NURSERY.fork([far.fileno(), lifeline, *shared, *(block.fd for block in blocks)])
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise WorkerError(
                f"no more workers: {error.strerror}. A worker takes {3 + slabs} files here; "
                "take fewer engine.workers, or raise the limit (ulimit -n)"
            ) from error
        with contextlib.suppress(BrokenPipeError):  # one that is already dead is noticed when its answer is awaited
            pipe.send(Surroundings(dict(os.environ), module_path(), working_folder()))
        ours.pop_all()
        return WorkerProcess(process, pipe, kept, blocks)
