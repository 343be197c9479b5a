"""Runs that are killed: they go on where they were, end with the same bits, and leave no process behind."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import command, descendants, environment, lines, run, save_config, summary

# Long enough for several kills: a few seconds of rounds on one worker.
LONG: dict[str, Any] = {"rounds": 20, "train__epochs": 20, "data__test_share": 0.2, "evaluate__clients": "all"}
# Every `fault` is a place in the life of a round at which the process kills itself, once for each of its rounds.
FAULTS = """
import os, signal, sys
from pathlib import Path
import torch
import fedbox, fedbox.server.loop as loop
import fedbox.server.checkpoint as checkpoint, fedbox.client.state as state
import fedbox.simulations.run as simulation

simulation.PAUSE = 0.2  # for the runs whose checkpoints go by the clock

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def plant(fault):
    draft, commit, append = loop.draft_checkpoint, loop.commit_checkpoint, loop.Records.append
    write, keep = checkpoint.write_atomic, state.StateStore.write
    if fault == "client state":
        def broken(self, client, round_, arrays):
            keep(self, client, round_, arrays)
            if client == "client-2": die()
        state.StateStore.write = broken
    elif fault == "half a draft":
        checkpoint.write_atomic = lambda path, data: die() if path.name == "meta.json" else write(path, data)
    elif fault == "draft":
        loop.draft_checkpoint = lambda *given: die(draft(*given))
    elif fault == "half a line":
        def broken(self, record, **_):
            with self.path.open("ab") as file:
                file.write(b'{"round": 1, "phase": "tr')
            die()
        loop.Records.append = broken
    elif fault == "line":
        def broken(self, record, **given):
            append(self, record, **given)
            die()
        loop.Records.append = broken
    elif fault == "renamed":
        def broken(path, **_):
            if path.name.startswith("round-") and path.exists(): die()
            remove(path, **_)
        remove, checkpoint.shutil.rmtree = checkpoint.shutil.rmtree, broken
    elif fault == "commit":
        loop.commit_checkpoint = lambda path: die(commit(path))

config, out, faults = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
torch.set_num_threads(1)
fedbox.run(config, out=out.with_name("warm"), rounds=1, quiet=True, report=False)  # so that the children import nothing
for number, fault in enumerate(faults):
    child = os.fork()
    if child == 0:
        plant(fault)
        fedbox.run(config, out=out, resume=number > 0, quiet=True, report=False)
        os._exit(7)  # nothing killed it
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(f"{fault}: the process ended with {os.WEXITSTATUS(status)} instead of being killed")
"""


# What Python prints where a key comes while an extension module calls back: it goes on as if nothing had been pressed.
SWALLOWED = re.compile(r"^Exception ignored in: .*\nTraceback .*\n(?: .*\n)*KeyboardInterrupt: ?\n", re.MULTILINE)


def _until(condition: Any, seconds: float = 120.0) -> bool:
    """Wait until it holds; so long only where the machine is far too busy: what is waited for takes a second or two."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.soak
def test_killed_at_random_moments_on_changing_numbers_of_workers(tmp_path: Path) -> None:
    strategy = "lg-fedavg"  # both kinds of state at once: weights at the server, personal models at the clients
    whole = run(tmp_path / "whole", strategy=strategy, **LONG)
    config, out = save_config(tmp_path / "toy.yaml", strategy=strategy, **LONG), tmp_path / "killed"
    rng, kills, between = random.Random(f"kill {strategy}"), 0, 0
    for attempt in range(30):
        resume = ["--resume"] if (out / "config.yaml").exists() else []
        words = command("run", config, "--out", str(out), "--quiet", "--workers", str(1 + attempt % 2), *resume)
        process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
        try:
            # The first kills may come at any time, start included; later ones only while rounds are run.
            if attempt > 1:
                seen = (out / "rounds.jsonl").stat().st_size if (out / "rounds.jsonl").exists() else 0
                _until(lambda: process.poll() is not None or _size(out) != seen)  # noqa: B023
                process.wait(rng.uniform(0.0, 0.6) if kills < 4 else None)
            else:
                process.wait(rng.uniform(0.5, 4.0))
            assert process.returncode == 0, process.stderr.read() if process.stderr else ""
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            between += 0 < len(lines_or_none(out)) < LONG["rounds"]
    assert summary(out)["status"] == "completed"
    assert kills >= 3
    assert between >= 2  # some kills came in the middle of the rounds
    assert summary(out)["model_sha256"] == whole.summary["model_sha256"]
    assert lines(out) == lines(whole.folder)


def _size(out: Path) -> int:
    path = out / "rounds.jsonl"
    return path.stat().st_size if path.exists() else 0


