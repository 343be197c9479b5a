"""Trackers: what they write is what the records say, once for each round, and none can take a run with it."""

import csv
import json
import logging
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import environment, run, summary

import fedbox
from fedbox.configs import ConfigError
from fedbox.server.trackers import TensorBoard
from fedbox.server.tracking import TrackerError, find_callback
from fedbox.strategies.registry import PluginError

KILLED = """
import os, signal, sys, time
from pathlib import Path
import fedbox
from plugins_for_tests import run

folder = Path(sys.argv[1])

class Kill(fedbox.Callback):
    def on_ask(self, round_, kind, clients):
        while round_ == 3 and not (folder / "checkpoint" / "round-000002").is_dir():
            time.sleep(0.01)
        if round_ == 3:
            os.kill(os.getpid(), signal.SIGKILL)

more = {"engine__checkpoint_every": 1, "engine__workers": 2, "callbacks": [Kill()]}
run(folder, rounds=4, track=["csv", "tensorboard"], **more)
"""


class Failing(fedbox.Callback):
    """Fails from the second round on."""

    def on_round(self, record: Mapping[str, Any]) -> None:
        if record["round"] > 1:
            raise OSError("the disk of the tracker is gone")


class Unready(fedbox.Callback):
    def on_start(self, config: fedbox.Config, folder: Path, first: int) -> None:
        raise ConnectionError("no route to the store")


class Needy(fedbox.Callback):
    needs = {"no_such_package": "pip install no-such-package"}  # noqa: RUF012


class Choosy(fedbox.Callback):
    def __init__(self, place: str) -> None:
        self.place = place


def _broken_off(folder: Path, track: list[str]) -> fedbox.Result:
    """Run 4 rounds that are broken off in the third; only the second left a checkpoint, so two rounds are run again."""

    class Stop(fedbox.Callback):
        def on_round(self, record: Mapping[str, Any]) -> None:
            if record["round"] == 3:
                raise KeyboardInterrupt

    class Later(Stop):
        """The trackers hear of the round first: it stands there when the run breaks off."""

    changes: dict[str, Any] = {"rounds": 4, "track": track, "engine__checkpoint_every": 2}
    from fedbox.server import tracking
    from fedbox.server.callbacks import Callbacks

    made = tracking.trackers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedbox.simulations.run.trackers", lambda config: [Callbacks([*made(config), Later()])])
        with pytest.raises(KeyboardInterrupt):
            run(folder, **changes)
    return run(folder, resume=True, **changes)


def _accuracies(result: fedbox.Result) -> list[float]:
    return [record["metrics"]["accuracy"] for record in result.rounds]


def test_csv_has_a_row_a_round_after_a_resume(tmp_path: Path) -> None:
    result = _broken_off(tmp_path / "run", ["csv"])
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["round"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["metrics/accuracy"]) for row in rows] == _accuracies(result)
    assert [int(row["bytes/bytes_up"]) for row in rows] == [record["bytes_up"] for record in result.rounds]


def _steps(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("metrics/accuracy")]


def test_a_killed_run_leaves_no_gap_in_what_the_trackers_have(tmp_path: Path) -> None:
    """It is killed in its third round: the second has its checkpoint, and no tracker was told of it."""
    pytest.importorskip("tensorboard")
    folder, tracked = tmp_path / "run", ["csv", "tensorboard"]
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], env=environment(), check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [step for step, _ in _steps(folder)] == [1], "a round that was told is there at once"
    result = run(folder, resume=True, rounds=4, track=tracked)
    wanted = list(enumerate(_accuracies(result), start=1))
    assert _steps(folder) == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]
    with (folder / "metrics.csv").open(newline="") as file:
        assert [(int(row["round"]), float(row["metrics/accuracy"])) for row in csv.DictReader(file)] == wanted


def test_the_events_of_a_run_that_is_resumed_at_once_are_read_last(tmp_path: Path) -> None:
    """Files are read in the order of their names: whole seconds, then the machine and the process."""
    pytest.importorskip("tensorboard")
    place = tmp_path / "tensorboard"
    place.mkdir()
    before = place / f"events.out.tfevents.{int(time.time()):010d}.~.0.0"
    before.touch()
    tracker = TensorBoard()
    tracker.on_start(fedbox.load_config({}), tmp_path, 1)
    tracker.on_end({})
    assert len(found := sorted(place.iterdir())) == 2
    assert found[0] == before


def test_a_tracker_that_is_new_to_a_run_gets_the_rounds_before(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path / "run", rounds=2, track=[])
    result = run(tmp_path / "run", rounds=3, resume=True, track=["csv", "tensorboard"])
    assert [step for step, _ in _steps(tmp_path / "run")] == [1, 2, 3]
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [float(row["metrics/accuracy"]) for row in csv.DictReader(file)] == _accuracies(result)


