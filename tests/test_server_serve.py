"""A served run from its start-up to its end: faults before the first round, hostile replies, ends told twice."""

import asyncio
import gc
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_for_tests import TOY, Clients, Echo, grid_for, serve_to, wait_until

import fedbox
from fedbox.client.grpc_line import ask_status
from fedbox.client.join import SiteWork
from fedbox.client.workspace import forget
from fedbox.configs import ConfigError
from fedbox.server import serve as serving
from fedbox.server.grpc_service import ListenError
from fedbox.server.records import read_rounds
from fedbox.server.serve import Host, serve
from fedbox.server.session import check
from fedbox.strategies.base import Array, Message, MetricRecord, identity

NAMES = ["client-0", "client-1", "client-2"]


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with identity(1):
        yield
    forget()


class Hostile(SiteWork):
    """Works as it should, and changes each reply by `trick`: what the metrics and the arrays say."""

    def __init__(self, state: Path, tricks: list[dict[str, Any]], measured: dict[str, float]) -> None:
        super().__init__("client-1", None, None, state)
        self.tricks, self.measured = tricks, measured

    def answer(self, message: Message) -> Message:
        reply = super().answer(message)
        metrics: MetricRecord = reply.content["metrics"]  # type: ignore[assignment]
        if message.metadata.message_type == "evaluate":
            metrics.update(self.measured)
            return reply
        trick = dict(self.tricks.pop(0))
        header = trick.pop("header", None)
        metrics.update(trick)
        if header is not None:
            arrays: Any = reply.content["arrays"]
            data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            arrays[next(iter(arrays))] = Array("float32", (1,), "numpy.ndarray", data)
        return reply


def served(out: Path, work: dict[str, Any], **changes: Any) -> tuple[fedbox.Result, Clients]:
    """Serve a run to clients on another thread."""
    return serve_to(work, check({**TOY, **changes}), out)


def test_one_clients_replies_cost_the_run_nothing_but_that_client(tmp_path: Path) -> None:
    tricks = [
        {"num-examples": float("inf")},
        {"num-examples": float("nan")},
        {"train_loss": [1.0, 2.0]},
        {"header": b"{'descr': ("},
        {"header": b"-" * 9000 + b"1"},
        {"train_loss": 1.7e308},
    ]
    work: dict[str, Any] = {name: SiteWork(name, None, None, tmp_path / name) for name in NAMES}
    work["client-1"] = Hostile(tmp_path / "client-1", tricks.copy(), {"accuracy": 1e200, "loss": 1.7e308})
    data = {**TOY["data"], "test_share": 0.2}
    result, clients = served(tmp_path / "run", work, rounds=6, data=data, evaluate={"clients": "all"})
    assert result.summary["status"] == "completed"
    failures = [record["failures"] for record in result.rounds]
    told = ["num-examples is inf", "num-examples is nan", "metric 'train_loss' is a list", *["not in .npy format"] * 2]
    for (failure,), words in zip(failures[:5], told, strict=True):
        assert (failure["client"], failure["kind"]) == ("client-1", "refused")
        assert words in failure["reason"]
    assert failures[5] == []
    assert "train_loss" not in result.rounds[5]["clients"]["client-1"]
    for record in result.rounds:
        assert set(record["clients"]["client-1"]) & {"accuracy", "loss"} == set()
        assert 0 < record["metrics"]["client_accuracy"] < 1
        assert np.isfinite([record["metrics"][name] for name in ("train_loss", "client_loss")]).all()
    assert set(clients.words.values()) == {"the run is complete"}


def test_a_run_with_no_rounds_left_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LINGER", 0.3)
    work = {name: SiteWork(name, None, None, tmp_path / name) for name in NAMES}
    first, _ = served(tmp_path / "run", work)
    for name in ("summary.json", "report.html"):  # as if it had been killed before it wrote them
        (first.folder / name).unlink()
    monkeypatch.setattr(serving, "_await_clients", lambda *_: pytest.fail("it waits for clients"))
    again = serve(check(TOY), Host("127.0.0.1:0"), out=first.folder, resume=True)
    assert again.summary["status"] == "completed"
    assert again.summary["model_sha256"] == first.summary["model_sha256"]
    assert (first.folder / "report.html").exists()
    stop = {"stop": {"metric": "train_loss", "target": 1000.0}}  # reached in round 1
    stopped = serve(check({**TOY, "rounds": 9, "evaluate": stop}), Host("127.0.0.1:0"), out=first.folder, resume=True)
    assert stopped.summary["status"] == "stopped"


