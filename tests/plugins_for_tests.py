"""Strategies that misbehave on purpose, and the small runs in which tests let them loose.

Named `plugins_for_tests:trouble` and so on, also in worker processes, which inherit the path of their parent.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from once_for_tests import ONCE, kill
from pydantic import Field

import fedbox
from fedbox.strategies.contract import Ask, ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site, Update

TESTS = str(Path(__file__).resolve().parent)


class TroubleSettings(Settings):
    """Which clients misbehave, how, in which rounds (none: in all), and only while `file` exists (empty: always)."""

    kind: str = "none"
    clients: list[str] = Field(default_factory=list)
    rounds: list[int] = Field(default_factory=list)
    file: str = ""


def _first(update: Update, change: Callable[[Any], Any]) -> Update:
    name = next(iter(update.weights))
    return replace(update, weights={**update.weights, name: change(update.weights[name])})


def _raise(update: Update) -> Update:
    raise RuntimeError("the camera is broken")


def _memory(update: Update) -> Update:
    raise MemoryError(f"cannot hold {bytearray(2**60)!r}")  # Python raises it by itself


def _sleep(update: Update) -> Update:
    time.sleep(60)
    return update


def _without_first(update: Update) -> Update:
    return replace(update, weights=dict(list(update.weights.items())[1:]))


TROUBLES: dict[str, Callable[[Update], Any]] = {
    "raises": _raise,
    "exits": lambda update: sys.exit(3),
    "nothing": lambda update: None,
    "nan": lambda update: _first(update, lambda value: value * np.float32("nan")),
    "inf": lambda update: _first(update, lambda value: value + np.float32("inf")),
    "infinite-extra": lambda update: replace(update, extra={"hint": np.array([np.inf])}),
    "shape": lambda update: _first(update, lambda value: value[:1]),
    "dtype": lambda update: _first(update, lambda value: value.astype(np.float64)),
    "text": lambda update: _first(update, lambda value: value.astype(str)),
    "name": lambda update: replace(update, weights={**update.weights, "backdoor": np.zeros(2, np.float32)}),
    "missing": _without_first,
    "empty": lambda update: replace(update, weights={}),
    "vast": lambda update: _first(update, lambda value: np.full_like(value, 2.7e11 / update.examples)),
    "negative": lambda update: replace(update, examples=-3),
    "huge": lambda update: replace(update, examples=2**70),
    "large": lambda update: replace(update, examples=2**60),
    "metric": lambda update: replace(update, metrics={"train_loss": 1e200, "odd": float("nan")}),
    "count": lambda update: replace(update, metrics={**update.metrics, "examples": 1e9}),
    "kill": kill,
    "memory": _memory,
    "sleep": _sleep,
}


class TroubleClient(ClientHalf[TroubleSettings]):
    """Trains as FedAvg does, then spoils what comes out."""

    def train(self, site: Site) -> Update:
        """Train, and make trouble where the settings say so."""
        update, wish = super().train(site), self.settings
        due = site.name in wish.clients and (not wish.rounds or site.round in wish.rounds)
        if not due or (wish.file and not Path(wish.file).exists()):
            return update
        if wish.kind in ONCE:
            return ONCE[wish.kind](update, Path(wish.file))
        spoilt: Update = TROUBLES[wish.kind](update)
        return spoilt


trouble = Plugin(TroubleSettings, TroubleClient, ServerHalf)


class NoisyServer(ServerHalf[Settings]):
    """Draws from the global generators in every step of the server, as a plugin with dropout would."""

    def _shake(self) -> None:
        for name, value in self.weights.items():
            noise = torch.rand(value.shape).numpy() + np.random.rand(*value.shape)
            self.weights[name] = (value + 0.001 * noise).astype(value.dtype)

    def finish(self, total: Any, round_: int) -> None:
        """Shake the mean."""
        super().finish(total, round_)
        self._shake()

    def refine(self, site: Site) -> Metrics:
        """Shake it once more."""
        self._shake()
        return {"noise": float(torch.rand(()))}


noisy = Plugin(Settings, ClientHalf, NoisyServer)


class KeepingClient(ClientHalf[Settings]):
    """Keeps a momentum of its own updates on disk, so that every round depends on all rounds before."""

    def train(self, site: Site) -> Update:
        """Train, then move on along the direction of all former rounds."""
        before = site.weights()
        update = super().train(site)
        weights = {}
        for name, value in update.weights.items():
            step = 0.5 * site.state.get(name, np.zeros_like(value)) + (value - before[name])
            site.state[name] = step.astype(value.dtype)
            weights[name] = (before[name] + step).astype(value.dtype)
        return replace(update, weights=weights)


class CountingServer(ServerHalf[Settings]):
    """Keeps a count that enters what it asks, in its checkpointed state."""

    def __init__(self, settings: Settings, site: Site) -> None:
        super().__init__(settings, site)
        self.count = np.zeros((), np.int64)

    def ask(self, round_: int) -> Ask:
        """Count the asks."""
        self.count = self.count + 1
        return Ask(self.weights, values={"count": int(self.count)})

    def refine(self, site: Site) -> Metrics:
        """Tell the count."""
        return {"count": float(self.count)}

    def state(self) -> dict[str, Any]:
        """Give the count."""
        return {"count": np.asarray(self.count)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.count = state["count"]


keeping = Plugin(Settings, KeepingClient, CountingServer)


class BulkyClient(ClientHalf[Settings]):
    """Reports very many figures."""

    def train(self, site: Site) -> Update:
        """Train as usual; tell 6,000 figures with it."""
        update = super().train(site)
        return replace(update, metrics={**update.metrics, **{f"figure-{n:05d}-of-a-client": n for n in range(6000)}})


class BulkyServer(ServerHalf[Settings]):
    """Has much to say to each client alone."""

    def ask_client(self, round_: int, client: str) -> Mapping[str, Any]:
        """Give half a megabyte."""
        return {"bulk": np.full(2**16, round_, np.float64)}


bulky = Plugin(Settings, BulkyClient, BulkyServer)


class BoxedClient(ClientHalf[Settings]):
    """Wants images with boxes."""

    needs = "boxes"


boxed = Plugin(Settings, BoxedClient, ServerHalf)


class MeasuringServer(ServerHalf[Settings]):
    """Has an evaluation of its own."""

    def evaluate(self, site: Site, samples: Any) -> Metrics:
        """Measure as usual, and more."""
        return {**super().evaluate(site, samples), "more": 1.0}


measuring = Plugin(Settings, ClientHalf, MeasuringServer)


class DivergingServer(ServerHalf[Settings]):
    """Reports a metric that is not a number in every round but the first."""

    def refine(self, site: Site) -> Metrics:
        """Report it."""
        return {"odd": 1.0 if site.round == 1 else float("nan")}


diverging = Plugin(Settings, ClientHalf, DivergingServer)

TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 3,
    "data": {
        "dataset": "digits",
        "options": {"limit": 300, "test_limit": 100},
        "partition": {"kind": "dirichlet", "clients": 5, "alpha": 0.5},
    },
    "model": {"name": "mlp", "options": {"hidden": 16}},
    "train": {"epochs": 1, "batch_size": 16, "lr": 0.1},
    "engine": {"workers": 1},
}


def run(out: Path, **changes: Any) -> fedbox.Result:
    """Run the toy federation with changes (`__` for a dot) into `out`."""
    return fedbox.run(TOY, out=out, quiet=True, report=False, **changes)


def run_trouble(out: Path, kind: str, *clients: str, **changes: Any) -> fedbox.Result:
    """Run it with clients that misbehave."""
    settings = {"kind": kind, "clients": list(clients), **changes.pop("wish", {})}
    return run(out, strategy="plugins_for_tests:trouble", settings={"plugins_for_tests": settings}, **changes)


def lines(folder: Path) -> list[dict[str, Any]]:
    """Give the lines of rounds.jsonl without what differs from run to run: the times."""
    text = (folder / "rounds.jsonl").read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    """Give summary.json."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def command(*words: str) -> list[str]:
    """Give the command line that runs fedbox in a process of its own."""
    return [sys.executable, "-m", "fedbox", *words]


def environment(**more: str) -> dict[str, str]:
    """Give an environment in which that process finds these plugins and prints plain text."""
    path = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", **more}


def save_config(path: Path, **changes: Any) -> str:
    """Write the toy's configuration, with changes, as YAML for the command line; give the file's path."""
    from fedbox.configs import to_yaml
    from fedbox.simulations.run import check

    path.write_text(to_yaml(check(TOY, {key.replace("__", "."): value for key, value in changes.items()})))
    return str(path)


def descendants(marker: Mapping[str, str]) -> list[int]:
    """Give the ids of the processes that have these environment variables."""
    wanted = [f"{key}={value}".encode() for key, value in marker.items()]
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and all(item in variables for item in wanted):
            found.append(int(folder.name))
    return found
