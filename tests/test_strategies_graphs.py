"""Steps that are recorded and replayed: the same as steps that are done as they come."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sites_for_tests import small_site
from torch import Tensor

from fedbox.configs import load_config
from fedbox.models import FlatModel, build_model
from fedbox.strategies import graphs
from fedbox.strategies.contract import Plain, Update
from fedbox.strategies.graphs import Replays
from fedbox.strategies.stack import StackTrainer

GROUPS = ([6, 4, 5], [4, 4, 6], [9, 6, 0, 4, 7], [6, 4, 5])  # the third needs a larger stack


class Tape:
    """Stands for a CUDA graph where there is no GPU: does the work again on the memory that it met."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        """Record the work."""
        result = work().clone()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            result.copy_(work())

        result.fill_(torch.nan)  # a recording's result is there once it was replayed
        return replay, result


def _train(model: str, replays: Replays, device: str = "cpu") -> list[Update]:
    """Train groups of ragged clients one after the other with one trainer."""
    config = load_config({"train": {"batch_size": 4, "lr": 0.05, "epochs": 3, "momentum": 0.9}}).train
    flat = FlatModel(build_model(model, shape=(1, 8, 8), classes=10, seed=0), device)
    initial, trainer, found = flat.flat.clone(), StackTrainer(flat, Plain(pull=0.1), replays, exact=False), []
    for round_, counts in enumerate(GROUPS):
        flat.flat.copy_(initial)
        sites = [
            small_site(flat, number, count, config, seed=[number, round_], round_=round_)
            for number, count in enumerate(counts)
        ]
        for update in trainer.train(sites, [site.labelled for site in sites]):
            weights = {name: np.array(value) for name, value in update.weights.items()}
            found.append(Update(weights, update.examples, update.metrics))
    return found


def _assert_same(found: list[Update], wanted: list[Update], tolerance: float = 0.0) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.examples == other.examples
        assert one.metrics == pytest.approx(other.metrics, rel=tolerance, abs=tolerance)
        for name, value in one.weights.items():
            np.testing.assert_allclose(value, other.weights[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
def test_replayed_steps_give_what_steps_as_they_come_give(model: str) -> None:
    tape = Tape()
    found = _train(model, Replays(tape))
    _assert_same(found, _train(model, Replays(None)))
    assert tape.replayed > tape.recorded > 3  # shapes recur, in more than one stack


def test_what_cannot_be_recorded_is_done_as_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with caplog.at_level(logging.WARNING, logger="fedbox.engine"):
        _assert_same(_train("mlp", Replays(refuse)), _train("mlp", Replays(None)))
    assert "recorded as CUDA graphs (operation not permitted when stream is capturing): each" in caplog.text


def test_a_lack_of_memory_is_no_reason_to_go_on() -> None:
    def fill(work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        _train("mlp", Replays(fill))


def test_few_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_MOST", 2)
    tape = Tape()
    replays = Replays(tape)
    for _ in range(5):
        for size in (1, 2, 3):
            x = torch.full((size,), 2.0)
            assert replays.run("double", lambda x, y: x * y, x, x).tolist() == [4.0] * size
    assert (tape.recorded, tape.replayed) == (2, 6)  # each size is met twice before it is recorded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
def test_cuda_graphs_give_what_single_kernels_give(model: str, caplog: pytest.LogCaptureFixture) -> None:
    found = _train(model, Replays.on(torch.device("cuda"), wanted=True), "cuda")
    assert "CUDA graphs" not in caplog.text
    _assert_same(found, _train(model, Replays(None), "cuda"), 1e-3)
