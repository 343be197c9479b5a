"""Groups of runs: what makes one, its name, its figures and curves against hand-worked values."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from runs_for_tests import SVG, make_line, make_run, page

from fedbox.server.groups import (
    differences,
    figures,
    flatten,
    group_differences,
    group_runs,
    main_metric,
    phases,
    series,
)
from fedbox.server.runs import load_run
from fedbox.server.stats import number


def test_figures_of_a_run_by_hand(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.25, 0.75, 0.5], status=None)
    told = figures(load_run(folder), "accuracy")
    assert (told["final"], told["best"], told["best_round"], told["rounds"]) == (0.5, 0.75, 2, 3)
    assert (told["bytes_up"], told["bytes_down"], told["seconds"]) == (3000, 9000, 3.0)
    assert (told["client_mean"], told["client_worst"]) == ((0.5 + 0.25) / 2, 0.25)
    lower = figures(load_run(folder), "loss")
    assert (lower["best"], lower["best_round"]) == (pytest.approx(1 / 3), 3)


def test_seconds_beyond_the_phases_are_other(tmp_path: Path) -> None:
    (record,) = load_run(make_run(tmp_path / "r", [0.5])).rounds
    assert phases(record) == {"train": 0.5, "aggregate": 0.125, "evaluate": 0.25, "checkpoint": 0.0, "other": 0.125}


def test_runs_equal_but_for_the_seed_form_a_group_with_mean_and_deviation(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"a{i}", [0.25, value], seed=i) for i, value in enumerate((0.5, 0.75, 1.0))]
    runs.append(make_run(tmp_path / "b", [0.5, 0.5], strategy="fedprox"))
    groups = group_runs([load_run(run) for run in runs])
    assert [(g.label, len(g.runs)) for g in groups] == [("fedavg", 3), ("fedprox", 1)]
    curve = series(groups[0], lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds})
    assert curve is not None
    assert (list(curve.y), list(curve.spread)) == ([0.25, 0.75], [0.0, 0.25])
    text = page(runs, tmp_path)
    assert "fedavg ended with accuracy 0.7500 ± 0.2500, ahead of fedprox with 0.5000." in text
    assert "mean of 3<" in text


def test_the_same_seed_twice_is_not_a_second_seed(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path / f"r{i}", [0.5], seed=seed)) for i, seed in enumerate((0, 1, 0))]
    groups = group_runs(runs)
    assert [[r.seed for r in g.runs] for g in groups] == [["0", "1"], ["0"]]
    assert len({g.label for g in groups}) == 2


def test_runs_of_several_engines_and_names_form_one_group_and_the_table_tells_it(tmp_path: Path) -> None:
    engines = [{"kind": "inprocess", "workers": 2}, {"kind": "grpc", "workers": 2}, {"kind": "inprocess", "workers": 8}]
    runs = [make_run(tmp_path / f"r{i}", [0.5], name=f"n{i}", seed=i, engine=e) for i, e in enumerate(engines)]
    (group,) = group_runs([load_run(run) for run in runs])
    assert len(group.used) == 3
    assert group_differences([group]) == {"engine.kind": ["inprocess, grpc"], "engine.workers": ["2, 8"]}
    assert "<code>inprocess, grpc</code>" in page(runs, tmp_path)
    other = make_run(tmp_path / "other", [0.5], name="n9", train={"lr": 0.5}, engine=engines[0])
    groups = group_runs([load_run(run) for run in (*runs, other)])
    assert [len(g.runs) for g in groups] == [3, 1]
    assert group_differences(groups)["train.lr"][1] == "0.5"
    assert group_differences(groups)["engine.kind"] == ["inprocess, grpc", "inprocess"]


def test_an_engine_names_a_group_only_when_nothing_else_tells_it_apart(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / f"r{i}", [0.5], engine={"kind": kind}, train={"lr": lr}))
        for i, (kind, lr) in enumerate([("inprocess", 0.1), ("grpc", 0.5), ("grpc", 0.1)])
    ]
    assert [g.label for g in group_runs(runs[:2])] == ["fedavg, lr=0.1", "fedavg, lr=0.5"]
    same = group_runs([runs[0], runs[2]])  # one seed on two engines is one result, not two seeds
    assert [g.label for g in same] == ['fedavg, kind="inprocess"', 'fedavg, kind="grpc"']


def test_labels_name_what_tells_the_groups_apart(tmp_path: Path) -> None:
    options = [("fedavg", 0.1), ("fedprox", 0.1), ("fedavg", 0.5), ("fedprox", 0.5)]
    runs = [
        load_run(make_run(tmp_path / f"r{i}", [0.5], strategy=s, train={"lr": lr}, settings={s: {"x": 1}}))
        for i, (s, lr) in enumerate(options)
    ]
    assert [g.label for g in group_runs(runs)] == [f"{s}, lr={lr}" for s, lr in options]
    seeded = [load_run(make_run(tmp_path / f"s{i}", [0.5], name=f"digits-seed{i}", seed=i)) for i in (11, 12)]
    assert [g.label for g in group_runs(seeded)] == ["digits"]


def test_an_unfinished_seed_is_left_out_of_the_mean(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", [0.5, 0.5]), make_run(tmp_path / "b", [0.1], seed=1, status=None)]
    (group,) = group_runs([load_run(run) for run in runs])
    curve = series(group, lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds})
    assert curve is not None
    assert list(curve.y) == [0.5, 0.5]
    assert "unfinished, so it is left out of the mean" in page(runs, tmp_path)


def test_a_round_that_one_seed_lost_is_a_gap_of_the_group(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", [0.5, 0.5, 0.5]), make_run(tmp_path / "b", [0.25, None, 1.0], seed=1)]
    (group,) = group_runs([load_run(run) for run in runs])
    curve = series(group, lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds})
    assert curve is not None
    assert [number(y) for y in curve.y] == ["0.3750", number(math.nan), "0.7500"]


def test_a_null_metric_is_a_gap_and_an_absent_one_is_not(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.5, None, 0.75])
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(make_line(4, 0.5, metrics={"train_loss": 1.0})) + "\n")
        file.write(json.dumps(make_line(5, 0.875)) + "\n")
    (group,) = group_runs([load_run(folder)])
    curve = series(group, lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds if "accuracy" in r.metrics})
    assert curve is not None
    assert list(curve.rounds) == [1, 2, 3, 5]
    assert math.isnan(curve.y[1])
    assert ElementTree.fromstring(SVG.findall(page([folder], tmp_path))[0]) is not None


def test_differences_are_told_by_dotted_key() -> None:
    first, second = {"a": {"b": 1, "c": "x"}, "d": [1]}, {"a": {"b": 2, "c": "x"}, "d": [1], "e": None}
    assert flatten(first) == {"a.b": "1", "a.c": '"x"', "d": "[1]"}
    told = differences([first, second])
    assert told["a.b"] == ["1", "2"]
    assert told["e"][1] == "null"
    assert set(told) == {"a.b", "e"}


def test_the_page_opens_on_accuracy_or_on_what_there_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.5])
    assert main_metric([load_run(folder)]) == "accuracy"
    (folder / "rounds.jsonl").write_text(json.dumps(make_line(1, 0.5, metrics={"loss": 1.0, "map50": 0.5})) + "\n")
    (folder / "summary.json").write_text(json.dumps({"best": {"map50": {"value": 0.5, "round": 1}}}))
    assert main_metric([load_run(folder)]) == "map50"
    assert "ended with map50 0.5000" in page([folder], tmp_path)
