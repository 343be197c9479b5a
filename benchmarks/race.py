"""The work that engines are timed on, the bare loop that does it by hand, and the race of both with fedbox and pfl.

Twenty clients train one epoch of plain SGD; their weights are averaged. The contestants take turns, round by round, so
that a busy machine slows all of them, each in processes of its own; each round begins from the same weights, and its
result is checked to be the same model.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from contest import NEVER, Apart, Contestant, Fedbox, Weights, difference, take_turn

from fedbox.configs import Config, load_config
from fedbox.models import build_model
from fedbox.strategies.base import identity
from fedbox.strategies.federation import Federation
from fedbox.strategies.grids import RUN_ID
from fedbox.strategies.seeds import generator

CLIENTS, SIZE, LR = 20, 28, 0.05
TOLERANCE = 1e-5  # largest difference of a weight after a round
STACKS_TOLERANCE = 1e-4  # the same for stacks that were asked for
WARM_UP = 3  # turns that do not count; in a quick race 1
LOOP, LOOP_TRICKS, ONE, TWO, PFL = "loop", "loop_with_tricks", "one_worker", "two_workers", "pfl"
STACKS = "two_workers_stacks"  # of half the clients, asked for by engine.stack; rounds otherwise in the last digits


@dataclass(frozen=True)
class Work:
    """What a client does in a round: one epoch over `images` images of 1x28x28 in batches of `batch`."""

    model: str
    images: int = 100
    batch: int = 20


WORKS = {
    "cnn": Work("cnn"),
    "mlp": Work("mlp"),
    "resnet": Work("resnet"),
    "small": Work("cnn", images=20, batch=4),
    "small_mlp": Work("mlp", images=20, batch=4),
}


def config_of(work: Work, rounds: int = NEVER, workers: int = 1, **engine: Any) -> Config:
    """Give the configuration of the work; `engine` are more of that block's keys."""
    return load_config(
        {
            "name": "benchmark",
            "rounds": rounds,
            "model": work.model,
            "data": {
                "dataset": "synthetic",
                "options": {"samples": CLIENTS * work.images, "test_samples": 20, "size": SIZE},
                "partition": {"kind": "iid", "clients": CLIENTS},
            },
            "train": {"epochs": 1, "batch_size": work.batch, "lr": LR},
            "evaluate": {"every": NEVER},
            "engine": {"workers": workers, **engine},
        }
    )


