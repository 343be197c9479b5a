"""The plain path: what the fast path computes, by separate tensors and torch's own optimisers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins_for_tests import TOY, run
from safetensors.numpy import load_file
from torch import Tensor

from fedbox.configs import Config, ConfigError
from fedbox.models import FlatModel, PlainModel, build_model
from fedbox.server import grouping
from fedbox.server.checkpoint import CheckpointError
from fedbox.simulations.run import Parts, check, run_config
from fedbox.testing.double import DoubleFederation


def _weights(out: Path, config: Config) -> dict[str, Any]:
    run_config(config, out=out, progress=False, report=False, parts=Parts(prepare=DoubleFederation.prepare))
    return load_file(out / "model.safetensors")


MOMENTUM = {"train.momentum": 0.9, "train.weight_decay": 0.01, "train.clip_norm": 1.0, "train.lr": 0.05}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("mlp", {"train.optimizer": "adamw", "train.lr": 0.01, "train.weight_decay": 0.1}),
        ("cnn", MOMENTUM),
        ({"name": "resnet", "options": {"width": 8}}, {}),
        ("mlp", {"strategy": "fedprox", "settings.fedprox.mu": 0.5, **MOMENTUM}),
        ("mlp", {"strategy": "fedlabel", "data.labels.share": 0.3}),
    ],
    ids=["mlp, adamw", "cnn, momentum", "resnet", "fedprox", "fedlabel"],
)
def test_the_fast_path_equals_the_plain_one_in_float64(tmp_path: Path, model: Any, changes: dict[str, Any]) -> None:
    """Two rounds, messages, sum and checkpoint included; no weight differs by more than 1e-12."""
    common = {"rounds": 2, "model": model, **changes}
    fast, plain = (
        _weights(tmp_path / kind, check(TOY, {**common, "engine.kind": kind})) for kind in ("inprocess", "plain")
    )
    assert {value.dtype for value in fast.values()} == {np.dtype(np.float64)}
    assert fast.keys() == plain.keys()
    assert max(float(np.abs(fast[name] - plain[name]).max()) for name in fast) <= 1e-12


@pytest.mark.parametrize(("first", "then"), [("inprocess", "plain"), ("plain", "inprocess")])
def test_a_run_does_not_change_to_a_path_that_rounds_otherwise(tmp_path: Path, first: str, then: str) -> None:
    run(tmp_path / "run", rounds=1, engine__kind=first)
    with pytest.raises(CheckpointError, match=f"engine.kind: the checkpoint has '{first}', this run has '{then}'"):
        run(tmp_path / "run", rounds=2, engine__kind=then, resume=True)
    assert run(tmp_path / "run", rounds=2, engine__kind=first, resume=True).summary["rounds"] == 2


def _strides(values: Iterable[Tensor]) -> list[bool]:
    return [value.stride() == torch.empty(value.shape).stride() for value in values]


def test_the_tensors_are_separate_and_contiguous_and_take_in_what_is_written_to_the_vectors() -> None:
    plain, fast = (
        kind(build_model("cnn", shape=(1, 8, 8), classes=3, seed=1, options={"width": 4}))
        for kind in (PlainModel, FlatModel)
    )
    values = list(plain.module.parameters())
    assert len({value.untyped_storage().data_ptr() for value in values}) == len(values)
    assert all(_strides(values))
    assert not all(_strides(fast.module.parameters()))
    assert torch.equal(plain.flat, fast.flat)  # one layout
    for each in (plain, fast):
        each.flat.mul_(2.0).add_(1.0)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(plain.module(x), fast.module(x), atol=1e-5)
    [first, *_] = plain.trainable()
    plain.module(x).sum().backward()
    before = first.grad.clone() if first.grad is not None else torch.zeros(())
    plain.flat_grad.add_(plain.flat, alpha=0.5)
    plain.settle()
    assert first.grad is not None
    assert torch.allclose(first.grad, before + 0.5 * first.detach())
    kept = plain.flat  # only read: a later change of the module stands
    with torch.no_grad():
        first.zero_()
    plain.module(x)
    assert not first.any()
    assert kept.any()


def test_plain_runs_in_one_process(tmp_path: Path) -> None:
    done = run(tmp_path / "plain", rounds=1, engine__kind="plain", engine__workers=None)
    assert (done.summary["engine"], done.summary["workers"]) == ("plain", 1)
    with pytest.raises(ConfigError, match=r"engine\.workers.*got 2, but engine\.kind=plain runs in one process"):
        run(tmp_path / "two", engine__kind="plain", engine__workers=2)


def test_the_plain_path_asks_every_client_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    read = grouping.read_partial

    def counted(content: Any) -> Any:
        groups.append(1)
        return read(content)

    monkeypatch.setattr(grouping, "read_partial", counted)
    run(tmp_path / "grouped", rounds=2)
    assert groups
    groups.clear()
    run(tmp_path / "plain", rounds=2, engine__kind="plain")
    assert not groups
