"""The contract suite: what every registered strategy must do. A strategy gets these tests by being registered."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fedbox
from fedbox.server.loop import RunFailedError
from fedbox.simulations.run import check
from fedbox.strategies.contract import Plugin, Site, Update
from fedbox.strategies.federation import Federation
from fedbox.strategies.registry import find, registered

NAMES = list(registered())
TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 3,
    "data": {
        "dataset": "digits",
        "options": {"limit": 500, "test_limit": 200},
        "partition": {"kind": "iid", "clients": 4},
        "server": {"share": 0.2},
        "test_share": 0.2,
    },
    "model": {"name": "mlp", "options": {"hidden": 32}},
    "train": {"epochs": 3, "batch_size": 16, "lr": 0.2},
    "engine": {"workers": 1},
    "evaluate": {"clients": "all"},
}

BOXES: dict[str, Any] = {
    **TOY,
    "rounds": 4,  # the server alone twice, then each phase that there is
    "data": {
        "dataset": "scenes",
        "options": {"samples": 48, "test_samples": 8, "size": 64},
        "partition": {"kind": "natural", "key": "weather", "clients": 3},
        "server": {"value": "cloudy"},
        "labels": {"share": 0.0},
        "test_share": 0.2,
    },
    "model": "detector",
    "train": {"epochs": 1, "batch_size": 8, "optimizer": "adamw", "lr": 0.004},
    "settings": {
        "adabn": {"warmup": 3},
        "ema-teacher": {"warmup": 2, "low": 0.0, "high": 0.01},
        "fedavg-ema": {"warmup": 2, "low": 0.0, "high": 0.01},
        "fedpac-ema": {"warmup": 2, "low": 0.0, "high": 0.01},
        "fedsto": {"warmup": 2, "selective": 1, "low": 0.0, "high": 0.01},
        "unbiased-teacher": {"warmup": 2, "high": 0.01},
    },
}
DETECTION = set(BOXES["settings"])
HALF_LABELLED: dict[str, Any] = {
    **TOY,
    "data": {**TOY["data"], "labels": {"share": 0.5}},
    "settings": {
        "fedlabel": {"combine": "mean"},
        "fedmatch": {"threshold": 0.3},
        "fixmatch": {"threshold": 0.3},
        "semifl": {"threshold": 0.3},
        "uda": {"threshold": 0.3},
    },
}
SEMI = set(HALF_LABELLED["settings"])
ALONE = {"centralized", "ema-teacher", "local", "server-only", "unbiased-teacher"}
"""Strategies in which nothing of a model travels to the server."""
SMALL = {"feddistill", "fedproto", "fedsa", "fedtgp", "lg-fedavg"}
"""Strategies in which a part of a model or class means travel."""
BYTES = {"onebyte"}
"""Strategies in which a byte a sample travels."""
QUIET = {*ALONE, "adabn"}
"""Strategies in which the clients do not train for the server in the first round."""


def _toy(strategy: str) -> dict[str, Any]:
    if strategy == "adabn":
        return {**BOXES, "model": {"name": "detector", "options": {"norm": "batch"}}}
    if strategy in BYTES:  # a round is one small, noisy step; it learns the slower the more weights there are
        small = {"model": {"name": "mlp", "options": {"hidden": 8}}, "train": {"batch_size": 64, "lr": 0.2}}
        settings = {"onebyte": {"samples": 16, "scale": "mean"}}
        return {**TOY, **small, "rounds": 20, "settings": settings}
    if strategy in SEMI or strategy.endswith("_half"):
        return HALF_LABELLED
    return BOXES if strategy.partition(":")[0] in DETECTION or strategy.endswith("_boxes") else TOY


def _run(out: Path, strategy: str, **changes: Any) -> fedbox.Result:
    return fedbox.run(_toy(strategy), out=out, quiet=True, report=False, strategy=strategy, **changes)


def _lines(result: fedbox.Result) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in result.rounds]


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> fedbox.Result:
    """One undisturbed run of each strategy."""
    return _run(tmp_path_factory.mktemp("whole") / "run", request.param)


def test_it_learns(whole: fedbox.Result) -> None:
    strategy = whole.summary["strategy"]
    if strategy in DETECTION:  # boxes take longer than this toy lasts; what the server learns from its labels shows
        name = "train_loss" if strategy in QUIET else "server_train_loss"
        assert whole.rounds[1]["metrics"][name] < whole.rounds[0]["metrics"][name]
        return
    first, last = whole.rounds[0]["metrics"], whole.rounds[-1]["metrics"]
    name = "server_train_loss" if strategy == "semifl" else "train_loss"  # its clients' loss grows with what they mix
    # What is pulled to prototypes has its second term from the second round on.
    assert last[name] < first[name] or strategy in {"fedproto", "fedtgp"}
    # Ten classes: 0.1 is chance. After three rounds on a few hundred images all are far above it.
    assert last["accuracy"] > 0.4
    assert last["client_accuracy"] > 0.4


def test_it_leaves_what_a_run_leaves(whole: fedbox.Result) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert {"config.yaml", "rounds.jsonl", "summary.json", "model.safetensors", "checkpoint"} <= names
    about = {"name", "strategy", "engine", "workers", "seed", "rounds", "clients", "status", "versions"}
    found = {"metrics", "best", "bytes_up", "bytes_down", "seconds", "peak_rss_mb", "model_sha256"}
    assert set(whole.summary) >= about | found
    assert whole.summary["status"] == "completed"
    assert whole.weights()
    assert all(np.isfinite(value).all() for value in whole.weights().values())


def test_bytes_are_counted(whole: fedbox.Result) -> None:
    strategy = whole.summary["strategy"]
    model = sum(value.nbytes for value in whole.weights().values())
    up = [record["bytes_up"] for record in whole.rounds]
    if strategy in ALONE:
        assert max(up) < 6000
    elif strategy in BYTES:
        assert 0 < max(up) < 12_000
    elif strategy in SMALL:
        own = model / whole.summary["clients"]  # the final weights are those of every client
        assert 0 < max(up) < whole.summary["clients"] * own / 2
    elif strategy == "fedsto":  # three clients; the first round of theirs sends the backbone only
        backbone = sum(value.nbytes for name, value in whole.weights().items() if name.startswith("backbone."))
        assert 3 * backbone < up[2] < 3 * (backbone + 20_000) < 3 * model < up[3]
    elif strategy == "adabn":  # three clients send the statistics in the last round
        statistics = sum(value.nbytes for name, value in whole.weights().items() if ".running_" in name)
        assert max(up[:3]) < 6000
        assert 3 * statistics < up[3] < 3 * (statistics + 60_000)
    elif strategy in DETECTION:
        assert min(up[2:]) >= 3 * model
    else:
        assert min(up) >= whole.summary["clients"] * model  # every client sends the whole model
    assert whole.summary["bytes_up"] == sum(up)


def test_it_is_the_same_on_two_workers(whole: fedbox.Result, tmp_path: Path) -> None:
    if whole.summary["strategy"] in DETECTION - {"fedsto", "fedavg-ema"} and not os.environ.get("FEDBOX_SOAK"):
        pytest.skip("the other strategies on boxes share these two's machinery: FEDBOX_SOAK=1 runs them as well")
    other = _run(tmp_path / "two", whole.summary["strategy"], workers=2)
    assert other.summary["model_sha256"] == whole.summary["model_sha256"]
    assert _lines(other) == _lines(whole)


def test_it_is_the_same_after_a_stop_and_a_resume(whole: fedbox.Result, tmp_path: Path) -> None:
    strategy = whole.summary["strategy"]
    _run(tmp_path / "run", strategy, rounds=3 if strategy in DETECTION else 1)
    resumed = _run(tmp_path / "run", strategy, resume=True)
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]
    assert _lines(resumed) == _lines(whole)


def test_another_seed_gives_another_model(whole: fedbox.Result, tmp_path: Path) -> None:
    other = _run(tmp_path / "seed", whole.summary["strategy"], seed=1, rounds=1)
    assert other.summary["model_sha256"] != whole.summary["model_sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_are_documented(name: str) -> None:
    plugin = find(name)
    plugin.settings()  # every field has a default
    for key, field in plugin.settings.model_fields.items():
        assert field.description, f"settings.{name}.{key} has no description"
    assert plugin.summary or plugin.client.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_its_state_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    from fedbox.server.loop import Coordinator
    from fedbox.simulations.inprocess import InProcessGrid
    from fedbox.strategies.base import identity

    config = check(_toy(name), {"strategy": name})
    with identity(1):
        grid = InProcessGrid(3, config.model_dump_json(), str(tmp_path))
        half = Coordinator(Federation.prepare(config), find(name), grid, tmp_path).half
    state = half.state()
    back = load(save(state))
    half.restore(back)
    assert {key: value.tobytes() for key, value in half.state().items()} == {
        key: value.tobytes() for key, value in state.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_clients_without_labels_do_no_harm(name: str, tmp_path: Path) -> None:
    labels = {"share": 0.5, "by_client": {"client-1": 0.0}}
    result = _run(tmp_path / "run", name, rounds=2, **{"data.labels": labels})
    assert result.summary["status"] == "completed"
    assert all(np.isfinite(value).all() for value in result.weights().values())


def _spoiled(plugin: Plugin) -> Plugin:
    """Give the strategy with a client-2 whose update is full of NaN."""

    class Client(plugin.client):  # type: ignore[misc, name-defined]
        def train(self, site: Site) -> Update:
            update: Update = super().train(site)
            if site.name != "client-2":
                return update
            weights = {name: np.full_like(value, np.nan) for name, value in update.weights.items()}
            extra = {name: value * np.nan if value.dtype.kind == "f" else value for name, value in update.extra.items()}
            if "codes" in extra:  # onebyte's byte of a scalar that is not finite
                extra["codes"] = np.concatenate([np.full(16, 0x80, np.uint8), extra["codes"][16:]])
            return Update(weights, update.examples, update.metrics, extra)

    return Plugin(plugin.settings, Client, plugin.server)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUIET])
def test_a_client_that_returns_nan_is_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("spoiled")
    kind = "_boxes" if name in DETECTION else "_half" if name in SEMI else ""
    attribute = f"{name.replace('-', '_')}{kind}"
    setattr(module, attribute, _spoiled(find(name)))
    monkeypatch.setitem(sys.modules, "spoiled", module)
    given = _toy(name).get("settings", {}).get(name, {})
    settings = {"spoiled": given | {"warmup": 0} if name in DETECTION else given}
    result = _run(tmp_path / "run", f"spoiled:{attribute}", rounds=2, settings=settings)
    assert all(np.isfinite(value).all() for value in result.weights().values())
    for record in result.rounds:
        assert [(row["client"], row["kind"]) for row in record["failures"]] == [("client-2", "refused")]
        assert "finite" in record["failures"][0]["reason"]
    with pytest.raises(RunFailedError, match="client-2"):
        _run(tmp_path / "strict", f"spoiled:{attribute}", settings=settings, **{"clients.min_success": 1.0})
