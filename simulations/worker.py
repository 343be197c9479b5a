"""A worker process: it holds one resident model and runs the clients that the pool sends it, one after the other.

Started by the pool as `python -m fedbox.simulations.worker FD FD FD FD`: the pipe, the lifeline, two reply blocks.
"""

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..client.app import app
from ..client.driver import context_for, drive
from ..client.workspace import Workspace, use
from ..configs import Config
from ..models.process import settle
from ..server.memory import peak_rss_mb
from ..strategies.base import Message, remade, run_config
from ..strategies.optim import make_optimizer
from .packing import Broadcasts, pack
from .protocol import Done, Setup, Task
from .shared import Block
from .sharing import attach

_RSS_EVERY = 8  # replies: reading one's own memory takes longer than sending a small reply


class Worker:
    """The worker's end of the pipe."""

    def __init__(self, pipe: Connection, slabs: list[Block]) -> None:
        self.pipe = pipe
        self.slabs = slabs
        self.sent = 0
        self.rss_mb = 0.0
        self.broadcasts = Broadcasts()

    def setup(self, setup: Setup) -> None:
        """Build the workspace over the shared data."""
        config = Config.model_validate_json(setup.config_json)
        # torch's optimisers import a second's worth of modules when the first is made: not on a client's time.
        make_optimizer(config.train, [torch.nn.Parameter(torch.zeros(1))], config.train.lr)
        federation = attach(Block(setup.data_fd), setup.data, config)
        workspace = Workspace(federation, Path(setup.folder) if setup.folder else None)
        use(workspace, setup.config_json, setup.folder)
        self.broadcast = Block(setup.broadcast_fd)
        self.run_config = run_config(setup.config_json, setup.folder)

    def begin(self, setup: Setup) -> bool:
        """Set up and say so; False when that failed, which is told to the pool and raised where the user sees it."""
        try:
            self.setup(setup)
        except Exception as error:
            self.pipe.send(error)
            return False
        self.pipe.send(None)
        return True

    def serve(self) -> None:
        """Run tasks until the pipe closes."""
        while True:
            task: Task | Setup = self.pipe.recv()
            if isinstance(task, Setup):  # the next run of the same workers
                if not self.begin(task):
                    return
                continue
            began = time.monotonic()
            reply = self._run(task)
            ended = time.monotonic()
            slab = self.sent % len(self.slabs)
            if self.sent % _RSS_EVERY == 0:
                self.rss_mb = peak_rss_mb()
            self.pipe.send(Done(task.number, pack(reply, self.slabs[slab]), slab, self.rss_mb, began, ended))
            self.sent += 1

    def _run(self, task: Task) -> Message:
        content = self.broadcasts.content(
            task.records, task.layout, task.version, lambda: self.broadcast.view(task.size)
        )
        context = context_for(task.metadata.dst_node_id, task.client, self.run_config)
        return drive(app, remade(task.metadata, content), context)


def _watch(lifeline: int) -> None:
    """End this process at once when the one that started it is gone."""
    os.read(lifeline, 1)
    os._exit(1)


def main() -> None:
    """Serve until the pool closes the pipe."""
    pipe_fd, lifeline, *slab_fds = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    settle()
    worker = Worker(Connection(pipe_fd), [Block(fd) for fd in slab_fds])
    try:
        if worker.begin(worker.pipe.recv()):
            worker.serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
