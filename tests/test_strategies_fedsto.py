"""FedSTO and its parts, on small scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from boxes_for_tests import site_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbox
from fedbox.configs import ConfigError
from fedbox.data import DataError
from fedbox.models import ModelError
from fedbox.simulations.plan import plan
from fedbox.simulations.run import check
from fedbox.strategies import UnsuitableError
from fedbox.strategies.federation import Federation
from fedbox.strategies.fedsto import FedSTOServer, FedSTOSettings
from fedbox.strategies.orthogonal import orthogonality, spectral_norm

SCENES: dict[str, Any] = {
    "name": "scenes",
    "rounds": 2,
    "strategy": "fedsto",
    "settings": {"fedsto": {"warmup": 1, "selective": 1, "low": 0.0, "high": 0.01}},
    "data": {
        "dataset": "scenes",
        "options": {"samples": 48, "test_samples": 16, "size": 64},
        "partition": {"kind": "natural", "key": "weather", "clients": 3},
        "server": {"value": "cloudy"},
        "labels": {"share": 0.0},
    },
    "model": "detector",
    "train": {"batch_size": 8, "optimizer": "adamw", "lr": 0.002},
    "engine": {"workers": 1},
}


def _run(out: Path, **changes: Any) -> fedbox.Result:
    return fedbox.run(SCENES, out=out, quiet=True, report=False, **changes)


@given(st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_the_spectral_norm_is_never_above_the_exact_one(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = half + half.T
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    assert float(spectral_norm(lambda v: matrix @ v, start)) <= exact * (1 + 1e-9)
    top = torch.linalg.eigh(matrix).eigenvectors[:, torch.linalg.eigvalsh(matrix).abs().argmax()]
    assert float(spectral_norm(lambda v: matrix @ v, top)) == pytest.approx(exact, rel=1e-9)


def test_orthogonality_worked_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    assert float(orthogonality([torch.eye(4)], generator)) == pytest.approx(0, abs=1e-6)
    # 2 I: W'W - I = WW' - I = 3 I, so each term is 3.
    assert float(orthogonality([2 * torch.eye(4)], generator)) == pytest.approx(6, rel=1e-6)
    # Rows orthonormal, more columns than rows: WW' = I, and W'W - I has the eigenvalue -1.
    assert float(orthogonality([torch.eye(2, 3)], generator)) == pytest.approx(1, abs=0.5)
    assert float(orthogonality([torch.ones(3)], generator)) == 0  # biases have no matrix


def test_its_gradient_pulls_towards_orthogonal_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = (2 * torch.eye(3)).requires_grad_()
    orthogonality([weight], generator).backward()
    stepped = weight.detach() - 0.01 * weight.grad
    assert float(orthogonality([stepped], generator)) < 6


def test_phases_follow_the_rounds_and_phase_one_expects_the_backbone() -> None:
    half = FedSTOServer(FedSTOSettings(warmup=2, selective=3), site_of("server"))
    assert [half.phase(round_) for round_ in range(1, 8)] == ["warm-up"] * 2 + ["selective"] * 3 + ["full"] * 2
    assert half.ask(1) is None
    ask = half.ask(3)
    assert ask is not None
    assert ask.phase == "selective"
    assert set(ask.arrays) == set(half.weights)  # the whole model goes out ...
    assert {name.partition(".")[0] for name in half.expects()} == {"backbone"}  # ... the backbone comes back
    half.ask(6)
    assert set(half.expects()) == set(half.weights)


def test_the_server_holds_one_weather_and_each_client_another() -> None:
    federation = Federation.prepare(check(SCENES))
    weather = federation.dataset.train.attributes["weather"]
    assert set(weather[federation.server]) == {"cloudy"}
    assert len(federation.server) == 12
    seen = [set(weather[federation.clients.indices(number)]) for number in range(3)]
    assert seen == [{"overcast"}, {"rainy"}, {"snowy"}]
    for number in range(3):
        roles = federation.roles(f"client-{number}")
        assert (len(roles.labelled), len(roles.unlabelled)) == (0, 12)


def test_a_weather_that_nobody_has_is_told() -> None:
    with pytest.raises(DataError, match=r"cloudi.*cloudy, overcast, rainy, snowy"):
        Federation.prepare(check(SCENES, {"data.server.value": "cloudi"}))


def test_unlabelled_images_hide_their_boxes() -> None:
    federation = Federation.prepare(check(SCENES))
    index = federation.roles("client-0").unlabelled
    hidden = federation.samples(index, torch.device("cpu"), labelled=False)
    batch = hidden.batch(torch.arange(4))
    assert all(len(boxes) == 0 for boxes, _ in batch.y)
    assert all(len(boxes) > 0 for boxes, _ in hidden.truths[:4])  # type: ignore[attr-defined]


def test_a_round_of_each_phase_leaves_what_the_report_needs(tmp_path: Path) -> None:
    result = _run(tmp_path / "run", rounds=3)
    assert [record["phase"] for record in result.rounds] == ["server", "selective", "full"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["metrics"]["map50_by_domain"]) == {"cloudy", "overcast", "rainy", "snowy"}
    assert 0 <= summary["metrics"]["map50"] <= 1
    for record in result.rounds[1:]:
        metrics = record["metrics"]
        assert {"pseudo_per_image", "pseudo_recall", "train_loss", "server_train_loss"} <= set(metrics)
        assert ("pseudo_precision" in metrics) == (metrics["pseudo_per_image"] > 0)
    from fedbox.server.report import write_report

    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "map50" in page


def test_server_only_and_centralized_take_equally_many_steps(tmp_path: Path) -> None:
    """48 images in batches of 8 are 6 steps: the server's 12 images are seen four times by server-only."""
    from fedbox.server.own import Own
    from fedbox.strategies.server_only import server_steps

    site = Own(Federation.prepare(check(SCENES)), 3).site(0)
    assert server_steps(site, None) == 6
    assert "pooled" not in site._parts  # with everybody's images beside its own a server would need twice the memory
    assert site.fit(samples=site.pooled).steps == 6
    assert site.fit(steps=server_steps(site, None)).steps == 6
    assert server_steps(site, 2) is None


