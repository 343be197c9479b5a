"""A served run in this process: the real server, real streams on loopback, real clients on another thread."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedbox.client.attendant import Attendant
from fedbox.client.join import SiteWork
from fedbox.configs import Config
from fedbox.configs.tls import Identity, read_identity
from fedbox.server.enrolment import Enrolment
from fedbox.server.fleet import Fleet
from fedbox.server.grpc_grid import GrpcGrid
from fedbox.server.lines import Terms
from fedbox.server.outcome import Result
from fedbox.server.serve import Host, serve
from fedbox.strategies.base import Message, RecordDict, to_record

TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 3,
    "data": {"options": {"limit": 300, "test_limit": 100}, "partition": {"clients": 3}},
    "model": {"name": "mlp", "options": {"hidden": 16}},
    "engine": {"workers": 1},
}


class Echo:
    """Work that gives back what it was sent; it counts, and can be held up."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self, config: str, run: str, number: int, classes: Sequence[str]) -> dict[str, int]:
        return {"labelled": 1, "unlabelled": 0, "test": 0, "classes": 10}

    def answer(self, message: Message) -> Message:
        self.gate.wait(20)
        self.seen.append(message.metadata.message_id)
        return Message(RecordDict(dict(message.content)), reply_to=message)


class Clients:
    """Clients on a thread of their own; each line can be cut."""

    def __init__(self, target: str, work: dict[str, Any], identity: Identity | None = None) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.loop = asyncio.new_event_loop()
        self.attendants = {name: Attendant(target, name, identity, each, self.pool) for name, each in work.items()}
        self.words: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_until_complete(self._all())

    async def _all(self) -> None:
        self.tasks = {name: asyncio.ensure_future(self._one(name)) for name in self.attendants}
        await asyncio.gather(*self.tasks.values())

    async def _one(self, name: str) -> None:
        try:
            self.words[name] = await self.attendants[name].run()
        except asyncio.CancelledError:
            self.words[name] = "cancelled"
        except Exception as error:
            self.words[name] = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        for task in getattr(self, "tasks", {}).values():
            self.loop.call_soon_threadsafe(task.cancel)
        self.join()

    def join(self, seconds: float = 20) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        self.pool.shutdown(wait=False, cancel_futures=True)


def site_clients(port: int, folder: Path, names: list[str]) -> Clients:
    work = {name: SiteWork(name, None, None, folder / name) for name in names}
    return Clients(f"127.0.0.1:{port}", work)


def serve_to(work: dict[str, Any], config: Config, out: Path, listed: Path | None = None) -> tuple[Result, Clients]:
    """Serve a run to clients on another thread, until all are told that it is over."""
    found: list[Clients] = []

    def begin(port: int) -> None:
        found.append(Clients(f"127.0.0.1:{port}", work))

    result = serve(config, Host("127.0.0.1:0", clients=listed), out=out, listening=begin)
    found[0].join()
    return result, found[0]


@contextmanager
def grid_for(
    names: list[str], identity: Identity | None = None, path: Path | None = None, **terms: Any
) -> Iterator[GrpcGrid]:
    fleet = Fleet(Enrolment(path, names), Terms(**terms), "{}", "run")
    grid = GrpcGrid(fleet, "127.0.0.1:0", identity, "life")
    try:
        yield grid
    finally:
        grid.close()


def ask(grid: GrpcGrid, size: int = 1000, timeout: float | None = 20.0, **more: Any) -> list[Message]:
    arrays = to_record({"a": np.arange(size, dtype=np.float32), "empty": np.zeros((0, 3))})
    messages = [Message(RecordDict({"arrays": arrays}), node, "train", group_id="1") for node in grid.get_node_ids()]
    return list(grid.stream(messages, timeout=timeout, **more))


def wait_until(true: Callable[[], bool], seconds: float = 3.0) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)


def identity_of(folder: Path, name: str, ca: Path | None = None) -> Identity:
    found = read_identity(folder / f"{name}.pem", folder / f"{name}.key", (ca or folder) / "ca.pem", insecure=False)
    assert found is not None
    return found
