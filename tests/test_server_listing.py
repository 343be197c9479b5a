"""`fedbox list`, and folders of runs as they are given to `fedbox report`."""

import fcntl
from pathlib import Path
from typing import Any

import pytest
from runs_for_tests import make_run

from fedbox.configs import ConfigError
from fedbox.server.listing import HEADINGS, listing, narrow, runs_in


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of runs: one that ended, one that broke off, two of a comparison, and things that are no run."""
    make_run(tmp_path / "runs" / "run-10", [0.25, 0.5], rounds=2)
    make_run(tmp_path / "runs" / "run-9", [0.75], status=None, strategy="local", rounds=2)
    for seed in (0, 1):
        make_run(tmp_path / "runs" / "compare-x" / "01-fedavg" / f"seed-{seed}", [0.125], seed=seed, rounds=1)
    make_run(tmp_path / "runs" / ".hidden", [0.5])
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def test_runs_are_found_in_folders_of_folders(place: Path) -> None:
    names = ["compare-x/01-fedavg/seed-0", "compare-x/01-fedavg/seed-1", "run-9", "run-10"]
    assert runs_in(place) == [place / name for name in names]
    assert runs_in(place / "run-9") == [place / "run-9"]
    assert runs_in(place / "none") == runs_in(place / "notes") == []
    with (place / "notes" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a run that reads its data
        assert runs_in(place / "notes", begun=True) == [place / "notes"]
        assert runs_in(place / "notes") == []
    assert runs_in(place / "notes", begun=True) == []


def test_a_row_tells_how_far_a_run_came_and_what_it_reached(place: Path) -> None:
    rows = [dict(zip(HEADINGS, row, strict=True)) for row in listing(runs_in(place), best_first=True)]
    assert [Path(row["run"]).name for row in rows] == ["run-9", "run-10", "seed-0", "seed-1"]
    assert [rows[0][key] for key in ("strategy", "state", "rounds", "metric", "score")] == [
        "local",
        "broken off",
        "1 of 2",
        "accuracy",
        "0.7500",
    ]
    assert [rows[1][key] for key in ("state", "rounds", "best", "in round", "time")] == [
        "completed",
        "2 of 2",
        "0.5000",
        "2",
        "2.00 s",
    ]
    first = listing(runs_in(place), "loss", best_first=True)[0]
    assert (Path(first[0]).name, first[5:7]) == ("run-10", ["loss", "0.5000"])
    assert narrow([first])[0] == ["run", "strategy", "seed", "state", "rounds", "loss", "best", "time"]
    with pytest.raises(ConfigError, match="no run recorded 'acuracy'; did you mean 'accuracy'"):
        listing(runs_in(place), "acuracy")


def test_the_commands_take_folders_of_runs(place: Path, fedbox_here: Any) -> None:
    code, out, _ = fedbox_here("list")
    lines = [line.split("\t") for line in out.splitlines()]  # no terminal: a line a run
    assert (code, lines[0], len(lines)) == (0, list(HEADINGS), 5)
    assert lines[-1][:4] == ["runs/run-10", "fedavg", "0", "completed"]
    assert fedbox_here("report", "runs", "--out", "all.html")[0] == 0
    text = (place.parent / "all.html").read_text()
    assert all(word in text for word in ("seed 1", "local", "0.7500"))
    code, _, error = fedbox_here("list", "nothing")
    assert (code, "nothing: no run here" in error) == (5, True)
