"""FedAvg on pseudo-labels and its variants: each term against its formula."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from boxes_for_tests import run_scenes, site_of

from fedbox.models import norm_names
from fedbox.strategies.contract import Update
from fedbox.strategies.exact import Arrays
from fedbox.strategies.fedavg_ema import FedAvgEMAClient, FedAvgEMAServer, FedAvgEMASettings
from fedbox.strategies.fedpac_ema import FedPACClient, FedPACSettings
from fedbox.strategies.personal import STUDENT, TEACHER, kept
from fedbox.strategies.semi_boxes import SemiBoxClient


def _settings(**values: Any) -> FedAvgEMASettings:
    return FedAvgEMASettings.model_validate({"warmup": 0, "low": 0.0, "high": 0.01, **values})


def _server(**values: Any) -> FedAvgEMAServer:
    return FedAvgEMAServer(_settings(**values), site_of("server"))


def _moved(weights: Arrays, by: float) -> Arrays:
    return {name: (value + by).astype(value.dtype) for name, value in weights.items()}


def test_mu_and_dyn_pull_towards_the_global_model() -> None:
    site = site_of()
    client = FedAvgEMAClient(_settings(mu=0.5, dyn=0.25))
    site.state["dyn/g"] = np.full(site.flat.flat.shape, 0.125, np.float32)
    change = client.adjust(site)
    assert change is not None
    start = site.flat.flat.clone()
    site.flat.flat.add_(2.0)
    site.flat.flat_grad.fill_(1.0)
    change()
    # 1 + (mu + dyn) (w - w_global) - g
    assert torch.allclose(site.flat.flat_grad, 1 + 0.75 * (site.flat.flat - start) - 0.125)
    assert FedAvgEMAClient(_settings()).adjust(site) is None


def test_feddyn_remembers_how_far_it_went() -> None:
    site = site_of()
    start = site.flat.flat.clone()
    FedAvgEMAClient(_settings(dyn=0.1, personal=False)).train(site)
    assert torch.allclose(torch.from_numpy(np.array(site.state["dyn/g"])), -0.1 * (site.flat.flat - start), atol=1e-7)


def test_feddyn_at_the_server_by_hand() -> None:
    """Two of three clients move every weight by 0.25 and 0.75: h = -a 2/3 0.5, w = w + 0.5 + 2/3 0.5."""
    server = _server(dyn=0.1)
    before = dict(server.weights)
    total = server.begin()
    server.add(total, "client-0", Update(_moved(before, 0.25), 1))
    server.add(total, "client-1", Update(_moved(before, 0.75), 9))  # examples do not matter
    server.finish(total, 1)
    for name, value in server.weights.items():
        assert np.allclose(value, before[name] + 0.5 + 0.5 * 2 / 3, atol=1e-6)
    kept = server.state()
    assert all(np.allclose(value, -0.1 * 2 / 3 * 0.5, atol=1e-7) for value in kept.values())
    other = _server(dyn=0.1)
    other.restore(kept)
    assert other.drift.keys() == server.drift.keys()


def test_fedopt_steps_from_the_mean() -> None:
    server = _server(server_optimizer="sgd", server_lr=0.5, server_beta1=0.0)
    before = dict(server.weights)
    total = server.begin()
    server.add(total, "client-0", Update(_moved(before, 1.0), 4))
    server.finish(total, 1)
    assert all(np.allclose(value, before[name] + 0.5, atol=1e-6) for name, value in server.weights.items())


def test_fedbn_keeps_normalisation_at_home() -> None:
    site = site_of()
    client, server = FedAvgEMAClient(_settings(local_norms=True)), _server(local_norms=True)
    names = set(norm_names(site.model))
    assert names
    assert all(name.rpartition(".")[2] in ("weight", "bias") for name in names)
    update = client.train(site)
    assert set(update.weights) == set(server.expects()) == set(server.weights) - names
    own = {name: site.state["norm/" + name] for name in names}
    later = site_of()
    later.state, later.received = site.state, server.weights
    client.prepare(later)
    assert all(np.array_equal(value, own[name]) for name, value in later.flat.state(names).items())
    rest = [name for name in server.weights if name not in names]
    assert all(np.array_equal(value, server.weights[name]) for name, value in later.flat.state(rest).items())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the run without any variant."""
    result = run_scenes(tmp_path_factory.mktemp("plain") / "run", strategy="fedavg-ema")
    return str(result.summary["model_sha256"])


