"""The process that workers are forked from: what reaches a worker, how its end is told, and what is left of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from plugins_for_tests import descendants, environment, run

from fedbox.simulations.crew import SLABS
from fedbox.simulations.forking import NURSERY, Nursery
from fedbox.simulations.processes import WorkerProcess, start_worker
from fedbox.simulations.shared import Block

PROBE = """
import os

def tell():
    raise ValueError(f"here: {os.environ.get('FEDBOX_PROBE')} {os.getcwd()}")

class Probe:
    def __reduce__(self):
        return tell, ()
"""


def a_worker() -> WorkerProcess:
    blocks = [Block(), Block()]
    try:
        return start_worker(SLABS, (blocks[0].fd, blocks[1].fd))
    finally:
        for block in blocks:
            block.close()


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def until(condition: Any, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_a_worker_has_the_surroundings_of_now_not_those_of_the_nursery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Environment, module path, working folder, stderr, all changed since the nursery began; and the exit code."""
    NURSERY.begin()
    (tmp_path / "probe_of_a_worker.py").write_text(PROBE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FEDBOX_PROBE", "changed")
    monkeypatch.chdir(tmp_path)
    worker = a_worker()
    from probe_of_a_worker import Probe  # type: ignore[import-not-found]

    worker.pipe.send(Probe())
    assert worker.process.wait() == 1
    worker.close()
    assert f"here: changed {tmp_path}" in capfd.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_how_a_worker_was_killed_is_told(how: signal.Signals) -> None:
    worker = a_worker()
    os.kill(worker.process.pid, how)
    assert worker.process.wait() == -how
    worker.close()


def test_a_worker_that_is_closed_is_gone() -> None:
    busy = a_worker()
    os.kill(busy.process.pid, signal.SIGSTOP)  # deaf to its lifeline
    busy.close()
    assert gone(busy.process.pid)


def test_a_nursery_that_was_killed_is_replaced_and_its_workers_live_on(tmp_path: Path) -> None:
    worker = a_worker()
    pid, nursery = worker.process.pid, NURSERY._process
    assert nursery is not None
    nursery.kill()
    nursery.wait()
    assert not gone(pid)
    whole = run(tmp_path / "whole")
    again = run(tmp_path / "again", workers=2)
    assert again.summary["model_sha256"] == whole.summary["model_sha256"]
    worker.close()
    assert until(lambda: gone(pid))


def test_how_a_worker_of_a_dead_nursery_ended_nobody_knows_and_nobody_waits_for_the_new_one() -> None:
    old = a_worker()
    pid, nursery = old.process.pid, NURSERY._process
    assert nursery is not None
    nursery.kill()
    nursery.wait()
    new = a_worker()  # by a nursery that lives
    os.kill(pid, signal.SIGTERM)
    assert until(lambda: gone(pid))
    found = list[int]()
    waiting = Thread(target=lambda: found.append(old.process.wait()), daemon=True)
    waiting.start()
    waiting.join(20)
    assert found == [1]  # not the -9 of its nursery, which would mean a lack of memory
    for worker in (old, new):
        worker.close()
        worker.close()  # what a signal broke off is done again


def test_a_worker_is_closed_before_its_nursery_has_come_up() -> None:
    other = Nursery()
    read, write = os.pipe()
    child = other.fork([read, write])
    began = time.monotonic()
    child.end()
    assert time.monotonic() - began < 1.0
    other.end(kill=True)
    os.close(read)
    os.close(write)


def test_a_nursery_that_nobody_asked_goes_at_once_and_one_that_was_asked_stays() -> None:
    other = Nursery()
    other.begin()
    process = other._process
    assert process is not None
    other.dismiss()
    assert process.returncode == -signal.SIGKILL
    worker = a_worker()
    NURSERY.dismiss()
    worker.pipe.send(None)  # no Setup: it answers with an error, so it was there to hear it
    assert isinstance(worker.pipe.recv(), AttributeError)
    assert worker.process.wait() == 0
    worker.close()


DEAF = "[os.kill(worker.process.pid, signal.SIGSTOP) for worker in pool._workers]; "  # as one that holds Python's lock
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("end", ["sys.exit(3)", KILLED, DEAF + KILLED])
def test_nothing_is_left_of_it_when_its_process_ends(end: str) -> None:
    code = (
        "import os, signal, sys, time\nfrom fedbox.simulations.pool import Pool\n"
        f"pool = Pool(2)\nprint(*[worker.process.pid for worker in pool._workers], flush=True)\n{end}"
    )
    marker = {"FEDBOX_MARKER": f"{os.getpid()}-{time.monotonic_ns()}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment(**marker), capture_output=True, check=False)
    assert done.returncode in (3, -signal.SIGKILL)
    assert len(done.stdout.split()) == 2
    assert until(lambda: not descendants(marker))


def test_a_process_that_ends_at_once_does_not_wait_for_a_nursery_that_nobody_asked() -> None:
    code = (
        "import os, signal\n"
        "from fedbox.simulations.forking import NURSERY\n"
        "NURSERY.begin()\n"
        "os.kill(NURSERY._process.pid, signal.SIGSTOP)\n"  # as long in coming up as can be
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(), timeout=60, check=False).returncode == 0
