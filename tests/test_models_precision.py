"""Mixed precision: against torch.autocast by hand, in parts, in copies, and in whole runs."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from plugins_for_tests import run
from test_simulations_stack import Said
from test_strategies_fedsto import SCENES
from torch import Tensor, nn

import fedbox
from fedbox.models import FlatModel, build_model
from fedbox.models.precision import lower_precision

CPU = torch.device("cpu")


def _built(name: str, **options: Any) -> nn.Module:
    return build_model(name, shape=(3, 64, 64), classes=4, seed=3, options=options)


def _lowered(name: str, **options: Any) -> nn.Module:
    module = _built(name, **options)
    lower_precision(module, CPU)
    return module


def _images(count: int) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_forward_pass_is_that_of_autocast_given_back_in_full() -> None:
    x = _images(4)
    plain = _built("cnn")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = plain(x)
    found = _lowered("cnn")(x)
    assert wanted.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted.float())
    assert not torch.equal(found, plain(x))


def test_parts_by_themselves_and_copies() -> None:
    x = _images(4)
    model: Any = _lowered("cnn")
    features = model.features(x)
    assert features.dtype == model.head(features).dtype == torch.float32
    assert not torch.equal(features, _built("cnn").features(x))  # type: ignore[operator]
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    assert other(x).abs().max() == 0  # it computes with its own weights
    assert model(x).abs().max() > 0
    assert type(other).__name__ == "Classifier"
    assert isinstance(model.head, nn.Linear)


def test_an_exception_leaves_no_autocast_behind() -> None:
    with pytest.raises(RuntimeError):
        _lowered("cnn")(torch.rand(4, 5, 64, 64))
    assert not torch.is_autocast_enabled("cpu")


class _Pair(NamedTuple):
    one: Tensor
    rest: dict[str, list[Tensor]]


class _Nested(nn.Module):
    def forward(self, x: Tensor) -> tuple[_Pair, int]:
        return _Pair(x.bfloat16(), {"more": [x.bfloat16(), x.long()]}), 3


def test_what_is_nested_is_given_back_in_full_as_well() -> None:
    module = _Nested()
    lower_precision(module, CPU)
    (one, rest), number = module(torch.ones(2))
    assert one.dtype == rest["more"][0].dtype == torch.float32
    assert rest["more"][1].dtype == torch.int64
    assert number == 3


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_detector_decodes_its_boxes_in_full(norm: str) -> None:
    x = _images(4)
    model: Any = FlatModel(_lowered("detector", norm=norm), CPU)
    found, full = model.module(x), _built("detector", norm=norm)(x)
    assert {value.dtype for value in found} == {torch.float32}
    assert 0 < (found.boxes - full.boxes).abs().max() < 1.0  # pixels
    target = (torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1]))
    sum(model.module.loss(found, [target] * 4)[:3]).backward()
    assert model.flat_grad.dtype == torch.float32
    assert torch.isfinite(model.flat_grad).all()
    assert model.flat_grad.abs().max() > 0
    assert model.module.detect(x, confidence=0.0)[0].boxes.dtype == torch.float32


def test_rtdetr_of_the_library_trains_in_it() -> None:
    pytest.importorskip("transformers")
    x = _images(2)
    model: Any = FlatModel(_lowered("rtdetr", size="tiny"), CPU)
    found, full = model.module(x), _built("rtdetr", size="tiny")(x)
    assert found.classes.dtype == found.boxes.dtype == torch.float32
    assert not torch.equal(found.classes, full.classes)
    target = (torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1]))
    sum(model.module.loss(found, [target] * 2)[:3]).backward()
    assert torch.isfinite(model.flat_grad).all()
    assert model.flat_grad.abs().max() > 0


def test_a_run_has_the_same_bits_on_any_number_of_workers_and_nearly_the_accuracy(tmp_path: Path) -> None:
    more: dict[str, Any] = {"rounds": 4, "model__name": "cnn", "train__precision": "bfloat16"}
    one = run(tmp_path / "one", engine__workers=1, **more)
    two = run(tmp_path / "two", engine__workers=2, **more)
    full = run(tmp_path / "full", engine__workers=1, **{**more, "train__precision": "float32"})
    assert one.summary["model_sha256"] == two.summary["model_sha256"] != full.summary["model_sha256"]
    assert one.summary["metrics"]["accuracy"] == pytest.approx(full.summary["metrics"]["accuracy"], abs=0.1)


def test_fedsto_runs_in_mixed_precision(tmp_path: Path) -> None:
    end = fedbox.run(
        {**SCENES, "train": {**SCENES["train"], "precision": "bfloat16"}}, out=tmp_path / "run", quiet=True
    )
    assert end.summary["metrics"]["map50"] >= 0


def test_stacks_compute_in_float32_and_say_so(tmp_path: Path) -> None:
    said = Said()
    run(tmp_path / "run", rounds=1, engine__stack=4, train__precision="bfloat16", callbacks=[said])
    assert said.words == [
        "clients one by one: they cannot be stacked (train.precision=bfloat16: stacks compute in float32)"
    ]