def test_status_tells_after_a_resume_what_is_done_already_and_in_the_end_how_it_ended(tmp_path: Path) -> None:
    work = {name: SiteWork(name, None, None, tmp_path / name) for name in NAMES}
    first, _ = served(tmp_path / "run", work, rounds=2)
    found: list[dict[str, Any]] = []

    def look(port: int) -> None:
        found.append(json.loads(asyncio.run(ask_status(f"127.0.0.1:{port}", None))))
        clients = Clients(f"127.0.0.1:{port}", {name: SiteWork(name, None, None, tmp_path / name) for name in NAMES})
        threading.Thread(target=clients.join).start()

    serve(check({**TOY, "rounds": 3}), Host("127.0.0.1:0"), out=first.folder, resume=True, listening=look)
    assert (found[0]["state"], found[0]["round"], found[0]["rounds"]) == ("waiting for clients", 2, 3)
    assert found[0]["metrics"]["accuracy"] == first.summary["metrics"]["accuracy"]
    watcher = serving.Watcher(check(TOY))
    watcher.on_end({"status": "completed"})
    assert watcher.status()["state"] == "completed"


def test_clients_that_still_ask_are_told_by_a_resumed_server_that_the_run_is_over(tmp_path: Path) -> None:
    work = {name: SiteWork(name, None, None, tmp_path / name) for name in NAMES}
    first, _ = served(tmp_path / "run", work, rounds=1)
    late: list[Clients] = []

    def begin(port: int) -> None:
        late.append(Clients(f"127.0.0.1:{port}", {name: Echo() for name in NAMES}))

    serve(check({**TOY, "rounds": 1}), Host("127.0.0.1:0"), out=first.folder, resume=True, listening=begin)
    late[0].join()
    assert set(late[0].words.values()) == {"the run is complete"}


def test_an_interrupt_while_the_last_are_awaited_ends_the_wait_only(caplog: pytest.LogCaptureFixture) -> None:
    with grid_for(NAMES[:1]) as grid, caplog.at_level(logging.ERROR, "asyncio"):
        clients = Clients(f"127.0.0.1:{grid.port}", {NAMES[0]: Echo()})
        grid.wait_for(1, lambda _: None)
        clients.close()
        wait_until(lambda: grid.fleet.stations[NAMES[0]].line is None)
        main = threading.main_thread().ident
        assert main is not None
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT))
        try:
            timer.start()
            began = time.monotonic()
            grid.close("the run is complete", over=True, linger=30.0)
        except KeyboardInterrupt:
            pytest.fail("the run was complete")
        finally:
            timer.join()
            signal.signal(signal.SIGINT, before)
        assert 0.4 < time.monotonic() - began < 10
        assert not grid._thread.is_alive()
        gc.collect()
        assert "Task was destroyed" not in caplog.text


def test_faults_of_the_start_are_told_and_leave_the_folder_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        faults: list[tuple[Host, type[Exception], str]] = [
            (
                Host("127.0.0.1:0", wait_for=4),
                ConfigError,
                r"--wait-for: got 4, but only 3 may join \(client-0,",
            ),
            (Host("127.0.0.1:0", metrics_port=port), ConfigError, f"--metrics-port: cannot listen on 127.0.0.1:{port}"),
            (Host("127.0.0.1:0", metrics_port=99999), ConfigError, "--metrics-port: cannot listen on 127.0.0.1:99999"),
            (Host(f"127.0.0.1:{port}"), ListenError, f"cannot listen on 127.0.0.1:{port}"),
        ]
        for service, kind, told in faults:
            with pytest.raises(kind, match=told):
                serve(check(TOY), service, out=tmp_path / "run")
            assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    unfit = check({**TOY, "strategy": "fedsto"})
    with pytest.raises(ValueError, match="needs images with boxes"):
        serve(unfit, Host("127.0.0.1:0"), out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert [thread for thread in threading.enumerate() if thread.name == "fedbox-grpc"] == []
    assert not read_rounds(tmp_path / "run" / "rounds.jsonl")
