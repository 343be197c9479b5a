"""The studies behind the tables of the docs: each run's configuration is a valid one, and the tables' arithmetic."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fedbox
from fedbox.simulations.run import check

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
STUDIES = sorted((FOLDER / "studies").glob("*.yaml"))


def script(name: str) -> ModuleType:
    """Give a module of benchmarks/, which is not part of the package."""
    spec = importlib.util.spec_from_file_location(f"{name}_of_benchmarks", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data class looks it up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """Give benchmarks/study.py."""
    return script("study")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_run_of_a_study_has_a_valid_configuration(path: Path, study: ModuleType, tmp_path: Path) -> None:
    plan = study.read_study(path)
    listed = list(study.jobs(plan, tmp_path, [], []))
    assert {job.row for job in listed} >= set(plan["rows"])
    for job in listed:
        given = (word.partition("=") for word in job.arguments[1:])
        config = check(job.arguments[0], {key: json.loads(value) for key, _, value in given})
        assert config.rounds >= 1
    assert f"{path.parent.parent.name}/studies/{path.name}" in path.read_text(encoding="utf-8").splitlines()[0]
    if "pair" in plan:
        assert plan["pair"]["row"] in plan["rows"]
        assert {*study.several(plan["pair"]["of"])} <= plan["columns"].keys()


def finished(job: Any, accuracies: list[float]) -> None:
    """Leave what a finished run leaves."""
    job.out.mkdir(parents=True)
    (job.out / "summary.json").write_text(json.dumps({"status": "completed"}), encoding="utf-8")
    clients = {"a": {"accuracy": 1.0, "test_examples": 3}, "b": {"accuracy": 0.0, "test_examples": 1}}
    lines = [
        json.dumps({"round": number, "metrics": {"accuracy": value, "odd": None}, "clients": clients}) + "\n"
        for number, value in enumerate(accuracies, 1)
    ]
    (job.out / "rounds.jsonl").write_text("".join(lines), encoding="utf-8")


def test_tables_hold_means_deviations_and_paired_differences(study: ModuleType, tmp_path: Path) -> None:
    plan = {
        "config": "quickstart",
        "seeds": {1: {"seed": 1}, 2: {"seed": 2}},
        "last": 2,
        "rows": {"first": {}, "second": {"set": {"rounds": 2}}, "third": {}},
        "columns": {"accuracy": "accuracy", "one sample, one vote": "by_samples.accuracy", "odd": "odd"},
        "pair": {"row": "first", "of": "accuracy"},
        "curve": {"of": "accuracy", "at": [1, 3]},
    }
    listed = list(study.jobs(plan, tmp_path, [], []))
    runs = {(job.row, job.seed): job for job in listed}
    finished(runs["first", "1"], [0.0, 0.2, 0.4])
    finished(runs["first", "2"], [0.0, 0.4, 0.6])
    finished(runs["second", "1"], [0.4, 0.6])
    table = study.table(plan, listed).splitlines()
    assert table[2] == "| first | 2 | 0.400 ± 0.141 | 0.750 ± 0.000 |  |  |"
    assert table[3] == "| second | 1 | 0.500 | 0.750 |  | +0.200 |"
    assert len(table) == 4
    assert study.curves(plan, listed).splitlines()[2:] == [
        "| first | 0.000 ± 0.000 | 0.500 ± 0.141 |",
        "| second | 0.400 |  |",
    ]


def test_three_pairs_have_an_interval(study: ModuleType) -> None:
    assert study.lead([0.01, 0.03]) == "+0.020 ± 0.014"
    assert study.lead([0.01, 0.02, 0.03]) == "+0.020 ± 0.010 (-0.005 to +0.045)"  # t = 4.303 with two degrees


def test_a_study_takes_what_it_leaves_out_from_the_one_it_is_like(study: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(json.dumps({"config": "quickstart", "rows": {"a": {}}, "columns": {"x": "y"}}))
    (tmp_path / "two.yaml").write_text(json.dumps({"like": "one.yaml", "rows": {"b": {}}}))
    assert study.read_study(tmp_path / "two.yaml") == {
        "config": "quickstart",
        "rows": {"b": {}},
        "columns": {"x": "y"},
    }


def test_a_share_of_no_gap_is_none_and_a_run_with_other_settings_is_told(
    study: ModuleType, tmp_path: Path, monkeypatch: Any
) -> None:
    plan = {
        "config": "quickstart",
        "seeds": {1: {"seed": 1}},
        "rows": {"low": {}, "high": {"set": {"rounds": 2}}, "mine": {"set": {"rounds": 3}}},
        "columns": {"accuracy": "accuracy"},
        "gap": {"from": "low", "to": "high", "of": ["accuracy"]},
    }
    runs = {job.row: job for job in study.jobs(plan, tmp_path / "out", [], [])}
    for row, value in (("low", 0.2), ("high", 0.6), ("mine", 0.5)):
        finished(runs[row], [value])
    assert study.table(plan, list(runs.values())).splitlines()[-1] == "| mine | 1 | 0.500 (75 %) |"
    shutil.rmtree(runs["high"].out)
    finished(runs["high"], [0.2])
    assert study.table(plan, list(runs.values())).splitlines()[-1] == "| mine | 1 | 0.500 |"
    (tmp_path / "out" / "mine" / "1.settings.json").write_text(json.dumps(["quickstart", "rounds=9"]))
    assert [job.stale for job in runs.values()] == [False, False, True]
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    monkeypatch.setattr(
        "sys.argv", ["study.py", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--table"]
    )
    with pytest.raises(SystemExit):
        study.main()


def test_a_row_waits_for_the_runs_whose_models_it_needs(study: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    plan = {
        "config": "quickstart",
        "seeds": {1: {}, 2: {}},
        "starts": {"warm": {}, "expert": {}, "unused": {}},
        "rows": {"first": {"from": "warm", "files": {"clients.order.expert": "expert"}}, "second": {}},
    }
    listed = list(study.jobs(plan, tmp_path, ["first"], ["2"]))
    assert [job.row for job in listed] == ["warm", "expert", "first"]
    models = {start: json.dumps(str(tmp_path / start / "2" / "model.safetensors")) for start in ("warm", "expert")}
    assert f"model.weights={models['warm']}" in listed[-1].arguments
    assert f"clients.order.expert={models['expert']}" in listed[-1].arguments

    def run(job: Any) -> None:  # in place of minutes of training: the expert fails
        ran.append(job.row)
        if job.row != "expert":
            finished(job, [1.0])

    ran: list[str] = []
    monkeypatch.setattr(study, "run", run)
    assert not study.run_all(listed, 1)
    assert ran == ["warm", "expert"]  # without the expert there is nothing to give
    assert [job.row for job in study.jobs(plan, tmp_path, ["second"], [])] == ["second", "second"]


def test_a_run_that_is_measured_again_on_the_same_data_has_the_same_figures(tmp_path: Path) -> None:
    settings = {"warmup": 1, "selective": 1, "high": 0.4, "warmup_epochs": 30}
    options = {"samples": 160, "test_samples": 40, "size": 64, "shift": 0.3}
    out = fedbox.run(
        "scenes-fedsto",
        out=tmp_path / "run",
        quiet=True,
        rounds=2,
        workers=1,
        data__options=options,
        settings__fedsto=settings,
        evaluate__every=2,
    ).folder
    last = json.loads((out / "rounds.jsonl").read_text().splitlines()[-1])["metrics"]
    again = script("again")
    names = ("map50", *(f"{whose}map50_by_domain.overcast" for whose in ("", "personal_")))
    found = again.measured(out, {})
    assert {name: found[name] for name in names} == {name: pytest.approx(last[name], abs=1e-12) for name in names}
    assert min(found[name] for name in names) > 0
    assert again.measured(out, {"data.options.seed": 1}) != found
