"""Seconds a round: fedbox against a bare PyTorch loop that does the same work, and memory against the population.

    python benchmarks/rounds.py [--quick] [--json FILE] [--model cnn|mlp|resnet] [--repeats N] [--no-memory]

Twenty clients with 100 images of 1x28x28 each train one epoch of plain SGD in batches of 20; their weights are
averaged. The contestants take turns, round by round, in one process, so that a busy machine slows all of them; each
round begins from the same weights, and its result is checked to be the same model. See benchmarks/README.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from contest import NEVER, Contestant, Fedbox, Weights, difference, machine

from fedbox.configs import Config, load_config
from fedbox.models import build_model
from fedbox.server.memory import peak_rss_mb
from fedbox.strategies.base import identity
from fedbox.strategies.federation import Federation
from fedbox.strategies.grids import RUN_ID
from fedbox.strategies.seeds import generator

CLIENTS, IMAGES, SIZE, BATCH, LR = 20, 100, 28, 20, 0.05
TOLERANCE = 1e-5  # largest difference of a weight after a round
WARM_UP = 3
LOOP, LOOP_LAST, ONE, TWO = "loop", "loop_channels_last", "one_worker", "two_workers"


class Loop:
    """What one would write without any framework: module, optimiser, tensors, nothing else."""

    def __init__(self, federation: Federation, memory_format: torch.memory_format) -> None:
        data, self.seed = federation.dataset, federation.config.seed
        name = federation.config.model.name
        model = build_model(name, shape=data.shape, classes=len(data.classes), seed=self.seed)
        self.model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.clients: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        for number in range(len(federation)):
            name = federation.name(number)
            samples = federation.samples(federation.roles(name).labelled, torch.device("cpu"))
            self.clients.append((name, samples.x(slice(None)).contiguous(memory_format=memory_format), samples.y))

    def round(self, number: int, weights: Weights) -> Weights:
        """Train every client on its tensors and average their weights by samples, in float64."""
        model, state = self.model, {name: torch.from_numpy(value) for name, value in weights.items()}
        total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in state.items()}
        examples = 0
        model.train()
        for name, x, y in self.clients:
            model.load_state_dict(state)
            optimizer = torch.optim.SGD(model.parameters(), LR)
            # The order of samples is the one that fedbox draws: the same batches, so the same model.
            order = torch.randperm(len(y), generator=generator(self.seed, "site", number, "train", name))
            for index in torch.split(order, BATCH):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x[index]), y[index])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            for key, value in model.state_dict().items():
                total[key] += value.double() * len(y)
            examples += len(y)
        return {name: (value / examples).to(state[name].dtype).numpy() for name, value in total.items()}


def work(model: str) -> Config:
    """Give the configuration of the work."""
    return load_config(
        {
            "name": "benchmark",
            "rounds": NEVER,
            "model": model,
            "data": {
                "dataset": "synthetic",
                "options": {"samples": CLIENTS * IMAGES, "test_samples": 20, "size": SIZE},
                "partition": {"kind": "iid", "clients": CLIENTS},
            },
            "train": {"epochs": 1, "batch_size": BATCH, "lr": LR},
            "evaluate": {"every": NEVER},
        }
    )


def contestants(federation: Federation, folder: Path, stack: ExitStack) -> dict[str, Contestant]:
    """Give every contestant, ready to run."""
    return {
        LOOP: Loop(federation, torch.contiguous_format),
        LOOP_LAST: Loop(federation, torch.channels_last),
        ONE: Fedbox(federation, folder / "one", 1, stack),
        TWO: Fedbox(federation, folder / "two", 2, stack),
    }


def race(model: str, repeats: int) -> dict[str, Any]:
    """Let the contestants take turns; give seconds by contestant and the largest differences of their models.

    `largest_difference` is fedbox's from the nearer loop, `loops_difference` that of the two loops (rounding in two
    memory formats); `same_bits` says that one worker and two gave the same model in every round.
    """
    seconds: dict[str, list[float]] = {}
    apart, formats, bits = 0.0, 0.0, True
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(identity(RUN_ID))
        federation = Federation.prepare(work(model))
        field = contestants(federation, Path(folder), stack)
        flat = federation.model(torch.device("cpu"))
        weights: Weights = flat.state(flat.module.state_dict())
        for number in range(1, WARM_UP + repeats + 1):
            results: dict[str, Weights] = {}
            first = number % len(field)  # everyone gets every place in the turn
            for name in [*list(field)[first:], *list(field)[:first]]:
                start = time.perf_counter()
                results[name] = field[name].round(number, weights)
                if number > WARM_UP:
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
            loops = [results[LOOP], results[LOOP_LAST]]
            formats = max(formats, difference(*loops))
            for name in (ONE, TWO):  # the loop that rounds alike is the one of the model's own memory format
                apart = max(apart, min(difference(results[name], loop) for loop in loops))
            bits = bits and difference(results[ONE], results[TWO]) == 0.0
            weights = results[ONE]
    if not apart <= TOLERANCE or not bits:
        raise SystemExit(f"not the same work: weights differ by {apart:g}, one and two workers agree: {bits}")
    return {
        "seconds": {name: seconds[name] for name in field},
        "largest_difference": apart,
        "loops_difference": formats,
        "same_bits": bits,
    }


def ratios(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Give, for each fedbox contestant against each loop, the ratio of medians and the ratios turn by turn."""
    medians, pairwise = {}, {}
    for contestant in (name for name in seconds if name not in (LOOP, LOOP_LAST)):
        for loop, suffix in ((LOOP, ""), (LOOP_LAST, "_channels_last")):
            mine, theirs = seconds[contestant], seconds[loop]
            turns = [a / b for a, b in zip(mine, theirs, strict=True)]
            medians[contestant + suffix] = statistics.median(mine) / statistics.median(theirs)
            pairwise[contestant + suffix] = {
                "median": statistics.median(turns),
                "min": min(turns),
                "max": max(turns),
            }
    return {"ratios": medians, "pairwise": pairwise}