def test_csv_gives_a_metric_that_comes_later_a_column(tmp_path: Path) -> None:
    run(tmp_path / "run", rounds=3, track=["csv"], evaluate__every=2)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["metrics/accuracy"] == "" for row in rows] == [True, False, False]


def test_mlflow_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs fedbox[mlflow]")
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    result = _broken_off(tmp_path / "run", ["mlflow"])
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("fedbox")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "metrics/accuracy")
    assert [(point.step, point.value) for point in history] == list(enumerate(_accuracies(result), start=1))
    assert found.data.params["train.lr"] == "0.1"
    assert found.data.tags["fedbox.model_sha256"] == result.summary["model_sha256"]
    assert found.info.status == "FINISHED"


def _leveldb_records(log: bytes, header: int = 7, block: int = 32_768) -> Iterator[bytes]:
    """Give the records of W&B's file: LevelDB's log format behind a header of W&B's own that counts to the first block.

    Each piece has its checksum (4 bytes), length (2) and type (1: whole, 2: first, 3: middle, 4: last) before it.
    """
    assert log.startswith(b":W&B")
    at, parts = header, bytearray()
    while at + 7 <= len(log):
        if block - at % block < 7:  # the rest of a block that no piece's header fits into
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        if at + 7 + length > len(log):  # still being written
            return
        parts += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield bytes(parts)
            parts.clear()


def _when_closed(file: Path, read: Callable[[bytes], Any], seconds: float = 60) -> list[Any]:
    """Give the records of a W&B file once its last one stands there: the service writes on after finish() returns."""
    until = time.monotonic() + seconds
    while True:
        records = [read(data) for data in _leveldb_records(file.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records) or time.monotonic() > until:
            return records
        time.sleep(0.1)


def test_wandb_writes_off_line_and_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs fedbox[wandb]")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_MODE", raising=False)  # off line is what fedbox does without a word
    result = _broken_off(tmp_path / "run", ["wandb"])
    points: list[tuple[int, float]] = []
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 1  # one run, in two sessions
    assert len(files) == 2
    for file in files:
        for record in _when_closed(file, Record.FromString):
            if record.WhichOneof("record_type") == "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                points.append((row["_step"], row["metrics/accuracy"]))
    assert points == list(enumerate(_accuracies(result), start=1))


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedbox.server"):
        result = run(tmp_path / "run", rounds=4, track=["test_server_trackers:Failing", "csv"])
    assert [record.getMessage() for record in caplog.records] == [
        "tracker 'test_server_trackers:Failing' failed (OSError: the disk of the tracker is gone); "
        "the run goes on without it"
    ]
    assert result.summary["status"] == "completed"
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 5
    plain = run(tmp_path / "plain", rounds=4, track=[])
    assert result.summary["model_sha256"] == plain.summary["model_sha256"]


def test_a_tracker_that_cannot_start_ends_the_run_before_its_first_round(tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match=r"Unready.*no route to the store.*--resume"):
        run(tmp_path / "run", track=["test_server_trackers:Unready"])
    assert summary(tmp_path / "run")["rounds"] == 0
    assert run(tmp_path / "run", resume=True, track=[]).summary["status"] == "completed"


def test_faults_of_track_are_told_before_anything_runs(tmp_path: Path) -> None:
    names = ["tensorbord", "csv", "csv", "test_server_trackers:Needy"]
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "run", track=names)
    text = str(caught.value)
    assert "track: got 'tensorbord', which is not registered; did you mean 'tensorboard'?" in text
    assert "track: 'csv' stands there more than once" in text
    assert "needs no_such_package, which is not installed; install it with: pip install no-such-package" in text
    assert not (tmp_path / "run").exists()


def test_the_extras_are_named_where_they_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = {"mlflow", "wandb", "tensorboard"}
    monkeypatch.setattr("fedbox.server.tracking.find_spec", lambda name: None if name in absent else find_spec(name))
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "run", track=sorted(absent))
    for name in absent:
        assert f"pip install 'fedbox[{name}]'" in str(caught.value)
    run(tmp_path / "plain", rounds=1)  # no tracker is named, so none is missed
    assert not (tmp_path / "plain" / "tensorboard").exists()


def test_what_is_no_callback_is_told() -> None:
    with pytest.raises(PluginError, match=r"not a subclass of fedbox\.Callback"):
        find_callback("json:dumps")
    with pytest.raises(PluginError, match=r"wants place; a tracker is made without arguments"):
        find_callback("test_server_trackers:Choosy")
    with pytest.raises(PluginError, match=r"callback 'cvs' is not registered; did you mean 'csv'\?"):
        find_callback("cvs")


@pytest.mark.parametrize(
    ("given", "told"), [(fedbox.Callback, r"did you mean Callback\(\)\?"), (print, "got <built-in")]
)
def test_what_is_no_listener_is_told_before_anything_runs(tmp_path: Path, given: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        run(tmp_path, callbacks=[given])
    assert not (tmp_path / "config.yaml").exists()
