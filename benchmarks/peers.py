"""Whole programs side by side: Flower's Ray simulation with two actors, and `fedbox.run` with two workers.

Each is a process of its own, from its start to its last round, in alternation. The rounds' model is checked to be that
of the bare loop.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Weights, difference
from flower_app import OUT, ROUNDS, WORK
from race import CLIENTS, WORKS, config_of, initial, loop_of
from safetensors.numpy import load_file

from fedbox.strategies.federation import Federation

HERE = Path(__file__).resolve().parent
LIMIT = 600.0  # seconds that one program may take
TOLERANCE = 1e-3  # largest difference of a weight after all rounds: it grows with them


def flower() -> None:
    """Run Flower's simulation in this process."""
    import flower_app
    from flwr.simulation import run_simulation

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    options = {"init_args": {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}}
    run_simulation(flower_app.server, flower_app.client, CLIENTS, backend_config={**resources, **options})


def fedbox_() -> None:
    """Run the same with fedbox in this process."""
    import fedbox

    ended: list[float] = []

    class Stamp(fedbox.Callback):
        def on_round(self, record: Any) -> None:
            ended.append(time.time())

    config, out = config_of(WORKS[os.environ[WORK]], int(os.environ[ROUNDS]), workers=2), Path(os.environ[OUT])
    fedbox.run(config.model_dump(), out=out / "run", quiet=True, report=False, callbacks=[Stamp()])
    (out / "model.safetensors").write_bytes((out / "run" / "model.safetensors").read_bytes())
    (out / "ended.json").write_text(json.dumps(ended), encoding="utf-8")


PROGRAMS: dict[str, Callable[[], None]] = {"flower": flower, "fedbox": fedbox_}


def run(program: str, work: str, rounds: int) -> tuple[list[float], Weights]:
    """Run a program; give when each round ended, in seconds after its start, and the final weights."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, WORK: work, ROUNDS: str(rounds), OUT: folder,
            "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        }  # fmt: skip
        log, began = Path(folder, "log"), time.time()
        with log.open("wb") as file:
            done = subprocess.run(
                [sys.executable, __file__, program],
                env=environment,
                stdout=file,
                stderr=file,
                timeout=LIMIT,
                check=False,
            )
        if done.returncode or not Path(folder, "ended.json").is_file():
            raise SystemExit(f"{program} failed:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
        ended = json.loads(Path(folder, "ended.json").read_text(encoding="utf-8"))
        return [end - began for end in ended], load_file(Path(folder, "model.safetensors"))


def compare(work: str, rounds: int, times: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run both programs `times` times in turn; give seconds a round, to the first round, and how many times faster.

    The first two rounds of a program do not count as rounds. Raises SystemExit where the models differ.
    """
    expected = after(work, rounds)
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    first: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for turn in range(1, times + 1):
        for name in PROGRAMS:
            tell(f"{name}, {rounds} rounds, time {turn} of {times}")
            ended, weights = run(name, work, rounds)
            first[name].append(ended[0])
            seconds[name] += np.diff(ended)[1:].tolist()
            if not difference(weights, expected) <= TOLERANCE:
                raise SystemExit(f"{name}: not the same work, weights differ by {difference(weights, expected):g}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ratio": medians["flower"] / medians["fedbox"],
        "seconds_a_round": medians,
        "first_round_seconds": {name: statistics.median(values) for name, values in first.items()},
        "single": {"seconds_a_round": seconds, "first_round_seconds": first},
    }


def after(work: str, rounds: int) -> Weights:
    """Give the bare loop's weights after so many rounds."""
    weights: Weights = initial(Federation.prepare(config_of(WORKS[work])))
    for number in range(1, rounds + 1):
        weights = loop_of(WORKS[work]).round(number, weights)
    return weights


if __name__ == "__main__":
    torch.set_num_threads(1)
    PROGRAMS[sys.argv[1]]()
