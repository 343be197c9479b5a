"""AdaBN: only the statistics change, and they are those of the client's images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedbox
from fedbox.simulations.run import check
from fedbox.strategies.federation import Federation
from fedbox.strategies.site import Holdings, Site
from fedbox.strategies.statistics import estimate

SCENES: dict[str, Any] = {
    "name": "scenes",
    "rounds": 3,
    "strategy": "adabn",
    "settings": {"adabn": {"warmup": 2}},
    "data": {
        "dataset": "scenes",
        "options": {"samples": 48, "test_samples": 16, "size": 64},
        "partition": {"kind": "natural", "key": "weather", "clients": 3},
        "server": {"value": "cloudy"},
        "labels": {"share": 0.0},
    },
    "model": {"name": "detector", "options": {"norm": "batch"}},
    "train": {"batch_size": 8, "optimizer": "adamw", "lr": 0.002},
    "evaluate": {"clients": "all", "client_split": "domain"},
    "engine": {"workers": 1},
}


def _run(out: Path, **changes: Any) -> fedbox.Result:
    return fedbox.run(SCENES, out=out, quiet=True, report=False, **changes)


def test_the_statistics_are_those_of_all_images() -> None:
    config = check(SCENES)
    federation = Federation.prepare(config)
    device = torch.device("cpu")
    flat = federation.model(device)
    held = federation.samples(federation.roles("client-1").unlabelled, device, labelled=False)
    none = federation.samples(federation.server[:0], device)
    site = Site("client-1", flat, config.train, Holdings(lambda: none, lambda: held, lambda: none), 5, 0, batch_size=6)
    before = flat.flat.clone()
    assert estimate(site.model, [none, held], site.batch_size) == len(held) == 12
    assert torch.equal(flat.flat, before)
    stem = flat.module.get_submodule("backbone.stem.0")
    with torch.no_grad():
        inputs = stem.get_submodule("conv")(held.x(slice(None)))
    norm: Any = stem.get_submodule("norm")
    # Two batches of six: the mean of all, and the mean of the batches' unbiased variances.
    assert torch.allclose(norm.running_mean, inputs.mean((0, 2, 3)), atol=1e-5)
    halves = torch.stack([inputs[:6].var((0, 2, 3)), inputs[6:].var((0, 2, 3))])
    assert torch.allclose(norm.running_var, halves.mean(0), rtol=1e-4)
    assert norm.momentum == 0.1
    assert not flat.module.training
    # Of seven samples in batches of up to six: 4 and 3, weighted so.
    few = federation.samples(federation.roles("client-1").unlabelled[:7], device, labelled=False)
    estimate(site.model, [few], site.batch_size)
    assert torch.allclose(norm.running_mean, inputs[:7].mean((0, 2, 3)), atol=1e-5)
    within = (4 * inputs[:4].var((0, 2, 3)) + 3 * inputs[4:7].var((0, 2, 3))) / 7
    assert torch.allclose(norm.running_var, within, rtol=1e-4)


def test_no_weight_differs_from_server_only(tmp_path: Path) -> None:
    adapted = _run(tmp_path / "adabn")
    alone = _run(tmp_path / "alone", strategy="server-only", rounds=2)
    ours, theirs = adapted.weights(), alone.weights()
    moved = {name for name in ours if not np.array_equal(ours[name], theirs[name])}
    assert moved
    assert all(".running_" in name or "num_batches" in name for name in moved)
    assert [record["phase"] for record in adapted.rounds] == ["server", "server", "adapt"]
    assert {"map50", "personal_map50"} <= set(adapted.summary["metrics"])
    assert set(adapted.summary["metrics"]["personal_map50_by_domain"]) == {"overcast", "rainy", "snowy"}


def test_local_statistics_send_nothing(tmp_path: Path) -> None:
    result = _run(tmp_path / "run", **{"model.buffers": "local"})
    assert result.rounds[-1]["bytes_up"] < 9000  # metrics alone
    assert "personal_map50" in result.summary["metrics"]


def test_a_model_without_statistics_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has none.*model\.options\.norm=batch"):
        _run(tmp_path / "run", model={"name": "detector", "options": {"norm": "group"}})
