"""What the benchmarks share: fedbox as a contestant, comparison of models, a description of the machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedbox.client.workspace import Workspace, forget, use
from fedbox.data.cores import cores
from fedbox.server.loop import PAUSE, Coordinator
from fedbox.server.records import versions
from fedbox.simulations.inprocess import InProcessGrid
from fedbox.simulations.pool import Pool
from fedbox.strategies.federation import Federation
from fedbox.strategies.registry import find

Weights = Mapping[str, NDArray[Any]]

NEVER = 10**9  # rounds: nobody evaluates


class Contestant(Protocol):
    """One way to run rounds. Another one joins by a class with this method and a line in `contestants`."""

    def round(self, number: int, weights: Weights) -> Weights:
        """Run a round from the given global weights; give the new ones."""


class Fedbox:
    """A whole round of fedbox, messages, checks, exact sum, record and checkpoint included; no evaluation.

    Without `refine` the server does not train on data of its own.
    """

    def __init__(
        self, federation: Federation, folder: Path, workers: int, stack: ExitStack, *, refine: bool = True
    ) -> None:
        config_json = federation.config.model_dump_json()
        folder.mkdir(parents=True)
        pool = Pool(workers) if workers > 1 else None
        grid = InProcessGrid(len(federation), config_json, str(folder), pool)
        stack.callback(grid.close)
        if pool is not None:
            pool.setup(federation, config_json, str(folder))
        else:
            use(Workspace(federation, folder), config_json, str(folder))
            stack.callback(forget)
        self.coordinator = Coordinator(federation, find(federation.config.strategy), grid, folder, pause=PAUSE)
        stack.callback(self.coordinator.writer.wait)  # what is still being written lies in the folder
        if not refine:
            self.coordinator.half.refine = lambda _site: {}  # type: ignore[method-assign]

    def round(self, number: int, weights: Weights) -> Weights:
        """Run one round of the server's loop."""
        self.coordinator.half.weights = dict(weights)
        self.coordinator._run_round(number)
        return self.coordinator.half.weights


class Apart:
    """A contestant in a process of its own: what fedbox sets for its processes does not reach it there.

    `took` is the seconds of the last round by its own clock, the way there and back left out.
    """

    def __init__(self, make: Callable[[], Contestant], stack: ExitStack) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # It bears the name by which pfl, for one, decides whether it may run in this process.
        process = context.Process(target=_alone, args=(make, theirs), name="MainProcess", daemon=True)
        process.start()
        theirs.close()
        stack.callback(process.join)
        stack.callback(self._pipe.close)
        self.took = 0.0

    def round(self, number: int, weights: Weights) -> Weights:
        """Let it run a round. Raises EOFError where it died; its own message stands above."""
        self._pipe.send((number, weights))
        result: Weights
        result, self.took = self._pipe.recv()
        return result


def _alone(make: Callable[[], Contestant], pipe: Connection) -> None:
    torch.set_num_threads(1)
    contestant = make()
    try:
        while True:
            number, weights = pipe.recv()
            start = time.perf_counter()
            result = contestant.round(number, weights)
            pipe.send((result, time.perf_counter() - start))
    except EOFError:
        return


def take_turn(
    field: Mapping[str, Contestant], number: int, weights: Weights
) -> tuple[dict[str, Weights], dict[str, float]]:
    """Let everyone run round `number` from the same weights; give the new weights and the seconds of each.

    Who begins changes from turn to turn: everyone gets every place.
    """
    results: dict[str, Weights] = {}
    took: dict[str, float] = {}
    first, names = number % len(field), list(field)
    for name in [*names[first:], *names[:first]]:
        start = time.perf_counter()
        results[name] = field[name].round(number, weights)
        took[name] = getattr(field[name], "took", time.perf_counter() - start)
    return results, took


def difference(left: Weights, right: Weights) -> float:
    """Give the largest difference of two models' weights."""
    if left.keys() != right.keys():
        raise SystemExit(f"the models have other names: {sorted(left.keys() ^ right.keys())}")
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


def machine() -> dict[str, Any]:
    """Say on what this was measured."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": cores(),
        "cpu": cpu,
        "system": platform.system(),
        "load_before": os.getloadavg()[0],
        "versions": versions(),
    }