def lines_or_none(out: Path) -> list[str]:
    path = out / "rounds.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("strategy", "every"), [("fedavg", 1), ("local", 1), ("plugins_for_tests:keeping", 1), ("local", 3)]
)
def test_killed_inside_the_commit(tmp_path: Path, strategy: str, every: int) -> None:
    changes: dict[str, Any] = {"strategy": strategy, "rounds": 9, "engine__checkpoint_every": every}
    whole = run(tmp_path / "whole", **changes)
    faults = ["draft", "half a line", "line", "commit", "half a draft", "line", "renamed", "draft"]
    if strategy != "fedavg":
        faults[1:1] = ["client state"]
        faults.append("client state")
    words = [sys.executable, "-c", FAULTS, save_config(tmp_path / "toy.yaml", **changes), str(tmp_path / "run")]
    done = subprocess.run([*words, ",".join(faults)], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < len(lines(tmp_path / "run")) < 9
    end = run(tmp_path / "run", resume=True, **changes)
    assert end.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(end.folder) == lines(whole.folder)
    assert [path.name for path in (end.folder / "checkpoint").iterdir()] == ["round-000009"]


def test_killed_where_checkpoints_go_by_the_clock(tmp_path: Path) -> None:
    """Several rounds come between two checkpoints: they are run again, and their lines are written anew."""
    changes: dict[str, Any] = {"rounds": 300}
    whole = run(tmp_path / "whole", **changes)
    words = [sys.executable, "-c", FAULTS, save_config(tmp_path / "toy.yaml", **changes), str(tmp_path / "run")]
    faults = "line,commit,draft,line,half a draft,renamed,commit,draft"
    done = subprocess.run([*words, faults], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (at,) = (tmp_path / "run" / "checkpoint").glob("round-*")
    assert 2 < int(at.name.removeprefix("round-")) < len(lines(tmp_path / "run")) < 300
    end = run(tmp_path / "run", resume=True, **changes)
    assert end.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(end.folder) == lines(whole.folder)
    assert [path.name for path in (end.folder / "checkpoint").iterdir()] == ["round-000300"]


@contextmanager
def _started(*words: str, **marks: str) -> Iterator["subprocess.Popen[str]"]:
    """Start fedbox in a session of its own; whatever happens here, it does not outlive the test."""
    process = subprocess.Popen(
        command(*words), env=environment(**marks), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()  # the workers end with the one that started them
        process.wait()


def _memory_files() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").is_dir() else set()


ENDS = [
    ("inprocess", signal.SIGKILL),
    ("inprocess", signal.SIGINT),
    ("inprocess", signal.SIGTERM),
    ("ray", signal.SIGINT),
    ("ray", signal.SIGTERM),  # Ray's own processes must not end by it before the run does
]


@pytest.mark.parametrize(("kind", "number"), ENDS, ids=[f"{kind}-{number.name}" for kind, number in ENDS])
def test_a_signal_leaves_no_process_and_no_memory_behind(tmp_path: Path, kind: str, number: signal.Signals) -> None:
    if kind == "ray":
        pytest.importorskip("ray")
    changes = {**LONG, "rounds": 1000, "train__epochs": 5, "strategy": "local", "engine__kind": kind}
    config, out, mark = (
        save_config(tmp_path / "toy.yaml", **changes),
        tmp_path / "run",
        {"FEDBOX_TEST": uuid.uuid4().hex},
    )
    before = _memory_files()
    with _started("run", config, "--out", str(out), "--quiet", "--workers", "2", **mark) as process:
        assert _until(lambda: len(lines_or_none(out)) >= 2 or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        processes = descendants(mark)
        assert kind == "ray" or len(processes) == 4  # the run, the nursery, two workers
        assert [each for each in processes if os.getpgid(each) == process.pid] == [process.pid]
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)  # as a terminal does: to the whole group
        error = process.communicate()[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), error
    assert _until(lambda: not descendants(mark), 20)
    assert not {name for name in _memory_files() - before if "fedbox" in name or "torch" in name}
    if number != signal.SIGKILL:
        assert "Traceback" not in error
        assert summary(out)["status"] == "interrupted"
    done = len(lines_or_none(out))
    short = {**changes, "rounds": done + 1}
    resumed = run(out, resume=True, **{**short, "engine__kind": "inprocess"})
    assert resumed.summary["status"] == "completed"
    whole = run(tmp_path / "whole", **{**short, "rounds": resumed.summary["rounds"]})
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]


@pytest.mark.parametrize("delay", [0.0, 0.8, 1.6])
def test_ctrl_c_during_the_start(tmp_path: Path, delay: float) -> None:
    """Whenever it comes: no worker is left, and no worker prints a traceback."""
    config, mark = save_config(tmp_path / "toy.yaml", **LONG), {"FEDBOX_TEST": uuid.uuid4().hex}
    with _started("run", config, "--out", str(tmp_path / "run"), "--quiet", "--workers", "2", **mark) as process:
        assert _until(lambda: (tmp_path / "run" / "config.yaml").exists() or process.poll() is not None)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        try:
            error = process.communicate(timeout=15)[1]
        except subprocess.TimeoutExpired:  # an extension module that was importing swallowed the key: press it again
            os.killpg(process.pid, signal.SIGINT)
            error = SWALLOWED.sub("", process.communicate()[1])
    # Python itself ends by SIGINT, which a shell shows as 130 too, when the key came while an import ran `exec`.
    assert process.returncode in (130, -signal.SIGINT), error
    assert "Traceback" not in error
    assert _until(lambda: not descendants(mark), 20)
    resumed = run(tmp_path / "run", resume=True, **{**LONG, "rounds": 1})
    assert resumed.summary["status"] == "completed"
