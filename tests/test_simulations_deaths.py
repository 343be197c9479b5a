"""How the pool hears that a worker has died: idle, in the middle of a word, or survived by a process of its client."""

import os
import signal
import struct
import time
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import TOY, lines, run, run_trouble

import fedbox
from fedbox.simulations.pool import Pool
from fedbox.simulations.processes import WorkerProcess
from fedbox.simulations.run import Parts, check, run_config


def test_workers_that_are_killed_while_they_are_idle_cost_no_client_an_attempt(tmp_path: Path) -> None:
    """All at once, as a lack of memory does: whom the second one was sent to next had not been tried by the first."""
    changes: dict[str, Any] = {"clients__per_round": 1, "rounds": 3, "train__epochs": 2}
    whole, pool = run(tmp_path / "whole", **changes), Pool(3)

    class Kill(fedbox.Callback):
        def on_round(self, record: Any) -> None:
            for worker in pool._workers:
                with suppress(ProcessLookupError):  # since the round before
                    os.kill(worker.process.pid, signal.SIGTERM)
                worker.process.wait()

    config = check(TOY, {**{key.replace("__", "."): value for key, value in changes.items()}, "engine.workers": 3})
    try:
        out, parts = tmp_path / "run", Parts(pool=pool)
        result = run_config(config, out=out, progress=False, report=False, callbacks=[Kill()], parts=parts)
    finally:
        pool.close()
    assert result.summary["failures"] == 0
    assert lines(result.folder) == lines(whole.folder)


def test_a_worker_dies_and_a_process_that_its_client_began_lives_on(tmp_path: Path) -> None:
    """That one holds open all that the worker held, so the pipe does not tell that the worker is gone."""
    switch, began = tmp_path / "switch", time.monotonic()
    switch.touch()
    result = run_trouble(tmp_path / "run", "leave-child", "client-3", wish={"file": str(switch)}, workers=2)
    took = time.monotonic() - began
    (left,) = tmp_path.glob("switch-*")
    os.kill(int(left.name.removeprefix("switch-")), signal.SIGKILL)
    assert took < 90  # it would have lived for 100 s
    assert result.summary["failures"] == 0
    assert result.summary["model_sha256"] == run(tmp_path / "whole").summary["model_sha256"]


def test_a_worker_that_dies_in_the_middle_of_a_word() -> None:
    near, far = Pipe()
    os.write(far.fileno(), struct.pack("!i", 1000) + b"half")
    far.close()
    nobody: Any = None
    with pytest.raises(EOFError):
        WorkerProcess(nobody, near, None, []).hear()
    near.close()
