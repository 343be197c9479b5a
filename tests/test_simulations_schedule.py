"""Who goes first, and what becomes of a pool that runs out of memory; neither changes a bit of the result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugins_for_tests import TOY, lines, run, run_trouble

import fedbox
from fedbox.data.partition import Partition
from fedbox.simulations.pool import Pool
from fedbox.simulations.run import Parts, check, run_config
from fedbox.simulations.schedule import Schedule
from fedbox.strategies.federation import Federation
from fedbox.strategies.grids import Span


def _federation(sizes: list[int], **train: Any) -> Federation:
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    config, none = check(TOY, {f"train.{name}": value for name, value in train.items()}), np.arange(0)
    return Federation(config, None, none, none, Partition(offsets, np.arange(offsets[-1])))  # type: ignore[arg-type]


def test_longest_first_by_samples_then_by_measured_seconds() -> None:
    names = [f"client-{number}" for number in range(4)]
    schedule = Schedule(_federation([10, 40, 20, 40]))
    assert schedule.order("train", names) == ["client-1", "client-3", "client-2", "client-0"]
    # A round on a machine ten times slower than the next: only what a client takes beside the others counts.
    for scale in (10.0, 1.0):
        spans = [Span(name, "1", 0.0, scale * seconds) for name, seconds in zip(names, [9, 4, 2, 4], strict=True)]
        schedule.learn("train", spans[:2] if scale > 1 else spans)
    assert schedule.order("train", names)[0] == "client-0"
    assert schedule.order("evaluate", names)[0] == "client-1"
    same = Schedule(_federation([10, 40, 20, 40], steps=5))  # so many steps, however many samples
    assert same.order("train", names) == names


def _run(out: Path, pool: Pool, trouble: dict[str, Any] | None = None, **changes: Any) -> fedbox.Result:
    if trouble:
        changes |= {"strategy": "plugins_for_tests:trouble", "settings": {"plugins_for_tests": trouble}}
    return run_config(check(TOY, changes), out=out, progress=False, report=False, parts=Parts(pool=pool))


@pytest.mark.soak  # who begins first within some milliseconds: on a busy machine a worker may be late
def test_a_run_on_two_workers_begins_with_the_largest_clients(tmp_path: Path, pool: Pool) -> None:
    result = _run(tmp_path / "two", pool, rounds=1)
    visits = json.loads((result.folder / "timings.jsonl").read_text().splitlines()[0])["visits"]
    began = [name for name, *_ in sorted(visits, key=lambda visit: visit[3])]
    sizes = {name: row["examples"] for name, row in result.rounds[0]["clients"].items()}
    # The first two begin at once, on a worker each.
    assert max(sizes.values()) in {sizes[name] for name in began[:2]}
    assert min(sizes.values()) == sizes[began[-1]] < max(sizes.values())


@pytest.mark.parametrize("changes", [{}, {"clients__timeout": 1000.0}], ids=["in a group", "by itself"])
def test_a_client_without_memory_is_run_once_more_where_there_is_one_worker(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    wish: dict[str, Any] = {"kind": "memory-once", "clients": ["client-3"], "rounds": [2], "file": str(switch)}
    settings = {"plugins_for_tests": wish}
    once = run(tmp_path / "once", strategy="plugins_for_tests:trouble", settings=settings, **changes)
    assert not switch.exists()
    assert once.summary["failures"] == 0
    whole = run(tmp_path / "whole")
    assert once.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(once.folder) == lines(whole.folder)


def test_a_client_without_memory_is_tried_beside_half_of_the_workers(
    tmp_path: Path, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """The pool has as many workers again for the next run."""
    switch = tmp_path / "switch"
    switch.touch()
    wish = {"kind": "memory-once", "clients": ["client-3"], "rounds": [2], "file": str(switch)}
    once, whole = _run(tmp_path / "once", pool, wish), run(tmp_path / "whole")
    assert not switch.exists()
    assert (once.summary["failures"], once.summary["workers"]) == (0, 1)
    assert "out of memory while client-3 ran: going on with 1 worker(s) in place of 2" in caplog.text
    assert once.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(once.folder) == lines(whole.folder)
    always = _run(tmp_path / "always", pool, {"kind": "memory", "clients": ["client-1"]}, rounds=2)
    for record in always.rounds:
        [failure] = record["failures"]
        assert (failure["client"], failure["kind"]) == ("client-1", "raised")
        assert "MemoryError" in failure["reason"]
    assert caplog.text.count("in place of 2") == 2
    absent = run_trouble(tmp_path / "absent", "raises", "client-1", rounds=2)
    assert always.summary["model_sha256"] == absent.summary["model_sha256"]
