"""A disk that is full: the run ends with a word on what to do, keeps what it has, and goes on when there is room."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import command, environment, lines, run, save_config

import fedbox
from fedbox.server.loop import RunFailedError
from fedbox.server.writing import Writer

MODEL = {"name": "mlp", "options": {"hidden": 800}}  # 60,010 weights: a checkpoint of 240 kB
LIMITED = """
import resource, sys
from fedbox.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"this process may not mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_is_removed_in_mid_run(tmp_path: Path) -> None:
    class Remove(fedbox.Callback):
        def on_round(self, record: Any) -> None:
            (tmp_path / "run").rename(tmp_path / f"moved-{record['round']}")

    with pytest.raises(RunFailedError, match="run was removed while the run wrote to it"):
        run(tmp_path / "run", callbacks=[Remove()], track=[])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_moved_is_not_begun_anew_where_it_was(tmp_path: Path, workers: int) -> None:
    """By clients who find nothing there, and take that for their first round."""
    changes: dict[str, Any] = {"strategy": "local", "rounds": 5, "workers": workers, "track": []}

    class Move(fedbox.Callback):
        def on_round(self, record: Any) -> None:
            if record["round"] == 2:
                (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises(RunFailedError, match=r"run was removed while|state of client-\d cannot be saved"):
        run(tmp_path / "run", callbacks=[Move()], **changes)
    assert not (tmp_path / "run").exists()
    end, whole = run(tmp_path / "moved", resume=True, **changes), run(tmp_path / "whole", **changes)
    assert end.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(end.folder) == lines(whole.folder)


@pytest.mark.parametrize(("strategy", "workers"), [("local", 2), ("lg-fedavg", 1), ("plugins_for_tests:keeping", 2)])
@pytest.mark.parametrize("fault", ["saved", "read"])
def test_a_fault_of_the_disk_is_no_failure_of_a_client(tmp_path: Path, strategy: str, workers: int, fault: str) -> None:
    """The run ends: without the client it would go on to another model, and nobody might look."""
    changes: dict[str, Any] = {"strategy": strategy, "rounds": 4, "workers": workers, "track": []}
    place, aside = tmp_path / "run" / "clients" / "client-2", tmp_path / "aside"

    class Spoil(fedbox.Callback):
        def on_round(self, record: Any) -> None:
            if record["round"] == 2 and fault == "saved":
                place.rename(aside)
                place.touch()
            elif record["round"] == 2:
                shutil.copytree(place, aside)
                for version in place.iterdir():
                    version.write_bytes(b"short")

    with pytest.raises(RunFailedError, match=rf"state of client-2.* cannot be {fault}.*; then go on with --resume"):
        run(tmp_path / "run", callbacks=[Spoil()], **changes)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    aside.rename(place)
    end, whole = run(tmp_path / "run", resume=True, **changes), run(tmp_path / "whole", **changes)
    assert end.summary["failures"] == 0
    assert end.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(end.folder) == lines(whole.folder)


@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_a_full_disk(tmp_path: Path, small_disk: Path, strategy: str) -> None:
    changes: dict[str, Any] = {"strategy": strategy, "model": MODEL, "rounds": 4}
    if strategy == "local":  # five clients with two versions each, 24 kB apiece
        changes["model"] = {"name": "mlp", "options": {"hidden": 80}}
    whole = run(tmp_path / "whole", **changes)
    config, out, filler = save_config(tmp_path / "toy.yaml", **changes), small_disk / "run", small_disk / "filler"
    first = run(out, **{**changes, "rounds": 1})
    (out / "model.safetensors").unlink()
    room = os.statvfs(small_disk)
    filler.write_bytes(bytes(max(room.f_bavail * room.f_frsize - (130_000 if strategy == "fedavg" else 60_000), 0)))
    words = command("run", config, "--out", str(out), "--quiet", "--resume", "--workers", "1")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert str(out) in done.stderr
    assert "no space left" in done.stderr.lower()
    assert "--resume" in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr
    text = (out / "rounds.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["round"] == first.rounds[0]["round"]
    filler.unlink()
    end = run(out, resume=True, **changes)
    assert end.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(out) == lines(whole.folder)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The same where no disk can be mounted: a limit on the size of files, which a checkpoint exceeds."""
    changes: dict[str, Any] = {"model": MODEL, "rounds": 2}
    config, out = save_config(tmp_path / "toy.yaml", **changes), tmp_path / "run"
    words = [sys.executable, "-c", LIMITED, "100000", "run", config, "--out", str(out), "--quiet"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"no space left while writing to {out}" in done.stderr
    assert "free some, then go on with --resume" in done.stderr
    assert not list((out / "checkpoint").iterdir())
    end = run(out, resume=True, **changes)
    assert end.summary["model_sha256"] == run(tmp_path / "whole", **changes).summary["model_sha256"]


def test_no_more_files_may_be_opened(tmp_path: Path) -> None:
    """Those that are open stay so: the round's record, its times and its checkpoint are what is not to be written."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    class Limit(fedbox.Callback):
        def on_ask(self, round_: int, kind: str, clients: int) -> None:
            if round_ == 2:
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))

    try:
        with pytest.raises(
            RunFailedError, match=r"no more files can be opened \(.*; raise the limit, .* with --resume"
        ):
            run(tmp_path / "run", callbacks=[Limit()], track=[])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    end, whole = run(tmp_path / "run", resume=True, track=[]), run(tmp_path / "whole", track=[])
    assert end.summary["model_sha256"] == whole.summary["model_sha256"]


def test_no_thread_can_be_started_to_write(tmp_path: Path) -> None:
    """For lack of memory, or as there are too many processes: it is written all the same, and faults are told."""
    writer, done = Writer(), list[str]()
    threading.stack_size(1 << 50)
    try:
        writer.submit(lambda: done.append("written"))
        writer.submit((tmp_path / "missing" / "file").touch)
    finally:
        threading.stack_size(0)
    assert done == ["written"]
    with pytest.raises(FileNotFoundError):
        writer.wait()
    writer.wait()
