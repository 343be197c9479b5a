"""What is planned is what a run then does: the phases of its rounds and the bytes of its messages."""

import logging
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import TOY
from trees_for_tests import make_soda, picture

import fedbox
from fedbox.configs import Config
from fedbox.server.loop import Coordinator
from fedbox.simulations.inprocess import InProcessGrid
from fedbox.simulations.plan import Stretch, plan, schedule
from fedbox.simulations.run import check, run_config
from fedbox.strategies.contract import Ask, ClientHalf, Plugin, ServerHalf, Settings
from fedbox.strategies.federation import Federation
from fedbox.strategies.logs import warn_once
from fedbox.strategies.registry import find

SCENES: dict[str, Any] = {
    "rounds": 4,
    "strategy": "fedsto",
    "settings": {"fedsto": {"warmup": 1, "selective": 2}},
    "data": {
        "dataset": "scenes",
        "options": {"samples": 16, "test_samples": 4, "size": 64},
        "partition": {"kind": "natural", "key": "weather", "clients": 3},
        "labels": {"share": 0.0},
        "server": {"value": "cloudy"},
    },
    "model": {"name": "detector", "options": {"size": "nano"}},
    "train": {"batch_size": 4, "optimizer": "adamw", "lr": 0.005},
    "evaluate": {"every": 4, "batch_size": 4},
    "engine": {"workers": 1},
}


def half_of(config: Config) -> ServerHalf[Any]:
    federation = Federation.prepare(config)
    grid = InProcessGrid(len(federation), config.model_dump_json(), "")
    return Coordinator(federation, find(config.strategy), grid, Path("nowhere")).half


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        (TOY, {}),
        (TOY, {"clients__per_round": 2, "rounds": 2}),
        (TOY, {"strategy": "local"}),
        (TOY, {"strategy": "centralized"}),
        (TOY, {"strategy": "plugins_for_tests:keeping"}),
        (SCENES, {}),
    ],
    ids=["fedavg", "cohort", "local", "centralized", "values", "fedsto"],
)
def test_the_plan_is_what_happens(tmp_path: Path, source: dict[str, Any], changes: dict[str, Any]) -> None:
    config = check(source, {key.replace("__", "."): value for key, value in changes.items()})
    stretches, unknown = schedule(half_of(config), config.rounds)
    assert unknown is None
    result = fedbox.run(source, out=tmp_path / "run", quiet=True, report=False, **changes)
    planned = {round_: each for each in stretches for round_ in range(each.first, each.last + 1)}
    assert sorted(planned) == [record["round"] for record in result.rounds]
    for record in result.rounds:
        each, clients = planned[record["round"]], len(record["clients"])
        assert record["phase"] == (each.phase or "server")
        # The record of `local` also counts the messages of its evaluation, which send little and bring back metrics.
        more = 400 * clients if config.strategy == "local" else 0
        assert 0 <= record["bytes_down"] - each.down * clients <= more
        # A reply also has its metrics: some numbers with their names.
        assert 0 <= record["bytes_up"] - each.up * clients <= 200 * clients + more
    assert len(stretches) == (3 if source is SCENES else 1)


def test_rounds_that_ask_the_same_are_told_together() -> None:
    first, second = Stretch(1, 3, "train", 9, 9), Stretch(4, 4, "train", 9, 9)
    assert first.joined(second) == Stretch(1, 4, "train", 9, 9)
    assert first.joined(Stretch(4, 4, "train", 9, 8)) is None
    assert first.joined(Stretch(4, 4)) is None


class LateServer(ServerHalf[Settings]):
    """Needs what came back in round 1 before it can say what it asks in round 2."""

    seen: Any = None

    def ask(self, round_: int) -> Ask | None:
        return Ask(self.weights) if round_ == 1 else Ask({"direction": self.seen["direction"]})


class BrokenServer(ServerHalf[Settings]):
    def ask(self, round_: int) -> Ask | None:
        raise RuntimeError("nothing works")


late = Plugin(Settings, ClientHalf, LateServer)
broken = Plugin(Settings, ClientHalf, BrokenServer)


def test_a_strategy_that_waits_for_replies_is_told_as_far_as_it_can() -> None:
    facts = dict(plan(check(TOY, {"strategy": f"{__name__}:late"})))
    assert facts["  1"].startswith("train: each client is sent")
    assert facts["  from 2"] == "depends on what comes back"
    assert "  in all" not in facts
    with pytest.raises(RuntimeError, match="nothing works"):
        plan(check(TOY, {"strategy": f"{__name__}:broken"}))


