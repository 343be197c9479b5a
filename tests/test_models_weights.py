"""Models that start from the weights of a file (`model.weights`)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fedbox
from fedbox.models import ModelError, build_model, load_weights


def _model(seed: int) -> nn.Module:
    return build_model("detector", shape=(3, 64, 64), classes=5, seed=seed, options={"size": "nano", "norm": "batch"})


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in module.state_dict().items()}


def test_all_arrays_of_the_file_are_taken(tmp_path: Path) -> None:
    given, model = _model(1), _model(2)
    mean = next(name for name, _ in given.named_buffers() if name.endswith("running_mean"))
    given.get_buffer(mean).fill_(0.25)
    save_file(_state(given), tmp_path / "whole.safetensors")
    load_weights(model, str(tmp_path / "whole.safetensors"))
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_backbone_alone_leaves_the_rest(tmp_path: Path) -> None:
    given, model = _model(1), _model(2)
    backbone = {name: value for name, value in _state(given).items() if name.startswith("backbone.")}
    save_file(backbone, tmp_path / "backbone.safetensors")
    before = _state(model)
    load_weights(model, str(tmp_path / "backbone.safetensors"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, (backbone if name in backbone else before)[name]), name


def _unreadable(path: Path) -> None:
    path.write_bytes(b"not safetensors")


def _unknown(path: Path) -> None:
    first = next(iter(_state(_model(0))))
    save_file({first: torch.zeros_like(_state(_model(0))[first]), "backbon.x": torch.zeros(1)}, path)


def _misshapen(path: Path) -> None:
    state = _state(_model(0))
    name = next(iter(state))
    save_file({**{key: torch.ones_like(value) for key, value in state.items()}, name: torch.zeros(7)}, path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "cannot be read as safetensors"),
        (_unreadable, "cannot be read as safetensors"),
        (_unknown, r"the model has no array 'backbon\.x'"),
        (_misshapen, r"is \[7\]; the model's is \[\d+"),
    ],
    ids=["missing", "unreadable", "unknown array", "other shape"],
)
def test_a_bad_file_is_told_and_changes_nothing(make: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    make(file)
    model = _model(3)
    before = _state(model)
    with pytest.raises(ModelError, match=told) as caught:
        load_weights(model, str(file))
    assert "model.weights" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_goes_on_from_the_model_of_another(tmp_path: Path) -> None:
    small = {"data.options.limit": 200, "data.partition.clients": 2, "rounds": 1}
    first = fedbox.run("quickstart", out=tmp_path / "first", quiet=True, report=False, workers=1, **small)
    resting = {"model.weights": str(first.folder / "model.safetensors"), "train.lr": 1e-12, **small}
    second = fedbox.run("quickstart", out=tmp_path / "second", quiet=True, report=False, workers=1, **resting)
    for name, value in second.weights().items():
        assert abs(value - first.weights()[name]).max() < 1e-6, name