@pytest.mark.parametrize(
    "settings",
    [
        {"local_norms": True},
        {"server_optimizer": "adam", "server_lr": 0.01},
        {"dyn": 0.1},
        {"labeller": "persistent", "personal": False},
    ],
)
def test_every_variant_with_a_memory_resumes_to_the_same_bits(
    settings: dict[str, Any], plain: str, tmp_path: Path
) -> None:
    changes = {"strategy": "fedavg-ema", "settings.fedavg-ema": {"warmup": 0, "low": 0.0, "high": 0.01, **settings}}
    whole = run_scenes(tmp_path / "whole", **changes)
    run_scenes(tmp_path / "parts", rounds=1, **changes)
    parts = run_scenes(tmp_path / "parts", resume=True, **changes)
    assert parts.summary["model_sha256"] == whole.summary["model_sha256"]
    assert whole.summary["model_sha256"] != plain


def test_every_labeller_of_fedpac_is_another_run_and_a_kept_one_resumes(tmp_path: Path) -> None:
    def changes(**settings: Any) -> dict[str, Any]:
        block = {"warmup": 0, "low": 0.0, "high": 0.01, **settings}
        return {"strategy": "fedpac-ema", "settings.fedpac-ema": block}

    kept = changes(labeller="persistent", personal=False)
    runs = {name: run_scenes(tmp_path / name, **changes(labeller=name)) for name in ("local", "global", "persistent")}
    assert len({run.summary["model_sha256"] for run in runs.values()}) == 3
    run_scenes(tmp_path / "parts", rounds=1, **kept)
    parts = run_scenes(tmp_path / "parts", resume=True, **kept)
    assert parts.summary["model_sha256"] == runs["persistent"].summary["model_sha256"]


@pytest.mark.parametrize(
    "client",
    [
        FedAvgEMAClient(FedAvgEMASettings(labeller="global")),
        FedPACClient(FedPACSettings(labeller="global")),
    ],
)
def test_a_global_labeller_is_what_was_sent_whatever_labels_the_client_has(client: SemiBoxClient[Any]) -> None:
    site = site_of(**{"data.labels": {"share": 0.5}})
    assert len(site.labelled)
    assert len(site.unlabelled)
    sent = site.weights()
    site.received = {**sent, "prototypes": np.zeros((site.classes, 48), np.float32)}
    client.prepare(site)
    client.train(site)
    teacher, student = kept(site, TEACHER), kept(site, STUDENT)
    assert all(np.array_equal(teacher[name], value) for name, value in sent.items())
    assert not all(np.array_equal(student[name], value) for name, value in sent.items())


@pytest.mark.parametrize("settings", [{"mu": 0.1}, {"labeller": "global"}])
def test_a_variant_without_a_memory_is_another_run(settings: dict[str, Any], plain: str, tmp_path: Path) -> None:
    changes = {"strategy": "fedavg-ema", "settings.fedavg-ema": {"warmup": 0, "low": 0.0, "high": 0.01, **settings}}
    assert run_scenes(tmp_path / "run", **changes).summary["model_sha256"] != plain


@pytest.mark.parametrize("strategy", ["fedavg-ema", "fedpac-ema"])
def test_labels_at_the_clients_are_used(strategy: str, tmp_path: Path) -> None:
    """With all labels there is nothing to label: full supervision."""
    result = run_scenes(tmp_path / "run", strategy=strategy, rounds=1, **{"data.labels": {"share": 1.0}})
    assert "pseudo_precision" not in result.rounds[0]["metrics"]
    assert result.rounds[0]["clients"]["client-0"]["examples"] == 12
    assert "train_loss" in result.rounds[0]["metrics"]


def test_personal_models_are_measured_on_their_own_domain(tmp_path: Path) -> None:
    result = run_scenes(
        tmp_path / "run",
        strategy="fedavg-ema",
        rounds=1,
        **{"evaluate.clients": "all", "evaluate.client_split": "domain"},
    )
    metrics = result.summary["metrics"]
    for prefix in ("personal_", "teacher_"):
        assert set(metrics[f"{prefix}map50_by_domain"]) == {"overcast", "rainy", "snowy"}
        assert prefix + "map50" in metrics
    rows = result.rounds[0]["clients"]
    assert metrics["personal_map50"] == pytest.approx(sum(row["personal_map50"] for row in rows.values()) / 3)
    assert rows["client-1"]["test_examples"] == 4  # of 16 test images those that are rainy
    # The global model on rainy images, measured by the server and by the client: the same images, the same figure.
    assert rows["client-1"]["map50"] == pytest.approx(metrics["map50_by_domain"]["rainy"])
