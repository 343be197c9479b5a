"""Clients in one pass, and updates that are added up where they are made: neither may change what comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins_for_tests import lines, run, run_trouble

from fedbox.models import FlatModel, build_model
from fedbox.models.stacked import Stack, StackError, refuse

RAGGED: dict[str, Any] = {
    "data__partition": {"kind": "dirichlet", "clients": 7, "alpha": 0.3, "min_size": 1},
    "train__batch_size": 7,
    "train__momentum": 0.9,
    "train__weight_decay": 0.01,
    "rounds": 2,
}


def close(one: Any, other: Any, tolerance: float) -> bool:
    """Say whether all weights of two results agree so far."""
    mine, theirs = one.weights(), other.weights()
    return mine.keys() == theirs.keys() and all(
        np.allclose(value, theirs[name], rtol=0, atol=tolerance) for name, value in mine.items()
    )


@pytest.mark.parametrize(
    "model",
    [
        {"name": "mlp", "options": {"hidden": 16}},
        {"name": "cnn", "options": {"width": 4, "hidden": 8}},
        {"name": "resnet", "options": {"width": 4, "norm": "group"}},
    ],
    ids=lambda model: str(model["name"]),
)
def test_a_stack_of_ragged_clients_ends_where_the_loop_does(tmp_path: Path, model: dict[str, Any]) -> None:
    given = {**RAGGED, "model": model}
    looped = run(tmp_path / "loop", engine__stack="off", **given)
    stacked = run(tmp_path / "stack", engine__stack=3, **given)
    assert close(looped, stacked, 2e-5)
    moved = {name: np.abs(value).max() for name, value in looped.weights().items()}
    assert max(moved.values()) > 0.05  # far more than the tolerance: it did train
    for one, other in zip(lines(looped.folder), lines(stacked.folder), strict=True):
        assert one["clients"].keys() == other["clients"].keys()
        assert one["bytes_up"] == other["bytes_up"]
        assert one["bytes_down"] == other["bytes_down"]
        for name, row in one["clients"].items():
            assert row["examples"] == other["clients"][name]["examples"]
            assert row["train_loss"] == pytest.approx(other["clients"][name]["train_loss"], abs=1e-4)


def test_stacks_of_a_size_give_one_hash_on_any_number_of_workers(tmp_path: Path) -> None:
    hashes = {
        run(tmp_path / str(workers), engine__stack=3, engine__workers=workers, **RAGGED).summary["model_sha256"]
        for workers in (1, 2)
    }
    assert len(hashes) == 1


def test_left_to_itself_no_bit_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    off = run(tmp_path / "off", engine__stack="off", **RAGGED)
    auto = run(tmp_path / "auto", engine__stack="auto", **RAGGED)
    assert off.summary["model_sha256"] == auto.summary["model_sha256"]
    assert lines(off.folder) == lines(auto.folder)
    assert (tmp_path / "cache" / "fedbox" / "stack.json").is_file()


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_one_forward_and_backward_in_double_precision(name: str) -> None:
    """Logits and gradients of three models with weights of their own, against the models one by one: to 1e-12."""
    options = {"mlp": {"hidden": 8}, "cnn": {"width": 4, "hidden": 8}, "resnet": {"width": 4}}[name]
    flat = FlatModel(build_model(name, shape=(1, 8, 8), classes=5, seed=3, options=options).double())
    stack, generator = Stack(flat, 3), torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 1, 8, 8, dtype=torch.float64, generator=generator)
    weights = flat.flat + 0.1 * torch.randn(3, flat.flat.numel(), dtype=torch.float64, generator=generator)
    stack.bank.flat.copy_(weights)
    logits = stack.logits(x, slice(0, 3))
    torch.autograd.backward(logits, logits.detach().cos())
    for row in range(3):
        flat.flat.copy_(weights[row])
        flat.zero_grad()
        alone = flat.module(x[row])
        torch.autograd.backward(alone, alone.detach().cos())
        assert torch.allclose(logits[row], alone, rtol=0, atol=1e-12)
        for place in flat.spans.values():
            assert torch.allclose(stack.bank.grad[row][place], flat.flat_grad[place], rtol=0, atol=1e-12)


def test_what_cannot_be_stacked_says_why_and_runs(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="BatchNorm"):
        refuse(build_model("resnet", shape=(1, 8, 8), classes=5, seed=0, options={"norm": "batch"}))
    off = run(tmp_path / "off", engine__stack="off", train__optimizer="adamw", train__lr=0.01)
    asked = run(tmp_path / "asked", engine__stack=4, train__optimizer="adamw", train__lr=0.01)
    assert off.summary["model_sha256"] == asked.summary["model_sha256"]


@pytest.mark.parametrize("kind", ["nan", "raises", "exits"])
def test_a_bad_client_of_a_group_is_named_and_spoils_no_other(tmp_path: Path, kind: str) -> None:
    """Two workers get groups, and in each the others count: the same bits as where everyone was asked alone."""
    many = {"data__partition": {"kind": "iid", "clients": 12}}
    grouped = run_trouble(tmp_path / "grouped", kind, "client-1", "client-8", **many)
    alone = run_trouble(tmp_path / "alone", kind, "client-1", "client-8", clients__timeout=100.0, **many)
    assert grouped.summary["model_sha256"] == alone.summary["model_sha256"]
    assert lines(grouped.folder) == lines(alone.folder)
    failed = {failure["client"] for record in lines(grouped.folder) for failure in record["failures"]}
    assert failed == {"client-1", "client-8"}
