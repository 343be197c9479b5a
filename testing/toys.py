"""The toy problems on which strategies are tried: seconds each, and one of every kind of data that fedbox knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..strategies.contract import Update

_CLASSES: dict[str, Any] = {
    "name": "toy",
    "rounds": 3,
    "data": {
        "dataset": "digits",
        "options": {"limit": 500, "test_limit": 200},
        "partition": {"kind": "iid", "clients": 4},
        "server": {"share": 0.2},
        "test_share": 0.2,
    },
    "model": {"name": "mlp", "options": {"hidden": 32}},
    "train": {"epochs": 3, "batch_size": 16, "lr": 0.2},
    "engine": {"workers": 1},
    "evaluate": {"clients": "all"},
    "track": [],
}
_BOXES: dict[str, Any] = {
    **_CLASSES,
    "rounds": 4,
    "data": {
        "dataset": "scenes",
        "options": {"samples": 48, "test_samples": 8, "size": 64},
        "partition": {"kind": "natural", "key": "weather", "clients": 3},
        "server": {"value": "cloudy"},
        "labels": {"share": 0.0},
        "test_share": 0.2,
    },
    "model": "detector",
    "train": {"epochs": 1, "batch_size": 8, "optimizer": "adamw", "lr": 0.004},
}


@dataclass(frozen=True)
class Toy:
    """A toy problem: its configuration, and the round after which the run of the resume check is stopped.

    `score` is what the last round must reach of the metrics `accuracy` or `client_accuracy`; None where so short a run
    shows in the training loss only.
    """

    about: str
    config: Mapping[str, Any]
    stop: int
    score: float | None


TOYS: Mapping[str, Toy] = {
    "classes": Toy("handwritten digits at four clients, all labelled", _CLASSES, 1, 0.25),
    "few-labels": Toy(
        "the same digits, half of them without labels",
        {**_CLASSES, "data": {**_CLASSES["data"], "labels": {"share": 0.5}}},
        1,
        0.25,
    ),
    "boxes": Toy("object detection: painted scenes at three clients, labels at the server only", _BOXES, 3, None),
}


def spoil(update: Update) -> Update:
    """Give the update with NaN in every array that can hold it."""

    def nan(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value * np.nan if value.dtype.kind == "f" else value for name, value in arrays.items()}

    return Update(nan(update.weights), update.examples, update.metrics, nan(update.extra))


def spoil_codes(update: Update) -> Update:
    """Do the same to an update of onebyte, whose byte 0x80 stands for a scalar that is not finite."""
    codes = update.extra["codes"]
    spoilt = np.concatenate([np.full(16, 0x80, np.uint8), codes[16:]])
    return Update(update.weights, update.examples, update.metrics, {**update.extra, "codes": spoilt})


@dataclass(frozen=True)
class Trial:
    """How one strategy is tried: on which toy problem, with which changes to its configuration.

    `early` are the changes with which clients train from the first round on, for the checks of single clients; `spoil`
    makes of an update what a diverged client would send.
    """

    toy: str = "classes"
    changes: Mapping[str, Any] = field(default_factory=dict)
    early: Mapping[str, Any] = field(default_factory=dict)
    spoil: Callable[[Update], Update] = spoil


def _boxes(strategy: str, **settings: Any) -> Trial:
    key = f"settings.{strategy}"
    return Trial("boxes", {key: {"warmup": 2, **settings}}, {key: {"warmup": 0, **settings}})


def _semi(strategy: str, **settings: Any) -> Trial:
    return Trial("few-labels", {f"settings.{strategy}": settings})


_LOOSE: dict[str, Any] = {"low": 0.0, "high": 0.01}  # a detector that has just begun to learn is sure of nothing
BUILT_IN: Mapping[str, Trial] = {
    "adabn": Trial(
        "boxes",
        {"settings.adabn": {"warmup": 3}, "model.options": {"norm": "batch"}},
        {"settings.adabn": {"warmup": 0}},
    ),
    "ema-teacher": _boxes("ema-teacher", **_LOOSE),
    "fedavg-ema": _boxes("fedavg-ema", **_LOOSE),
    "fedlabel": _semi("fedlabel", combine="mean"),
    "fedmatch": _semi("fedmatch", threshold=0.3),
    "fedpac-ema": _boxes("fedpac-ema", **_LOOSE),
    "fedsto": _boxes("fedsto", selective=1, **_LOOSE),
    "fixmatch": _semi("fixmatch", threshold=0.3),
    # A round is one small, noisy step; it learns the slower the more weights there are.
    "onebyte": Trial(
        changes={
            "rounds": 20,
            "model.options": {"hidden": 8},
            "train": {"batch_size": 64, "lr": 0.2},
            "settings.onebyte": {"samples": 16, "scale": "mean"},
        },
        spoil=spoil_codes,
    ),
    "semifl": _semi("semifl", threshold=0.3),
    "uda": _semi("uda", threshold=0.3),
    "unbiased-teacher": _boxes("unbiased-teacher", high=0.01),
}
"""What the strategies that come with fedbox need; those that are not named are tried on `classes` as it is."""
