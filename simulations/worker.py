"""A worker process: it holds one resident model and runs the clients that the pool sends it, one after the other.

The nursery forks it for the pool, with descriptors: the pipe, the lifeline, the data, the broadcast, two reply blocks.
"""

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..client.app import app
from ..client.driver import context_for, drive, reason_of
from ..client.workspace import Workspace, use
from ..configs import Config
from ..models.process import settle
from ..server.memory import peak_rss_mb
from ..strategies.base import Message, remade, run_config
from ..strategies.device import VISIBLE
from ..strategies.optim import make_optimizer
from .packing import Broadcasts, pack
from .protocol import Done, Setup, Surroundings, Task
from .shared import Block
from .sharing import attach
from .workers import WorkerError

_RSS_EVERY = 8  # replies: reading one's own memory takes longer than sending a small reply


class Worker:
    """The worker's end of the pipe."""

    def __init__(self, pipe: Connection, data: Block, broadcast: Block, slabs: list[Block]) -> None:
        self.pipe, self.data, self.broadcast, self.slabs = pipe, data, broadcast, slabs
        self.sent = 0
        self.rss_mb = 0.0
        self.broadcasts = Broadcasts()

    def setup(self, setup: Setup) -> None:
        """Build the workspace over the shared data."""
        if setup.gpu is not None:
            os.environ[VISIBLE] = setup.gpu  # nothing has asked for a GPU yet: neither the nursery nor this process
        config = Config.model_validate_json(setup.config_json)
        # torch's optimisers import a second's worth of modules when the first is made: not on a client's time.
        make_optimizer(config.train, [torch.nn.Parameter(torch.zeros(1))], config.train.lr)
        federation = attach(self.data, setup.data, config)
        workspace = Workspace(federation, Path(setup.folder) if setup.folder else None)
        use(workspace, setup.config_json, setup.folder)
        self.run_config = run_config(setup.config_json, setup.folder)

    def begin(self, setup: Setup) -> bool:
        """Set up and say so; False when that failed, which is told to the pool and raised where the user sees it."""
        try:
            self.setup(setup)
        except Exception as error:
            self.pipe.send(_portable(error))
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


def _portable(error: Exception) -> Exception:
    """Give an error that the pool can read: itself or, where it does not survive the way, one that tells of it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkerError(f"a worker could not be set up: {reason_of(error)}")
    return error


def _watch(lifeline: int) -> None:
    """End this process at once when the one that started it is gone."""
    os.read(lifeline, 1)
    os._exit(1)


def _settle_in(there: Surroundings) -> None:
    """Take over what the pool's process has had since the nursery began: environment, module path, working folder."""
    os.environ.clear()
    os.environ.update(there.environment)
    sys.path[:] = there.path
    with contextlib.suppress(OSError):  # removed meanwhile; whoever needs it says so
        os.chdir(there.folder)


def main(pipe_fd: int, lifeline: int, data_fd: int, broadcast_fd: int, *slab_fds: int) -> None:
    """Serve until the pool closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    pipe = Connection(pipe_fd)
    try:
        _settle_in(pipe.recv())
        settle()
        worker = Worker(pipe, Block(data_fd), Block(broadcast_fd), [Block(fd) for fd in slab_fds])
        if worker.begin(pipe.recv()):
            worker.serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
