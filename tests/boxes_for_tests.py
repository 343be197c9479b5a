"""A toy federation of small scenes for the tests of the detection strategies, and a site of one of its participants."""

from pathlib import Path
from typing import Any

import torch

import fedbox
from fedbox.simulations.run import check
from fedbox.strategies.federation import Federation
from fedbox.strategies.site import Holdings, Site

SCENES: dict[str, Any] = {
    "name": "scenes",
    "rounds": 2,
    "strategy": "fedsto",
    "settings": {
        "fedsto": {"warmup": 1, "selective": 1, "low": 0.0, "high": 0.01},
        "fedavg-ema": {"warmup": 0, "low": 0.0, "high": 0.01},
        "fedpac-ema": {"warmup": 0, "low": 0.0, "high": 0.01},
    },
    "data": {
        "dataset": "scenes",
        "options": {"samples": 48, "test_samples": 16, "size": 64},
        "partition": {"kind": "natural", "key": "weather", "clients": 3},
        "server": {"value": "cloudy"},
        "labels": {"share": 0.0},
    },
    "model": "detector",
    "train": {"batch_size": 8, "optimizer": "adamw", "lr": 0.002},
    "engine": {"workers": 1},
}


def run_scenes(out: Path, **changes: Any) -> fedbox.Result:
    return fedbox.run(SCENES, out=out, quiet=True, report=False, **changes)


def site_of(name: str = "client-0", **changes: Any) -> Site:
    """A participant's site; `server` is the server's. Everything is read afresh."""
    config = check(SCENES, changes)
    federation = Federation.prepare(config)
    device = torch.device("cpu")
    none = federation.samples(federation.server[:0], device)
    labelled = unlabelled = none
    if name == "server":
        labelled = federation.samples(federation.server, device)
    else:
        roles = federation.roles(name)
        labelled = federation.samples(roles.labelled, device)
        unlabelled = federation.samples(roles.unlabelled, device, labelled=False)
    pooled = federation.samples(federation.pooled(), device)
    bare = federation.samples(federation.pooled_unlabelled(), device, labelled=False)
    return Site(
        name=name,
        flat=federation.model(device),
        train_config=config.train,
        holdings=Holdings(
            lambda: labelled, lambda: unlabelled, lambda: none, lambda: pooled, None, lambda: bare, lambda: len(pooled)
        ),
        classes=len(federation.dataset.classes),
        seed=0,
        buffers=config.model.buffers,
        round=1,
        phase="full",
        build=lambda: federation.model(device),
        population=len(federation),
    )
