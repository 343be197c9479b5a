"""Workers that die, hang or are slow; the memory that they share with the pool; the messages that pass through it."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from plugins_for_tests import environment, lines, run, run_trouble

from fedbox.client.driver import lacks_memory, reason_of
from fedbox.configs import ConfigError, Fault
from fedbox.simulations import crew
from fedbox.simulations.packing import pack, unpack
from fedbox.simulations.pool import Pool
from fedbox.simulations.shared import Block, get, put
from fedbox.simulations.worker import _portable
from fedbox.simulations.workers import WorkerError
from fedbox.strategies.base import (
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
    from_record,
    identity,
    to_record,
)


def test_a_worker_that_is_killed_once_changes_nothing(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    wish: dict[str, Any] = {"file": str(switch), "rounds": [2]}
    result = run_trouble(tmp_path / "run", "kill-once", "client-3", wish=wish, workers=2)
    assert not switch.exists()
    assert result.summary["failures"] == 0
    assert result.summary["workers"] == 1  # it may have been killed for lack of memory: half of them are left
    whole = run(tmp_path / "whole")
    assert result.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(result.folder) == lines(whole.folder)


def test_workers_that_are_killed_from_outside_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle, busy, or with a reply on its way: the pool takes it up."""
    changes: dict[str, Any] = {"strategy": "local", "train__epochs": 10, "rounds": 8}
    whole = run(tmp_path / "whole", **changes)
    take, wanted, taken = Pool._take, [2, 1, 0, 2], [0]  # kill one that holds so many clients

    def deadly(self: Pool, worker: Any, queue: Any) -> Any:
        taken[0] += 1
        victims = [other for other in self._workers if other.ready and wanted and len(other.jobs) == wanted[0]]
        if victims and taken[0] > 12:  # never twice in a round: a client may lose its worker once
            os.kill(victims[-1].process.pid, signal.SIGTERM)
            del wanted[0]
            taken[0] = 0
        yield from take(self, worker, queue)

    monkeypatch.setattr(Pool, "_take", deadly)
    result = run(tmp_path / "run", workers=2, **changes)
    assert not wanted
    assert result.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(result.folder) == lines(whole.folder)


def test_a_client_that_always_kills_its_worker_is_lost(tmp_path: Path) -> None:
    result = run_trouble(tmp_path / "run", "kill", "client-1", workers=2, rounds=2)
    for record in result.rounds:
        assert [(row["client"], row["kind"]) for row in record["failures"]] == [("client-1", "lost")]
        assert "died twice while it ran client-1 (exit code -9)" in record["failures"][0]["reason"]
        assert "memory" in record["failures"][0]["reason"]
        assert len(record["clients"]) == 4
    absent = run_trouble(tmp_path / "absent", "raises", "client-1", rounds=2)
    assert result.summary["model_sha256"] == absent.summary["model_sha256"]


def test_a_client_that_sleeps_is_given_up_and_the_next_round_is_whole(tmp_path: Path) -> None:
    """Both workers are replaced; the time that the new ones take to start is not the clients'."""
    began = time.monotonic()
    wish = {"rounds": [1]}
    changes: dict[str, Any] = {"clients__timeout": 2.0, "workers": 2, "rounds": 2}
    result = run_trouble(tmp_path / "run", "sleep", "client-2", "client-4", wish=wish, **changes)
    assert time.monotonic() - began < 50  # the clients sleep for 60 s
    first, second = result.rounds
    assert [(row["client"], row["kind"]) for row in first["failures"]] == [
        ("client-2", "timeout"),
        ("client-4", "timeout"),
    ]
    assert "no reply within 2 s (clients.timeout)" in first["failures"][0]["reason"]
    assert second["failures"] == []
    assert len(second["clients"]) == 5


def test_a_worker_that_is_killed_before_it_is_ready_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, start = run(tmp_path / "whole"), crew.start_worker
    doomed = [True, False, False]

    def deadly(*given: Any) -> Any:
        worker = start(*given)
        if doomed and doomed.pop(0):
            os.kill(worker.process.pid, signal.SIGKILL)
        return worker

    monkeypatch.setattr(crew, "start_worker", deadly)
    result = run(tmp_path / "run", workers=2)
    assert not doomed
    assert result.summary["model_sha256"] == whole.summary["model_sha256"]
    doomed += [True] * 3
    with pytest.raises(WorkerError, match=r"code -9 before it was ready, and so did the one before it"):
        run(tmp_path / "never", workers=2)