@pytest.mark.parametrize("strategy", ["fedsto", "server-only"])
def test_an_empty_server_is_told(tmp_path: Path, strategy: str) -> None:
    server = {"value": None, "share": 0.0}
    with pytest.raises(UnsuitableError, match=f"{strategy}: the server holds no labelled") as told:
        plan(check(SCENES, {"strategy": strategy, "data.server": server}))
    assert told.value.exit_code == 2


@pytest.mark.parametrize(
    ("strategy", "model", "boxes", "message"),
    [
        ("fedsto", "mlp", False, "strategy fedsto needs images with boxes, such as data.dataset=scenes; digits has"),
        ("ema-teacher", "mlp", False, "ema-teacher needs images with boxes"),
        ("fedlabel", "detector", True, "strategy fedlabel needs samples with one class each; scenes has images with"),
        ("fedsto", "cnn", True, "the samples of scenes want a detector, such as model=detector; cnn is none"),
        ("adabn", {"name": "detector", "options": {"norm": "group"}}, True, "this model has none"),
        ("fedpac-ema", {"name": "rtdetr", "options": {"size": "tiny"}}, True, "fedpac-ema needs the compact detector"),
    ],
)
def test_what_does_not_fit_a_strategy_is_told_before_anything_is_trained(
    strategy: str, model: Any, boxes: bool, message: str
) -> None:
    data = {"dataset": "digits", "options": {"limit": 100}, "partition": {"kind": "iid", "clients": 2}}
    changes = {} if boxes else {"data": {**data, "server": {"share": 0.5}}}
    if "rtdetr" in str(model):
        pytest.importorskip("transformers")
    with pytest.raises((UnsuitableError, ModelError), match=message) as told:
        plan(check(SCENES, {"strategy": strategy, "model": model, **changes}))
    assert told.value.exit_code in (2, 3)


@pytest.mark.parametrize("strategy", ["fedsto", "fedavg-ema", "ema-teacher"])
def test_a_band_that_begins_above_its_end_is_a_fault_of_the_configuration(strategy: str) -> None:
    with pytest.raises(ConfigError, match=r"low, 0\.7, is above high, 0\.3; wanted: low <= high"):
        check(SCENES, {"strategy": strategy, f"settings.{strategy}": {"low": 0.7, "high": 0.3}})


def test_frozen_statistics_stay_as_they_are() -> None:
    config = check(SCENES, {"model": {"name": "detector", "options": {"norm": "batch"}}})
    federation = Federation.prepare(config)
    from fedbox.strategies.site import Holdings, Site

    held = federation.samples(federation.server, torch.device("cpu"))
    flat = federation.model(torch.device("cpu"))
    site = Site("server", flat, config.train, Holdings(lambda: held, lambda: held, lambda: held), 5, 0)
    names = [name for name, _ in flat.module.named_buffers() if name.endswith("running_mean")]
    before = flat.state(names)
    site.fit(steps=1, freeze_statistics=True)
    assert all((flat.state(names)[name] == before[name]).all() for name in names)
    site.fit(steps=1)
    assert any(not np.array_equal(flat.state(names)[name], before[name]) for name in names)
