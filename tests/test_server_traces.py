"""What a run notes for its report alone: times of clients, landmarks, who holds what; and that a resume mends them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins_for_tests import TOY, run, run_trouble
from safetensors.numpy import load_file

import fedbox
from fedbox.configs import load_config
from fedbox.server.holdings import Holdings, read_holdings
from fedbox.server.landmarks import read_landmarks
from fedbox.server.timeline import Timing, read_timings
from fedbox.server.traces import MAX_SNAPSHOTS, Visit, kept_rounds
from fedbox.strategies.federation import Federation


@given(st.integers(1, 5000))
def test_few_landmarks_are_kept_and_none_is_missed_later(last: int) -> None:
    """What is kept after a round was kept after the one before: no run needs a file that was removed."""
    kept = kept_rounds(last)
    assert {1, last} <= kept <= set(range(1, last + 1))
    assert len(kept) <= MAX_SNAPSHOTS + 2
    assert kept_rounds(last + 1) - {last + 1} <= kept


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> fedbox.Result:
    out = tmp_path_factory.mktemp("traces") / "run"
    return run(out, strategy="fedsa", rounds=3, data__test_share=0.2, evaluate__clients="all", engine__workers=2)


def test_every_turn_lies_within_its_round_and_no_worker_runs_two_clients_at_once(whole: fedbox.Result) -> None:
    notes: list[str] = []
    timings = read_timings(whole.folder, notes)
    assert [timing.round for timing in timings] == [1, 2, 3]
    assert notes == []
    for timing, record in zip(timings, whole.rounds, strict=True):
        assert {turn.client for turn in timing.visits} == set(record["clients"])
        for kind in ("train", "evaluate"):
            assert sorted(t.client for t in timing.visits if t.kind == kind) == sorted(record["clients"])
        assert all(0 <= turn.began < turn.ended <= record["seconds"]["total"] for turn in timing.visits)
        for worker in ("1", "2"):
            turns = sorted((t.began, t.ended) for t in timing.visits if t.worker == worker)
            assert turns
            assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(turns))
        names = {name for name, *_ in timing.phases}
        assert {"train", "aggregate", "evaluate", "checkpoint"} <= names


def test_a_resumed_run_leaves_the_same_landmarks_and_a_line_for_each_round(
    tmp_path: Path, whole: fedbox.Result
) -> None:
    out = tmp_path / "run"
    same = {"strategy": "fedsa", "data__test_share": 0.2, "evaluate__clients": "all", "engine__workers": 1}
    run(out, rounds=1, **same)
    with (out / "timings.jsonl").open("a") as file:  # as a round that was killed behind its notes leaves it
        file.write(json.dumps({"round": 2, "visits": [], "phases": []}) + "\n" + '{"round": 3, "vis')
    (out / "landmarks" / "round-000002.safetensors").write_bytes(b"half")
    fedbox.run(TOY, out=out, rounds=3, resume=True, quiet=True, report=False, **same)
    lines = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all(line["visits"] for line in lines)
    files = {path.name: path.read_bytes() for path in (out / "landmarks").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (whole.folder / "landmarks").iterdir()}


def test_landmarks_are_the_prototypes_and_anchors_of_the_checkpoint(whole: fedbox.Result) -> None:
    found = read_landmarks(whole.folder, [])
    assert found is not None
    assert found.rounds == (1, 2, 3)
    state = load_file(whole.folder / "checkpoint" / "round-000003" / "state.safetensors")
    np.testing.assert_array_equal(found.points[-1]["anchors"], state["anchors"])
    known = state["known"].astype(bool)
    np.testing.assert_array_equal(found.points[-1]["prototypes"][known], state["prototypes"][known])
    assert np.isnan(found.points[-1]["prototypes"][~known]).all()


def test_the_noted_holdings_are_those_of_the_federation(whole: fedbox.Result) -> None:
    federation = Federation.prepare(load_config(whole.folder / "config.yaml"))
    held, table = read_holdings(whole.folder, []), federation.table()
    assert isinstance(held, Holdings)
    np.testing.assert_array_equal(held.labelled, table.labelled)
    np.testing.assert_array_equal(held.test, table.test)
    assert held.names == tuple(federation.name(i) for i in range(len(federation)))


def test_a_client_that_fails_has_its_turn_all_the_same(tmp_path: Path) -> None:
    result = run_trouble(tmp_path / "run", "raises", "client-1", rounds=1)
    (timing,) = read_timings(result.folder, [])
    assert "client-1" in {turn.client for turn in timing.visits}
    assert [failure["client"] for failure in result.rounds[0]["failures"]] == ["client-1"]


def test_the_busy_share_by_hand() -> None:
    """Two workers over 4 s of training: one works 4 s, the other 2 s, so 6 of 8 seconds."""
    turns = (Visit("a", "train", "1", 1.0, 5.0), Visit("b", "train", "2", 1.0, 3.0))
    assert Timing(1, turns, (), 0).busy == pytest.approx(0.75)
    assert Timing(1, (*turns, Visit("a", "evaluate", "1", 6.0, 8.0)), (), 0).busy == pytest.approx(8 / 12)


def test_clients_that_train_together_keep_their_worker_busy_once() -> None:
    """Worker 1 trains a and b as one, 2 s of 4, then c for 1 s: its share was told as 125 %."""
    turns = tuple(Visit(name, "train", "1", *times) for name, *times in (("a", 1, 3), ("b", 1, 3), ("c", 4, 5)))
    assert Timing(1, turns, (), 0).busy == pytest.approx(0.75)


@pytest.mark.parametrize("name", ["timings.jsonl", "partition.json", "landmarks/round-000001.safetensors"])
@pytest.mark.parametrize("junk", [b"", b"null\n", b'{"round": 1}\n', b'{"version": 1}', b"\xff\xfe" * 40])
def test_broken_notes_never_stop_a_report(tmp_path: Path, name: str, junk: bytes) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(junk)
    notes: list[str] = []
    assert not read_timings(tmp_path, notes)
    assert read_holdings(tmp_path, notes) is None
    assert read_landmarks(tmp_path, notes) is None
    assert len(notes) == (0 if name == "timings.jsonl" and not junk else 1)