class Loop:
    """What one would write without any framework: module, optimiser, tensors, nothing else.

    `tricks` gives it what fedbox's models know: images and weights in channels-last format, pooling before ReLU.
    """

    def __init__(self, federation: Federation, tricks: bool = False) -> None:
        self.device = torch.device(federation.config.engine.device)
        memory_format = torch.channels_last if tricks else torch.contiguous_format
        data, self.seed = federation.dataset, federation.config.seed
        self.batch = federation.config.train.batch_size
        name = federation.config.model.name
        model = build_model(name, shape=data.shape, classes=len(data.classes), seed=self.seed)
        self.model = model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        if not tricks:
            relu_first(self.model)
        self.clients: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        for number in range(len(federation)):
            name = federation.name(number)
            samples = federation.samples(federation.roles(name).labelled, self.device)
            self.clients.append((name, samples.x(slice(None)).contiguous(memory_format=memory_format), samples.y))

    def order(self, round_: int, name: str, count: int) -> torch.Tensor:
        """Give the order of a client's samples that fedbox draws: the same batches, so the same model."""
        return torch.randperm(count, generator=generator(self.seed, "site", round_, "train", name)).to(self.device)

    def fit(self, round_: int, client: int, state: Mapping[str, torch.Tensor]) -> int:
        """Train `model` from `state` on one client's tensors; give their number."""
        name, x, y = self.clients[client]
        self.model.load_state_dict(state)
        self.model.train()
        optimizer = torch.optim.SGD(self.model.parameters(), LR)
        for index in torch.split(self.order(round_, name, len(y)), self.batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(x[index]), y[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return len(y)

    def round(self, number: int, weights: Weights) -> Weights:
        """Train every client and average their weights by samples, in float64."""
        state = {name: torch.from_numpy(value).to(self.device) for name, value in weights.items()}
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in state.items()}
        examples = 0
        for client in range(len(self.clients)):
            count = self.fit(number, client, state)
            for key, value in self.model.state_dict().items():
                total[key] += value.double() * count
            examples += count
        return {name: (value / examples).to(state[name].dtype).cpu().numpy() for name, value in total.items()}


def relu_first(module: torch.nn.Module) -> None:
    """Put each ReLU before the pooling that it follows, as models are usually written: the same function and names."""
    for inner in module.children():
        relu_first(inner)
    layers = list(module._modules.items())
    for at, ((_, one), (_, after)) in enumerate(pairwise(layers)):
        if isinstance(one, torch.nn.MaxPool2d) and isinstance(after, torch.nn.ReLU):
            layers[at], layers[at + 1] = layers[at + 1], layers[at]
    module._modules = dict(layers)


@lru_cache(maxsize=1)
def loop_of(work: Work, tricks: bool = False) -> Loop:
    """Give the bare loop over the work, plain or with fedbox's own tricks, made once in a process."""
    return Loop(Federation.prepare(config_of(work)), tricks)


def initial(federation: Federation) -> Weights:
    """Give the weights that every contestant begins from."""
    flat = federation.model(torch.device("cpu"))
    return flat.state(flat.module.state_dict())


def race(work: Work, turns: int, pfl: bool, tell: Callable[[str], None], warm_up: int = WARM_UP) -> dict[str, Any]:
    """Let the contestants take turns; give seconds by contestant, ratios, and how far their models are apart.

    `largest_difference` is that of fedbox and pfl from the nearer loop, `loops_difference` that of the two loops
    (other orders of rounding), `stacks_difference` that of stacks from clients one by one; `same_bits` says that one
    worker and two gave the same model in every round. Raises SystemExit where the contestants did not do the same work.
    """
    apart, formats, stacks, bits = 0.0, 0.0, 0.0, True
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(identity(RUN_ID))
        federation = Federation.prepare(config_of(work))
        field = contestants(work, federation, Path(folder), stack, pfl)
        weights, seconds = initial(federation), {name: list[float]() for name in field}
        for number in range(1, warm_up + turns + 1):
            tell(f"turn {number} of {warm_up + turns}")
            results, took = take_turn(field, number, weights)
            if number > warm_up:
                for name, each in took.items():
                    seconds[name].append(each)
            loops = [results[LOOP], results[LOOP_TRICKS]]
            formats = max(formats, difference(*loops))
            stacks = max(stacks, difference(results[STACKS], results[TWO]))
            for name in results.keys() - {LOOP, LOOP_TRICKS, STACKS}:
                apart = max(apart, min(difference(results[name], loop) for loop in loops))
            bits = bits and difference(results[ONE], results[TWO]) == 0.0
            weights = results[ONE]
    if not apart <= TOLERANCE or not stacks <= STACKS_TOLERANCE or not bits:
        told = f"weights differ by {apart:g}, in stacks by {stacks:g}; one and two workers agree: {bits}"
        raise SystemExit(f"not the same work: {told}")
    about = {"largest_difference": apart, "loops_difference": formats, "stacks_difference": stacks, "same_bits": bits}
    return {"seconds": seconds, "faster": faster(seconds), **about}


def contestants(work: Work, federation: Federation, folder: Path, stack: ExitStack, pfl: bool) -> dict[str, Contestant]:
    """Give every contestant, ready to run."""
    field: dict[str, Contestant] = {
        LOOP: Apart(partial(loop_of, work), stack),
        LOOP_TRICKS: Apart(partial(loop_of, work, tricks=True), stack),
        ONE: Fedbox(federation, folder / "one", 1, stack),
        TWO: Fedbox(federation, folder / "two", 2, stack),
        STACKS: Fedbox(Federation.prepare(config_of(work, stack=CLIENTS // 2)), folder / "stacks", 2, stack),
    }
    if pfl:
        from pfl_peer import pfl_over

        field[PFL] = Apart(partial(pfl_over, work), stack)
    return field


def faster(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Give, for each contestant, how many times faster than the bare loop it is.

    `ratio` is that of the medians; `median`, `least` and `most` are those of the ratios turn by turn.
    """
    found = {}
    for name in seconds.keys() - {LOOP}:
        turns = [loop / mine for loop, mine in zip(seconds[LOOP], seconds[name], strict=True)]
        ratio = statistics.median(seconds[LOOP]) / statistics.median(seconds[name])
        found[name] = {"ratio": ratio, "median": statistics.median(turns), "least": min(turns), "most": max(turns)}
    return {name: found[name] for name in seconds if name in found}
