"""The bundled configurations with few labels: every method that is to be compared runs on each of them by its name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedbox
from fedbox.simulations.run import check

METHODS = ("fedlabel", "fedavg", "fedprox", "fixmatch", "uda", "semifl", "fedmatch")
SHORT: dict[str, Any] = {"rounds": 2, "train.steps": 2, "engine.workers": 1}


@pytest.mark.parametrize("strategy", METHODS)
def test_every_method_runs_on_the_digits(strategy: str, tmp_path: Path) -> None:
    result = fedbox.run("digits-fedlabel", strategy=strategy, out=tmp_path / "run", quiet=True, report=False, **SHORT)
    assert result.summary["status"] == "completed"
    told = any("pseudo_accepted" in record["metrics"] for record in result.rounds)
    assert told == (strategy not in {"fedavg", "fedprox"})
    for record in result.rounds:  # per client and overall
        rows = [row for row in record["clients"].values() if "pseudo_accepted" in row]
        assert bool(rows) == ("pseudo_accepted" in record["metrics"])


@pytest.mark.parametrize(
    ("name", "folder"), [("fashion-fedlabel", "fashion_mnist"), ("cifar-fedlabel", "cifar10_jpeg")]
)
def test_a_round_on_real_images(name: str, folder: str, shared_data: Path, tmp_path: Path) -> None:
    few = {
        "data.options.limit": 3000,
        "data.options.test_limit": 200,
        "data.partition.min_size": 1,
        "clients.per_round": 3,
        "rounds": 1,
    }
    root = {"data.root": str(shared_data / folder)}
    for strategy in ("fedlabel", "fedmatch"):
        out = tmp_path / strategy
        result = fedbox.run(name, strategy=strategy, out=out, quiet=True, report=False, **{**SHORT, **few, **root})
        assert np.isfinite(result.metrics["loss"])


@pytest.mark.parametrize("name", ["fashion-fedlabel", "cifar-fedlabel", "digits-fedlabel"])
def test_the_configurations_are_of_the_papers_kind(name: str) -> None:
    config = check(name)
    assert config.data.partition.kind == "dirichlet"
    assert config.data.partition.alpha == 0.1
    assert config.strategy == "fedlabel"
    assert config.data.labels.share is not None
    assert 0 < config.data.labels.share <= 0.2
    silo = check(name, {"data.partition.clients": 10, "clients.per_round": 10, "data.partition.alpha": 1.0})
    assert silo.data.partition.clients == 10
