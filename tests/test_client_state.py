"""What a client keeps: versions by round, so that a run that goes back to a checkpoint finds what was there then."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbox.client.state import StateError, StateStore


def _versions(folder: Path, client: str = "client-1") -> list[int]:
    return sorted(int(path.stem) for path in (folder / client).iterdir() if path.stem.isdigit())


def _value(store: StateStore, round_: int) -> int | None:
    found = store.read("client-1", round_)
    return int(found["x"]) if found else None


def _write(store: StateStore, round_: int) -> None:
    store.write("client-1", round_, {"x": np.array(round_)})


def test_a_round_that_is_run_again_starts_from_what_was_before_it(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert _value(store, 1) is None
    for round_ in (1, 2, 5):
        _write(store, round_)
    assert _versions(tmp_path) == [2, 5]
    assert _value(store, 6) == 5
    assert _value(store, 5) == 2
    _write(store, 5)
    assert _value(store, 5) == 2
    _write(store, 3)  # back to an older checkpoint: what came after it is void
    assert _versions(tmp_path) == [2, 3]


@given(st.integers(1, 5), st.lists(st.booleans(), min_size=1, max_size=25), st.data())
def test_the_state_at_the_last_checkpoint_is_always_there(
    every: int, takes_part: list[bool], data: st.DataObject
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store, kept = StateStore(Path(folder), every), dict[int, int]()
        kills = data.draw(st.sets(st.integers(1, len(takes_part)), max_size=4))
        round_, checkpoint, before_it = 1, 0, 0
        while round_ <= len(takes_part):
            if takes_part[round_ - 1]:
                before = max((r for r in kept if r < round_), default=None)
                assert _value(store, round_) == before
                _write(store, round_)
                kept[round_] = round_
                assert len(_versions(Path(folder))) <= 2 * every + 1
            if round_ in kills:  # killed in this round: back behind the last checkpoint that is on disk
                kills.discard(round_)
                checkpoint = data.draw(st.sampled_from([checkpoint, before_it]))
                before_it = checkpoint
                kept = {r: r for r in kept if r <= checkpoint}
                round_ = checkpoint
            elif round_ % every == 0:
                before_it, checkpoint = checkpoint, round_
            round_ += 1
        assert {name: int(arrays["x"]) for name, arrays in store.after(len(takes_part))} == (
            {"client-1": max(kept)} if kept else {}
        )


def test_states_after_a_round(tmp_path: Path) -> None:
    store = StateStore(tmp_path, 10)
    for client, rounds in (("client-2", (1, 4)), ("client-10", (3,))):
        for round_ in rounds:
            store.write(client, round_, {"x": np.array([round_])})
    assert {name: arrays["x"].item() for name, arrays in store.after(3)} == {"client-2": 1, "client-10": 3}
    assert {name: arrays["x"].item() for name, arrays in store.after(2)} == {"client-2": 1}
    assert list(StateStore(tmp_path / "absent").after(3)) == []


def test_shapes_and_types_survive(tmp_path: Path) -> None:
    arrays = {"scalar": np.array(3), "flag": np.array([True]), "none": np.zeros((0, 2), np.float32)}
    StateStore(tmp_path).write("client-1", 1, arrays)
    found = StateStore(tmp_path).read("client-1", 2)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape


def test_a_damaged_state_and_no_folder_are_named(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    _write(store, 1)
    (tmp_path / "client-1" / "000001.safetensors").write_bytes(b"short")
    with pytest.raises(StateError, match=r"client-1, .*000001\.safetensors, cannot be read.* goes on with nothing"):
        store.read("client-1", 2)
    _write(store, 1)
    _write(store, 2)
    (tmp_path / "client-1" / "000002.safetensors").write_bytes(b"")  # what a loss of power left in older releases
    with pytest.raises(StateError, match=r"000002\.safetensors, cannot be .* with what it kept after round 1"):
        store.read("client-1", 3)
    assert _value(store, 2) == 1  # the round that wrote it can be done again
    _write(store, 2)
    assert _value(store, 3) == 2
    assert StateStore(None).read("client-1", 5) == {}
    with pytest.raises(StateError, match="there is no folder for it"):
        StateStore(None).write("client-1", 1, {})


def test_what_must_last_is_on_disk_before_older_versions_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, fsync, synced = StateStore(tmp_path), os.fsync, list[tuple[str, list[int]]]()

    def noted(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").resolve().suffix, _versions(tmp_path)))
        fsync(handle)

    _write(store, 1)
    monkeypatch.setattr(os, "fsync", noted)
    _write(store, 2)
    assert synced == []  # a simulation's processes are killed, not its machine: it does not wait for the disk
    store.durable = True
    _write(store, 4)
    assert synced == [(".tmp", [1, 2]), ("", [1, 2, 4])]
    assert _versions(tmp_path) == [2, 4]


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    _write(store, 1)
    for name in (".000002.safetensors.17.tmp", "000002.17.tmp"):
        (tmp_path / "client-1" / name).write_bytes(b"half")
    _write(store, 2)
    assert sorted(path.name for path in (tmp_path / "client-1").iterdir()) == [
        "000001.safetensors",
        "000002.safetensors",
    ]
