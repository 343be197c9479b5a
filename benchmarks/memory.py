"""Seconds a round and peak memory against the population and the cohort, each size in a process of its own."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from contest import NEVER, Fedbox
from race import LR

from fedbox.configs import load_config
from fedbox.models.process import settle
from fedbox.server.memory import peak_rss_mb
from fedbox.strategies.base import identity
from fedbox.strategies.federation import Federation
from fedbox.strategies.grids import RUN_ID

LARGEST = 100_000
SIZES = {
    "population_1000": (1_000, 100),
    "population_10000": (10_000, 100),
    "population_100000": (LARGEST, 100),
    "cohort_100": (LARGEST, 100),
    "cohort_1000": (LARGEST, 1_000),
    "cohort_10000": (LARGEST, 10_000),
}
"""Population and cohort of each row."""


def memory_of(population: int, cohort: int, rounds: int) -> dict[str, float]:
    """Run rounds over a population in this process; give seconds a round, the first left out, and memory in MB."""
    config = load_config(
        {
            "rounds": NEVER,
            "model": {"name": "mlp", "options": {"hidden": 1024}},
            "data": {
                "dataset": "synthetic",
                "options": {"samples": 2 * LARGEST, "test_samples": 20, "size": 8},
                "partition": {"kind": "iid", "clients": population},
            },
            "train": {"steps": 2, "batch_size": 2, "lr": LR},
            "clients": {"per_round": cohort},
            "evaluate": {"every": NEVER},
        }
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(identity(RUN_ID))
        federation = Federation.prepare(config)
        fedbox = Fedbox(federation, Path(folder) / "run", 1, stack)
        ready, seconds, after_first = peak_rss_mb(), [], 0.0
        for number in range(1, rounds + 1):
            start = time.perf_counter()
            fedbox.round(number, fedbox.coordinator.half.weights)
            seconds.append(time.perf_counter() - start)
            after_first = after_first or peak_rss_mb()
        return {
            "population": population,
            "cohort": cohort,
            "seconds": statistics.median(seconds[1:] or seconds),
            "ready_mb": ready,
            "first_round_mb": after_first,
            "peak_mb": peak_rss_mb(),
        }


def measure(quick: bool, tell: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Measure every size once; a size that stands in two rows is measured once."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for population, cohort in SIZES.values():
        if (population, cohort) in found:
            continue
        tell(f"{population:,} clients, {cohort:,} a round")
        rounds = 10 if cohort <= 1_000 else 3
        if quick:
            rounds = 2 if cohort <= 1_000 else 1
        command = [sys.executable, __file__, str(population), str(cohort), str(rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[population, cohort] = json.loads(done.stdout.splitlines()[-1])
    return {name: found[size] for name, size in SIZES.items()}


if __name__ == "__main__":
    settle()
    print(json.dumps(memory_of(*map(int, sys.argv[1:]))))
