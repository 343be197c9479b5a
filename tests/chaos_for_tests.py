"""A served run under bad luck: lines cut and delayed by a proxy, clients and the server killed at random.

    python tests/chaos_for_tests.py --rounds 20 --clients 5 --server-kills 3 --client-kills 5

It runs the same configuration undisturbed in this process first, then served, each part a process of its own, and says
whether the model is the same, whether every client counts once in each round, and how often what was done.
"""

import argparse
import asyncio
import json
import math
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import fedbox
from fedbox.server.records import read_rounds


class Proxy:
    """Passes TCP on to a port of this machine; `cut` ends every connection, `delay` holds each packet up (seconds).

    `up` and `down`: bytes a second to the port, and back from it, that go through.
    """

    def __init__(
        self, target: int, delay: float = 0.0, seed: int = 0, up: float = math.inf, down: float = math.inf
    ) -> None:
        self.target, self.delay, self.up, self.down, self.port, self.cuts = target, delay, up, down, 0, 0
        self._random = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # ends the tasks that are left, too
            runner.run(self._serve())

    async def _serve(self) -> None:
        listening = self._socket()
        listening.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(self._pass, sock=listening)
        self.port = listening.getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        self._cut()
        server.close()

    def _socket(self) -> socket.socket:
        """Give a socket; that of a slow line takes in little beyond what it passes on."""
        made = socket.socket()
        if math.isfinite(min(self.up, self.down)):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)
        made.setblocking(False)
        return made

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = self._socket()
            await asyncio.get_running_loop().sock_connect(onward, ("127.0.0.1", self.target))
            there, back = await asyncio.open_connection(sock=onward)
        except OSError:
            writer.close()
            return
        self._open |= {writer, back}
        await asyncio.gather(self._pump(reader, back, self.up), self._pump(there, writer, self.down))
        self._open -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float) -> None:
        with suppress(OSError):
            while data := await reader.read(65536 if math.isinf(rate) else 8192):
                if self.delay or math.isfinite(rate):
                    await asyncio.sleep(self._random.uniform(0, self.delay) + len(data) / rate)
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()

    def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    def cut(self) -> None:
        """Break all connections at once, as a cable does."""
        self.cuts += 1
        self._loop.call_soon_threadsafe(self._cut)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


class Chaos:
    """The processes of a served run, and what is done to them."""

    def __init__(self, folder: Path, config: Path, clients: int, port: int, seed: int) -> None:
        self.folder, self.config, self.port = folder, config, port
        self.random = random.Random(seed)
        self.proxy = Proxy(port, delay=0.02, seed=seed)
        self.server = self._serve(resume=False)
        self.clients = {f"client-{number}": self._join(f"client-{number}") for number in range(clients)}

    def _start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "fedbox", *arguments], stdout=log, stderr=log)

    def _serve(self, resume: bool) -> "subprocess.Popen[bytes]":
        place = ["--listen", f"127.0.0.1:{self.port}", "--insecure", "--out", str(self.folder / "served")]
        more = ["--resume"] if resume else []
        return self._start("server", "serve", str(self.config), *place, "--grace", "300", "--heartbeat", "5", *more)

    def _join(self, name: str) -> "subprocess.Popen[bytes]":
        state = str(self.folder / "state" / name)
        return self._start(name, "join", f"127.0.0.1:{self.proxy.port}", "--name", name, "--insecure", "--state", state)

    def rounds(self) -> int:
        return len(read_rounds(self.folder / "served" / "rounds.jsonl"))

    def kill_server(self) -> None:
        self.server.kill()
        self.server.wait()
        self.server = self._serve(resume=(self.folder / "served" / "config.yaml").exists())

    def kill_client(self) -> None:
        name = self.random.choice(sorted(self.clients))
        self.clients[name].kill()
        self.clients[name].wait()
        self.clients[name] = self._join(name)

    def close(self) -> None:
        for process in (self.server, *self.clients.values()):
            process.kill()
            process.wait()
        self.proxy.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_chaos(
    folder: Path, *, rounds: int, clients: int, server_kills: int, client_kills: int, cuts: int, seed: int = 0,
    limit: float = 280.0,
) -> dict[str, Any]:  # fmt: skip
    """Give what came of it: rounds, hashes of both runs, examples and replies that were counted, what was done."""
    config = folder / "chaos.yaml"
    work = {
        "name": "chaos",
        "rounds": rounds,
        "seed": seed,
        "data": {"options": {"limit": 600, "test_limit": 100}, "partition": {"clients": clients}},
        "model": {"name": "mlp", "options": {"hidden": 16}},
        "train": {"epochs": 20},
    }
    config.write_text(yaml.safe_dump(work))
    calm = fedbox.run(str(config), out=folder / "calm", workers=1, quiet=True, report=False)
    chaos = Chaos(folder, config, clients, free_port(), seed)
    blows = [chaos.kill_server] * server_kills + [chaos.kill_client] * client_kills + [chaos.proxy.cut] * cuts
    chaos.random.shuffle(blows)
    began, due = time.monotonic(), 1.0
    try:
        while chaos.server.poll() is None:
            if time.monotonic() - began > limit:
                raise TimeoutError(f"round {chaos.rounds()} of {rounds} after {limit:g} s; see {folder}")
            if blows and chaos.rounds() >= due:
                blows.pop()()
                due += rounds * 0.9 / (server_kills + client_kills + cuts)
            time.sleep(0.02)
        codes = [process.wait(30) for process in chaos.clients.values()]
    finally:
        chaos.close()
    summary = json.loads((folder / "served" / "summary.json").read_text())
    told = [{name: row["examples"] for name, row in line["clients"].items()} for line in
            read_rounds(folder / "served" / "rounds.jsonl")]  # fmt: skip
    return {
        "rounds": summary["rounds"],
        "same_model": summary["model_sha256"] == calm.summary["model_sha256"],
        "same_examples": told == [{n: r["examples"] for n, r in line["clients"].items()} for line in calm.rounds],
        "failures": summary["failures"],
        "server_code": chaos.server.returncode,
        "client_codes": codes,
        "blows_left": len(blows),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, value in {
        "rounds": 20,
        "clients": 5,
        "server-kills": 3,
        "client-kills": 5,
        "cuts": 10,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{option}", type=int, default=value)
    options = vars(parser.parse_args())
    with TemporaryDirectory() as folder:
        print(json.dumps(run_chaos(Path(folder), **options, limit=1800), indent=2))


if __name__ == "__main__":
    main()