def test_large_tasks_and_large_replies_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A pipe holds 200 kB: whoever sends more must not send to one who sends more."""
    code = (
        "import fedbox, plugins_for_tests as p\n"
        f"fedbox.run(p.TOY, out={str(tmp_path / 'run')!r}, strategy='plugins_for_tests:bulky', workers=2, report=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=100, check=False)
    assert done.returncode == 0
    whole = run(tmp_path / "whole", strategy="plugins_for_tests:bulky")
    assert lines(tmp_path / "run") == lines(whole.folder)


def test_too_many_workers_for_the_files_that_may_be_open(tmp_path: Path) -> None:
    code = (
        "import fedbox, os, resource, plugins_for_tests as p\n"
        "before, most = len(os.listdir('/proc/self/fd')), resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, most))\n"
        "try:\n    fedbox.run(p.TOY, out='many', workers=30)\nexcept RuntimeError as error:\n    print(error)\n"
        "print(len(os.listdir('/proc/self/fd')) - before < 5)\n"
        "print(fedbox.run(p.TOY, out='two', workers=2).summary['status'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "no more workers: Too many open files. A worker takes 5 files here; take fewer engine.workers" in done.stdout
    assert done.stdout.endswith("True\ncompleted\n"), done.stderr


class OddError(Exception):
    """Cannot be read in another process, nor even told."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class MuteError(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")


def test_errors_that_cannot_travel_or_be_told_are_told_all_the_same() -> None:
    with pytest.raises(OddError) as odd:
        raise OddError(1, 2)
    told = _portable(odd.value)
    assert isinstance(told, WorkerError)
    assert "OddError: 1 and 2 (test_simulations_workers.py, line" in str(told)
    fault = ConfigError("mine", [Fault("train.lr", "got -1")])
    assert _portable(fault) is fault
    assert pickle.loads(pickle.dumps(fault)).faults == fault.faults
    with pytest.raises(MuteError) as mute:
        raise MuteError
    assert reason_of(mute.value).startswith("MuteError: its text cannot be had, for that raised KeyError (test_simul")


def test_a_lack_of_memory_is_known_by_whatever_tells_of_it() -> None:
    with pytest.raises(RuntimeError) as own:
        torch.empty(2**50)  # not a MemoryError, nor an OutOfMemoryError
    texts = [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ]
    short = [own.value, MemoryError(), torch.OutOfMemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")]
    assert all(lacks_memory(error) for error in [*short, *map(RuntimeError, texts)])
    others = [RuntimeError("mat1 and mat2"), ValueError("out of memory"), OSError(errno.ENOSPC, "full"), MuteError()]
    assert not any(lacks_memory(error) for error in others)


def test_a_model_that_workers_cannot_build_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mlpp") as caught:
        run(tmp_path / "run", model="mlpp", workers=2)
    assert getattr(caught.value, "exit_code", None) == 3


def test_a_block_grows_and_its_readers_see_it() -> None:
    writer = Block()
    reader = Block(os.dup(writer.fd))
    writer.room(4)[:4] = b"abcd"
    assert bytes(reader.view(4)) == b"abcd"
    old = reader.view(4)
    writer.room(100_000)[:100_000] = bytes(range(250)) * 400
    assert bytes(reader.view(100_000)) == bytes(range(250)) * 400
    assert bytes(old) == bytes(range(4))  # the same pages
    writer.room(3)[:3] = b"xyz"
    assert bytes(reader.view(5)) == b"xyz" + bytes([3, 4])
    assert bytes(reader.view(0)) == b""
    writer.close()
    reader.close()


def test_another_process_sees_the_block() -> None:
    block = Block()
    layout = put({"x": np.arange(1000), "y": np.zeros((0, 3), np.float32)}, block)
    code = (
        "import sys; from fedbox.simulations.shared import Block, get\n"
        f"found = get(Block(int(sys.argv[1])), {layout!r})\n"
        "print(int(found['x'].sum()), found['y'].shape, found['x'].flags.writeable)"
    )
    words = [sys.executable, "-c", code, str(block.fd)]
    done = subprocess.run(words, pass_fds=[block.fd], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "499500 (0, 3) False"
    block.close()


NUMBERS = arrays_of.arrays(
    st.sampled_from(["<f4", "<f8", "<i8", "|u1", "|b1"]), arrays_of.array_shapes(min_dims=0, min_side=0, max_side=5)
)


@given(st.dictionaries(st.text(max_size=5), NUMBERS, max_size=4))
def test_arrays_survive_shared_memory(arrays: dict[str, Any]) -> None:
    block = Block()
    found = get(block, put(arrays, block))
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    block.close()


@given(st.lists(st.dictionaries(st.text(max_size=5), NUMBERS, max_size=4), min_size=1, max_size=3))
def test_messages_survive_packing(records: list[dict[str, Any]]) -> None:
    block = Block()
    with identity(1):
        for arrays in records:  # one after the other through the same memory
            content = RecordDict({"arrays": to_record(arrays), "own": to_record(arrays)})
            content["task"] = ConfigRecord({"round": 3, "phase": "train", "value.x": [1.5, 2.0]})
            content["metrics"] = MetricRecord({"loss": 0.5, "num-examples": 3})
            message = Message(content, 7, "train", group_id="3")
            found = unpack(pack(message, block), block)
            assert found.metadata == message.metadata
            assert list(found.content) == list(content)
            assert found.content == content
            for name, value in from_record(found.content.array_records["own"]).items():
                np.testing.assert_array_equal(value, arrays[name])
        failed = Message(Error(2, "broken"), reply_to=message)
        assert unpack(pack(failed, block), block).error == failed.error
    block.close()
