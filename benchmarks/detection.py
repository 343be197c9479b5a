"""Training images a second of a detector: fedbox against a bare PyTorch loop over the same detector and data.

    python benchmarks/detection.py [--quick] [--json FILE] [--repeats N] [--workers N] [--clients N]

Three clients, or N, with 64 generated scenes of 128x128 each train one epoch of AdamW in batches of 16: on their labels
(strategy fedavg), on the pseudo-labels of a moving average (fedavg-ema), and on these with FedSTO's spectral term
(phase 2 of fedsto). The contestants take turns, round by round, each in processes of its own; each round begins from
the same weights and draws the same views, and its result is checked to be the same model. See benchmarks/README.md.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from contest import NEVER, Apart, Contestant, Fedbox, Weights, difference, machine, take_turn

from fedbox.configs import Config
from fedbox.data.box_views import BoxViews, Targets
from fedbox.models import build_model
from fedbox.models.detections import Detections
from fedbox.models.detector import Detector
from fedbox.models.process import settle
from fedbox.simulations.run import check
from fedbox.strategies.base import identity
from fedbox.strategies.box_samples import BoxSamples
from fedbox.strategies.federation import Federation
from fedbox.strategies.grids import RUN_ID
from fedbox.strategies.orthogonal import orthogonality
from fedbox.strategies.seeds import generator

CLIENTS, IMAGES, SIZE, BATCH, LR, EMA = 3, 64, 128, 16, 0.002, 0.9
HELD = 8  # labelled images of the server, which FedSTO wants to see although the race leaves its update out
LOW, HIGH, IOU = 0.1, 0.45, 0.65
SPECTRAL = 1e-4  # coefficient of FedSTO's term
KINDS = {"labels": "fedavg", "pseudo_labels": "fedavg-ema", "fedsto": "fedsto"}
TOLERANCE = 1e-4  # largest difference of a weight after a round
WARM_UP = 1


class Loop:
    """What one would write without a framework: detector, optimiser, tensors, views, nothing else."""

    def __init__(self, federation: Federation, kind: str) -> None:
        data, self.seed, self.pseudo = federation.dataset, federation.config.seed, kind != "labels"
        self.spectral = kind == "fedsto"
        options = federation.config.model.options
        self.models = [
            cast(Detector, build_model("detector", shape=data.shape, classes=5, seed=0, options=options))
            for _ in range(2)
        ]
        self.mean = torch.tensor(data.mean).view(1, -1, 1, 1)
        self.std = torch.tensor(data.std).view(1, -1, 1, 1)
        self.views = BoxViews(colour=0.5)
        self.clients = []
        for number in range(len(federation)):
            name, roles = federation.name(number), federation.roles(federation.name(number))
            index = roles.unlabelled if self.pseudo else roles.labelled
            held = cast(BoxSamples, federation.samples(index, torch.device("cpu")))
            self.clients.append((name, held.images(torch.arange(len(held))), held.truths))

    def round(self, number: int, weights: Weights) -> Weights:
        """Train every client on its tensors and average their weights, in float64."""
        student, teacher = self.models
        state = {name: torch.from_numpy(value) for name, value in weights.items()}
        total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in state.items()}
        for name, images, truths in self.clients:
            student.load_state_dict(state)
            teacher.load_state_dict(state)
            student.train()
            optimizer = torch.optim.AdamW(student.parameters(), LR, weight_decay=0.0)
            draw = generator(self.seed, "site", number, "full" if self.pseudo else "train", name)
            for index in torch.split(torch.randperm(len(images), generator=draw), BATCH):
                optimizer.zero_grad()
                loss = self._loss(images[index], [truths[row] for row in index.tolist()], draw)
                if self.spectral:
                    rest = [value for key, value in student.named_parameters() if not key.startswith("backbone.")]
                    loss = loss + SPECTRAL * orthogonality(rest, draw)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if self.pseudo:
                    with torch.no_grad():
                        for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                            mine.lerp_(theirs, 1 - EMA)
            for key, value in student.state_dict().items():
                total[key] += value.double() * len(images)
        examples = sum(len(images) for _, images, _ in self.clients)
        return {name: (value / examples).to(state[name].dtype).numpy() for name, value in total.items()}

    def _loss(self, images: torch.Tensor, truths: list[Any], draw: torch.Generator) -> torch.Tensor:
        student, teacher = self.models
        if not self.pseudo:
            seen = self.views.strong(images, Targets.of(truths), draw)
            parts = [seen.targets.image(row) for row in range(len(images))]
            predictions = student((seen.images - self.mean) / self.std)
            return student.loss(predictions, [(part.boxes, part.labels) for part in parts]).total
        weak = self.views.weak(images, Targets.none(images), draw)
        found = teacher.detect((weak.images - self.mean) / self.std, LOW, IOU)
        whole = Detections(*(torch.cat([each[field] for each in found]) for field in range(4)))
        owners = torch.arange(len(found)).repeat_interleave(torch.tensor([len(each.boxes) for each in found]))
        strong = self.views.strong(weak.images, Targets(whole.boxes, torch.arange(len(owners)), owners), draw)
        parts = [strong.targets.image(row) for row in range(len(images))]
        labels = [Detections(part.boxes, *(value[part.labels] for value in whole[1:])) for part in parts]
        return student.pseudo_loss(student((strong.images - self.mean) / self.std), labels, LOW, HIGH).total


def work(kind: str, clients: int = CLIENTS) -> Config:
    """Give the configuration of the work: with labels, or with pseudo-labels and nothing else."""
    strategy, pseudo = KINDS[kind], kind != "labels"
    settings = {"warmup": 0, "low": LOW, "high": HIGH, "iou": IOU, "ema": EMA, "personal": False}
    phases = {"selective": 0, "orthogonality": SPECTRAL}
    images = {"samples": clients * IMAGES + HELD, "test_samples": 8}
    return check(
        {
            "name": "benchmark",
            "rounds": NEVER,
            "strategy": strategy,
            "settings": {"fedavg-ema": settings, "fedsto": {**settings, **phases}},
            "model": "detector",
            "data": {
                "dataset": "scenes",
                "options": {**images, "size": SIZE, "weathers": ["cloudy"]},
                "partition": {"kind": "iid", "clients": clients},
                "labels": {"share": 0.0 if pseudo else 1.0},
                "server": {"count": HELD},
            },
            "train": {"batch_size": BATCH, "optimizer": "adamw", "lr": LR, "view": "strong"},
            "evaluate": {"every": NEVER},
        }
    )


def loop_over(kind: str, clients: int = CLIENTS) -> Loop:
    """Give the bare loop over the work."""
    return Loop(Federation.prepare(work(kind, clients)), kind)


def race(
    kind: str, repeats: int, workers: int, tell: Callable[[str], None] = lambda _: None, clients: int = CLIENTS
) -> dict[str, Any]:
    """Let the contestants take turns; give seconds by contestant and the largest difference of their models.

    Three equal clients take two workers two turns, so two workers cannot be more than 1.5 times faster there.
    """
    apart = 0.0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(identity(RUN_ID))
        federation = Federation.prepare(work(kind, clients))
        field: dict[str, Contestant] = {"loop": Apart(partial(loop_over, kind, clients), stack)}
        for count in sorted({1, workers}):
            field[f"workers_{count}"] = Fedbox(federation, Path(folder) / str(count), count, stack, refine=False)
        flat = federation.model(torch.device("cpu"))
        weights: Weights = flat.state(flat.module.state_dict())
        seconds = {name: list[float]() for name in field}
        for number in range(1, WARM_UP + repeats + 1):
            tell(f"turn {number} of {WARM_UP + repeats}")
            results, took = take_turn(field, number, weights)
            if number > WARM_UP:
                for name, each in took.items():
                    seconds[name].append(each)
            apart = max(apart, *(difference(results["loop"], each) for each in results.values()))
            weights = results["loop"]
    if not apart <= TOLERANCE:
        raise SystemExit(f"not the same work: weights differ by {apart:g}")
    images = clients * IMAGES
    rates = {name: images / statistics.median(seconds[name]) for name in field}
    return {
        "seconds": seconds,
        "images_per_second": rates,
        "ratios": {name: rates["loop"] / rate for name, rate in rates.items() if name != "loop"},
        "largest_difference": apart,
    }


def show(title: str, result: Mapping[str, Any]) -> None:
    """Print one table."""
    print(f"\n{title} (largest difference of a weight after a round: {result['largest_difference']:.1e})\n")
    print("| contestant | images a second | the loop's time is multiplied by |\n|---|---|---|")
    for name, rate in result["images_per_second"].items():
        print(f"| {name} | {rate:.1f} | {result['ratios'].get(name, 1.0):.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few turns: shows that it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns that count [default: 12; with --quick 2]")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes of the last contestant")
    parser.add_argument("--clients", type=int, default=CLIENTS, metavar="N", help=f"clients [default: {CLIENTS}]")
    options = parser.parse_args()
    settle()
    result: dict[str, Any] = {"machine": machine()}
    for name in KINDS:
        result[name] = race(
            name, options.repeats or (2 if options.quick else 12), options.workers, clients=options.clients
        )
        show(name.replace("_", "-"), result[name])
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
