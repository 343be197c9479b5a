"""The same model, bit for bit, for any number of workers: the promise that fedbox makes."""

from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import lines, run

BATCHNORM = {"model": {"name": "resnet", "options": {"width": 4, "norm": "batch"}}}
FEATURES: dict[str, Any] = {
    "clients__per_round": 3,
    "train": {"epochs": 2, "batch_size": 16, "lr": 0.05, "momentum": 0.9, "lr_decay": 0.9, "view": "weak"},
    "data__labels__share": 0.5,
    "data__test_share": 0.2,
    "evaluate__clients": "cohort",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "fedavg, every feature": FEATURES,
    "fedprox, strong view": {
        "strategy": "fedprox",
        "settings__fedprox__mu": 0.1,
        "train": {"epochs": 1, "batch_size": 16, "lr": 0.05, "view": "strong", "clip_norm": 1.0},
        "data__labels": {"share": 0.1, "stratified": True, "by_client": {"client-0": 1.0}},
    },
    "local": {"strategy": "local", "data__test_share": 0.2, "evaluate__clients": "all"},
    "local, batch statistics": {**BATCHNORM, "strategy": "local", "model__buffers": "global"},
    "centralized": {"strategy": "centralized"},
    "buffers global": {**BATCHNORM, "model__buffers": "global"},
    "buffers local": {**BATCHNORM, "model__buffers": "local", "clients__per_round": 3},
    "buffers drop": {**BATCHNORM, "model__buffers": "drop"},
    "state at clients and server": {"strategy": "plugins_for_tests:keeping", "clients__per_round": 0.6},
    "server draws from the global generators": {"strategy": "plugins_for_tests:noisy"},
}


def _compare(tmp_path: Path, variant: dict[str, Any], *workers: int) -> None:
    results = [run(tmp_path / str(count), workers=count, **variant) for count in workers]
    hashes = {result.summary["model_sha256"] for result in results}
    assert len(hashes) == 1, hashes
    first = lines(results[0].folder)
    assert len(first) == 3
    assert not any(line["failures"] for line in first)
    for result in results[1:]:
        assert lines(result.folder) == first


@pytest.mark.parametrize("name", VARIANTS)
def test_one_worker_equals_two(tmp_path: Path, name: str) -> None:
    _compare(tmp_path, VARIANTS[name], 1, 2)


@pytest.mark.parametrize("name", ["fedavg, every feature", "local"])
def test_one_worker_equals_four(tmp_path: Path, name: str) -> None:
    _compare(tmp_path, VARIANTS[name], 1, 4)


def test_the_hash_sees_the_model(tmp_path: Path) -> None:
    """Without this the tests above would pass on a constant."""
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"strategy": "local"}, {"train__lr": 0.11}, {"rounds": 2}]
    hashes = [run(tmp_path / str(n), **change).summary["model_sha256"] for n, change in enumerate(changes)]
    assert len(set(hashes)) == len(changes)