def test_many_changes_are_cut_short_and_buffers_are_told() -> None:
    model = {"name": "resnet", "options": {"width": 4, "norm": "batch"}, "buffers": "local"}
    facts = dict(plan(check(TOY, {"strategy": f"{__name__}:changing", "rounds": 20, "model": model})))
    assert facts["  ..."] == "and so on, 14 changes more"
    assert facts["  buffers"].endswith("kept by each client")
    assert facts["training"] == "1 epoch(s) a round, batches of 16, sgd, lr 0.1"


class ChangingServer(ServerHalf[Settings]):
    """Calls every round another phase."""

    def ask(self, round_: int) -> Ask | None:
        return Ask(self.weights, phase=f"phase-{round_}")


changing = Plugin(Settings, ClientHalf, ChangingServer)


@pytest.mark.parametrize("strategy", ["fedsto", "fedavg-ema", "adabn"])
def test_a_run_that_ends_within_the_warm_up_is_warned_of(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    model = {**SCENES["model"], "options": {"size": "nano", "norm": "batch"}}
    short = {**SCENES, "model": model, "strategy": strategy, "settings": {strategy: {"warmup": 4}}}
    facts = dict(plan(check(short)))
    assert facts["rounds"] == "4; no client is asked to train"
    warning = f"strategy {strategy} asks no client before round 5, and the run has 4: no client ever trains"
    assert warning in caplog.text
    assert f"settings.{strategy}" in caplog.text


@pytest.mark.parametrize(
    ("changes", "asked"), [({"settings.fedsto.warmup": 3}, True), ({"strategy": "server-only"}, False)]
)
def test_a_run_whose_clients_train_or_rest_by_design_is_not(
    changes: dict[str, Any], asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    caplog.set_level(logging.INFO)
    facts = dict(plan(check(SCENES, changes)))
    assert ("no client is asked" not in facts["rounds"]) == asked
    assert "no client ever trains" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"data.labels.share": 1.0}, "fedsto: 2 of 3"),
        ({"data.server": {"share": 0.7}, "data.partition.kind": "iid"}, "fedsto: 1 of 2"),
        ({"strategy": "centralized", "settings": {}, "rounds": 1}, "centralized: 2 of 3"),
    ],
)
def test_images_without_annotations_that_pass_for_empty_ones_are_warned_of(
    tmp_path: Path, changes: dict[str, Any], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    make_soda(tmp_path)
    for name in ("a", "b"):
        picture(tmp_path / "bare" / f"{name}.jpg")
    data = {
        "dataset": "soda10m",
        "root": str(tmp_path),
        "options": {"unlabelled": "bare", "size": [64, 64]},
        "partition": {"kind": "natural", "key": "labels", "clients": 1},
        "labels": {"share": 0.0},
        "server": {"value": "yes"},
    }
    config = check({**SCENES, "data": data}, changes)
    if config.strategy == "centralized":
        run_config(config, out=tmp_path / "run", progress=False, report=False)
    else:
        plan(config)
    warned = f"strategy {told} images that are trained on with their labels have no annotations"
    assert caplog.text.count("have no annotations") == caplog.text.count(warned) == bool(told)


@pytest.mark.parametrize(
    "name", ["fedsto", "fedavg-ema", "fedpac-ema", "adabn", "server-only", "centralized", "ema-teacher"]
)
def test_the_first_round_that_asks_is_the_one_that_is_told(name: str) -> None:
    model = {**SCENES["model"], "options": {"size": "nano", "norm": "batch"}}
    short = {**SCENES, "model": model, "strategy": name, "settings": {}}
    half = half_of(check(short))
    asking = [round_ for round_ in range(1, 9) if half.ask(round_) is not None]
    assert half.first_ask() == (asking[0] if asking else None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, True),
        ({"evaluate.clients": "all", "data.test_share": 0.2}, False),
        ({"strategy": "local", "data.test_share": 0.2}, False),
        ({"evaluate.split": "validation", "data.validation_share": 0.2}, False),
    ],
)
def test_a_run_that_measures_nothing_is_warned_of(
    tmp_path: Path, changes: dict[str, Any], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    for number in range(24):
        picture(tmp_path / "train" / f"class-{number % 2}" / f"{number}.jpg")
    data = {"dataset": "image_folder", "root": str(tmp_path), "options": {"size": 8, "test_share": 0}}
    config = {"rounds": 1, "data": {**data, "partition": {"kind": "iid", "clients": 2}}, "model": {"name": "mlp"}}
    plan(check(config, changes))
    assert ("nothing will be measured" in caplog.text) == told
