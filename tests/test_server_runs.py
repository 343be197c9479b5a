"""Run folders are read as they are: what is absent, broken or repeated does not stop a report."""

import json
from pathlib import Path

import pytest
from runs_for_tests import make_line, make_run, page

from fedbox.server.groups import figures
from fedbox.server.report import write_report
from fedbox.server.runs import ReportError, load_run


def test_a_folder_without_a_run_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(ReportError, match=r"neither a round in rounds\.jsonl nor a summary\.json"):
        load_run(tmp_path)
    make_run(tmp_path / "inner", [0.5])
    with pytest.raises(ReportError, match="give the runs in it: inner"):
        load_run(tmp_path)
    with pytest.raises(ReportError, match="no run folder was given"):
        write_report([], tmp_path / "x.html")
    assert ReportError.exit_code == 3


def test_a_killed_run_is_read_up_to_its_broken_last_line(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", [0.1, 0.2], tail='{"round": 3, "metr', status=None))
    assert [r.round for r in run.rounds] == [1, 2]
    assert run.status == "unfinished"
    assert any("line 3 (the last" in note for note in run.notes)
    assert "line 3 (the last" in page([run.path], tmp_path)


def test_a_broken_line_in_the_middle_is_skipped_and_a_repeated_round_replaced(tmp_path: Path) -> None:
    tail = "[1]\n" + json.dumps(make_line(2, 0.75)) + "\n"
    run = load_run(make_run(tmp_path / "r", [0.1, 0.2], tail=tail))
    assert [r.metrics["accuracy"] for r in run.rounds] == [0.1, 0.75]
    assert [note for note in run.notes if "line 3 is unreadable" in note]


@pytest.mark.parametrize("junk", ["[" * 100_000, '{"round": "x"}', '{"metrics": {}}', '{"round": 3, "clients": [1]}'])
def test_a_line_that_holds_no_round_is_noted_at_its_place(tmp_path: Path, junk: str) -> None:
    tail = f"\n{junk}\n{json.dumps(make_line(3, 0.75))}\n\n"  # a blank line is none, but it counts
    run = load_run(make_run(tmp_path / "r", [0.1, 0.2], tail=tail))
    assert [r.round for r in run.rounds] == [1, 2, 3]
    assert run.notes == ("rounds.jsonl: line 4 is unreadable and was ignored",)


def test_a_last_line_without_its_newline_was_cut_off(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", [0.1], tail=json.dumps(make_line(2, 0.75)), status=None))
    assert [r.round for r in run.rounds] == [1]  # a resumed run runs that round again
    assert any("line 2 (the last" in note for note in run.notes)


@pytest.mark.parametrize("junk", ["null", "[]", "{", "[" * 100_000, '{"metrics": 3, "best": [], "versions": 1}'])
def test_a_damaged_summary_or_configuration_does_not_stop_the_report(tmp_path: Path, junk: str) -> None:
    folder = make_run(tmp_path / "r", [0.1, 0.2])
    (folder / "summary.json").write_text(junk)
    (folder / "config.yaml").write_text("a: [1")
    assert "config.yaml is unreadable" in page([folder], tmp_path)
    assert figures(load_run(folder), "accuracy")["final"] == 0.2


def test_a_summary_alone_makes_a_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.5])
    (folder / "rounds.jsonl").unlink()
    text = page([folder], tmp_path)
    assert "rounds.jsonl is absent" in text
    assert "0.5000" in text
