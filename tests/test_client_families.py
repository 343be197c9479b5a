"""Different networks at the clients: who has which, that they stay with their clients, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedbox
from fedbox.client.workspace import Visit, Workspace
from fedbox.configs import ConfigError
from fedbox.data.arrays import DataError
from fedbox.simulations.run import check
from fedbox.strategies.federation import Federation

FAMILY: list[Any] = ["mlp", {"name": "cnn", "options": {"width": 4, "features": 16}}, "vit"]
TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 2,
    "strategy": "local",
    "data": {
        "dataset": "digits",
        "options": {"limit": 300, "test_limit": 50},
        "partition": {"kind": "iid", "clients": 7},
        "test_share": 0.2,
    },
    "model": FAMILY,
    "evaluate": {"clients": "all"},
    "engine": {"workers": 1},
}


def _run(out: Path, **changes: Any) -> fedbox.Result:
    return fedbox.run(TOY, out=out, quiet=True, report=False, **changes)


def test_client_i_has_the_ith_of_the_family() -> None:
    federation = Federation.prepare(check(TOY, {"model.by_client": {"client-5": "resnet"}}))
    names = [federation.spec(federation.name(number)).name for number in range(7)]
    assert names == ["mlp", "cnn", "vit", "mlp", "cnn", "resnet", "mlp"]
    assert federation.spec().name == "mlp"  # the server's
    flat = federation.model(torch.device("cpu"), "client-1")
    assert flat.module.get_submodule("head").weight.shape == (10, 16)


def test_they_train_and_stay_with_their_clients(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole")
    federation = Federation.prepare(check(TOY))
    weights = whole.weights()
    for number in range(7):
        name = federation.name(number)
        initial = federation.model(torch.device("cpu"), name)
        head = f"{name}/state/"
        own = {key.removeprefix(head): value for key, value in weights.items() if key.startswith(head)}
        assert own.keys() == initial.module.state_dict().keys()
        for key, value in initial.state(own).items():
            assert value.shape == own[key].shape
        assert any(not np.array_equal(value, own[key]) for key, value in initial.state(own).items())
    two = _run(tmp_path / "two", workers=2)
    assert two.summary["model_sha256"] == whole.summary["model_sha256"]
    _run(tmp_path / "resumed", rounds=1)
    resumed = _run(tmp_path / "resumed", resume=True)
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]


def test_memory_holds_one_of_each_kind(tmp_path: Path) -> None:
    workspace = Workspace(Federation.prepare(check(TOY)), tmp_path)
    for number in range(7):
        workspace.train(Visit(f"client-{number}", 1, "train", {}, {}))
    assert len(workspace._residents) == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"strategy": "fedavg"}, r"model\.family: strategy fedavg wants one network at all clients; .*: .*local"),
        ({"strategy": "fedavg", "model": {"by_client": {"client-1": "mlp"}}}, r"model\.by_client: strategy fedavg"),
        ({"model.weights": "some.safetensors"}, r"model\.weights: fits one network"),
        ({"model": []}, "model"),
        ({"model": ["mlp", {"nam": "cnn"}]}, r"model\.family\.1\.nam"),
        ({"model": ["mlp", 3]}, r"model\.family\.1"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(TOY, changes)


def test_a_client_that_does_not_exist_has_no_network() -> None:
    with pytest.raises(DataError, match=r"model\.by_client names client-7; the clients are client-0 to client-6"):
        Federation.prepare(check(TOY, {"model.by_client": {"client-7": "cnn"}}))


def test_a_family_that_is_one_network_is_the_same_run(tmp_path: Path) -> None:
    one = _run(tmp_path / "one", model="mlp")
    family = _run(tmp_path / "family", model={"name": "mlp", "family": ["mlp", "mlp"]})
    assert one.summary["model_sha256"] == family.summary["model_sha256"]


def test_a_list_of_equal_networks_can_be_averaged() -> None:
    for model in (["mlp"], ["mlp", "mlp"], [{"name": "mlp", "options": {"features": 8}}]):
        config = check(TOY, {"strategy": "fedavg", "model": model})
        assert (config.model.name, config.model.family) == ("mlp", [])
