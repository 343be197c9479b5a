"""What a GPU gains: clients one by one, in a stack, in a stack under CUDA graphs, and a bare PyTorch loop.

    python benchmarks/gpu.py [--device cuda] [--quick] [--json FILE] [--only WORK ...] [--turns N]

The work is that of `race.py`: twenty clients, one epoch of plain SGD. The contestants take turns on one device; each
turn begins from the same weights and must give nearly the same model. Given are clients a second, how many times
faster than the bare loop, and the share of the time in which the GPU computed: the kernels' time by torch's profiler,
in a turn of its own. With --device cpu it shows that it works; graphs are then steps as they come.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Contestant, Weights, difference, machine, take_turn
from race import CLIENTS, LOOP, WORKS, Loop, Work, config_of, initial

from fedbox.client.workspace import Visit, Workspace
from fedbox.models.process import settle
from fedbox.strategies.base import identity
from fedbox.strategies.federation import Federation
from fedbox.strategies.grids import RUN_ID

ONE_BY_ONE, STACK, GRAPHS = "one_by_one", "stack", "stack_cuda_graphs"
ENGINES: Mapping[str, dict[str, Any]] = {
    ONE_BY_ONE: {"stack": "off"},
    STACK: {"stack": CLIENTS, "cuda_graphs": False},
    GRAPHS: {"stack": CLIENTS, "cuda_graphs": True},
}
WARM_UP = 4  # turns that do not count: kernels are chosen, and graphs recorded, in these
TOLERANCE = 1e-2  # largest difference of a weight after a round: kernels round by shape, convolutions as TF32
DEFAULT = ("cnn", "mlp", "resnet", "small")


class Clients:
    """fedbox's clients on a device, without messages: what the engine's worker does with them."""

    def __init__(self, work: Work, device: str, engine: Mapping[str, Any]) -> None:
        federation = Federation.prepare(config_of(work, device=device, **engine))
        self.names = [federation.name(number) for number in range(len(federation))]
        self.workspace, self.stacked = Workspace(federation, None), engine["stack"] != "off"

    def round(self, number: int, weights: Weights) -> Weights:
        """Train every client and average their weights by samples, in float64."""
        visits = [Visit(name, number, "train", {}, weights) for name in self.names]
        total = {name: np.zeros(value.shape) for name, value in weights.items()}
        examples = 0
        found = self.workspace.train_stacked(visits) if self.stacked else map(self.workspace.train, visits)
        for update in found:
            examples += update.examples
            for name, value in update.weights.items():
                total[name] += np.multiply(value, update.examples, dtype=np.float64)
        return {name: (value / examples).astype(weights[name].dtype) for name, value in total.items()}


def race(work: Work, device: str, turns: int) -> dict[str, Any]:
    """Let the contestants take turns. Raises SystemExit where they did not do the same work."""
    with identity(RUN_ID):
        federation = Federation.prepare(config_of(work, device=device))
        field: dict[str, Contestant] = {LOOP: Loop(federation)}
        field |= {name: Clients(work, device, engine) for name, engine in ENGINES.items()}
        weights, apart, seconds = initial(federation), 0.0, {name: list[float]() for name in field}
        for number in range(1, WARM_UP + turns + 1):
            results, took = take_turn(field, number, weights)
            apart = max(apart, *(difference(result, results[LOOP]) for result in results.values()))
            if number > WARM_UP:
                for name, each in took.items():
                    seconds[name].append(each)
            weights = results[LOOP]
        if not apart <= TOLERANCE:
            raise SystemExit(f"not the same work: weights differ by {apart:g}")
        busy = {name: share(each, weights) for name, each in field.items()} if device != "cpu" else {}
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "clients_per_second": {name: CLIENTS / value for name, value in middle.items()},
        "ratios": {name: middle[LOOP] / value for name, value in middle.items()},
        "gpu_busy": busy,
        "largest_difference": apart,
    }


def share(contestant: Contestant, weights: Weights) -> float:
    """Give the share of a round in which the GPU computed. Kernels of one stream do not overlap."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        contestant.round(1, weights)
        torch.cuda.synchronize()
        took = time.perf_counter() - start
    return sum(each.self_device_time_total for each in profiler.key_averages()) / 1e6 / took


def show(found: Mapping[str, Any]) -> None:
    """Print the table."""
    print(
        "\n| work | contestant | clients a second | times faster than the loop | GPU computes |\n|---|---|---|---|---|"
    )
    for work, result in found["races"].items():
        for name, rate in result["clients_per_second"].items():
            busy = f"{100 * result['gpu_busy'][name]:.0f} %" if name in result["gpu_busy"] else "-"
            print(f"| {work} | {name} | {rate:.0f} | {result['ratios'][name]:.2f} | {busy} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="torch device [default: cuda]")
    parser.add_argument("--quick", action="store_true", help="two turns: shows that it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--only", nargs="+", choices=list(WORKS), metavar="WORK", default=list(DEFAULT))
    parser.add_argument("--turns", type=int, metavar="N", default=15, help="turns that count [default: 15]")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error(f"--turns is {options.turns}; give at least 1")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch sees no GPU here; --device cpu shows that the script works")
    settle()
    name = "cpu" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    found: dict[str, Any] = {"machine": machine(), "device": name, "races": {}}
    for work in options.only:
        print(f"{work} on {name}", file=sys.stderr, flush=True)
        found["races"][work] = race(WORKS[work], options.device, 2 if options.quick else options.turns)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