def memory_of(population: int, cohort: int, rounds: int) -> dict[str, float]:
    """Run rounds over a large population in this process; give seconds a round and peak memory in MB."""
    config = load_config(
        {
            "rounds": NEVER,
            "model": {"name": "mlp", "options": {"hidden": 1024}},
            "data": {
                "dataset": "synthetic",
                "options": {"samples": 200_000, "test_samples": 20, "size": 8},
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
            "seconds": statistics.median(seconds),
            "ready_mb": ready,
            "first_round_mb": after_first,
            "peak_mb": peak_rss_mb(),
        }


def memory(quick: bool) -> Iterator[dict[str, float]]:
    """Measure every size in a process of its own."""
    rounds = 3 if quick else 10
    sizes = [(1_000, 100), (10_000, 100), (100_000, 100), (100_000, 1_000)]
    for population, cohort in sizes:
        command = [sys.executable, __file__, "--probe", str(population), str(cohort), str(rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        yield json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few turns: shows that it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--model", choices=("cnn", "mlp", "resnet"), default="cnn")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns that count [default: 40; with --quick 5]")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory table out")
    parser.add_argument("--probe", nargs=3, type=int, metavar="N", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.probe:
        print(json.dumps(memory_of(*options.probe)))
        return
    result: dict[str, Any] = {"machine": machine(), "model": options.model}
    result |= race(options.model, options.repeats or (5 if options.quick else 40))
    result |= ratios(result["seconds"])
    show_race(result)
    if not options.no_memory:
        result["memory"] = show_memory(memory(options.quick))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def show_race(result: Mapping[str, Any]) -> None:
    """Print the times and the ratios."""
    turns = len(result["seconds"][LOOP])
    print(f"{result['model']}: {CLIENTS} clients x {IMAGES} images {SIZE}x{SIZE}, batch {BATCH}, {turns} turns")
    apart, formats = result["largest_difference"], result["loops_difference"]
    print(f"largest difference of a weight after a round: {apart:.1e} (between the two loops: {formats:.1e})\n")
    print("| contestant | ms a round: median | fastest | slowest |\n|---|---|---|---|")
    for name, seconds in result["seconds"].items():
        row = (statistics.median(seconds), min(seconds), max(seconds))
        print(f"| {name} | " + " | ".join(f"{1e3 * value:.1f}" for value in row) + " |")
    print("\n| against a bare loop | ratio of medians | turn by turn: median | least | most |\n|---|---|---|---|---|")
    for name, ratio in result["ratios"].items():
        turn = result["pairwise"][name]
        print(f"| {name} | {ratio:.3f} | {turn['median']:.3f} | {turn['min']:.3f} | {turn['max']:.3f} |")


def show_memory(rows: Iterator[dict[str, float]]) -> list[dict[str, float]]:
    """Print the memory table row by row; give the rows."""
    kept = []
    print("\n| population | cohort | s a round | MB when ready | MB after round 1 | MB at the end |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        kept.append(row)
        sizes = " | ".join(f"{row[key]:.0f}" for key in ("ready_mb", "first_round_mb", "peak_mb"))
        print(f"| {row['population']:,} | {row['cohort']:,} | {row['seconds']:.3f} | {sizes} |", flush=True)
    return kept


if __name__ == "__main__":
    main()
