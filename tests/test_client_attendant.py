"""A client of a served run: whatever its work gives back, the server hears of it; and it goes when it is sent away."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chaos_for_tests import Proxy
from grpc_for_tests import Clients, Echo, ask, grid_for, identity_of, wait_until

from fedbox.client.attendant import Attendant
from fedbox.client.driver import drive
from fedbox.server.certificates import make_certificates
from fedbox.server.enrolment import Enrolment
from fedbox.server.fleet import Fleet
from fedbox.server.lines import Job, Terms
from fedbox.strategies import wire_pb2 as wire
from fedbox.strategies.base import RAISED, ConfigRecord, Context, Error, Message, RecordDict, identity, with_id
from fedbox.strategies.frames import Intake


@pytest.fixture(autouse=True)
def _flower_identity() -> Iterator[None]:
    with identity(1):
        yield


class Foreign(Echo):
    """Raises what names a file that is not in UTF-8, or answers with such a name."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def answer(self, message: Message) -> Message:
        name = "/data/caf\udce9.png"

        def app(_message: Message, _context: Context) -> Message:
            raise OSError(name)

        if self.where == "raised":
            return drive(app, message, Context(1, 2, {}, RecordDict(), {}))
        if self.where == "error":
            return Message(Error(RAISED, name), reply_to=message)
        return Message(RecordDict({"config": ConfigRecord({"file": name})}), reply_to=message)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("raised", "OSError: /data/caf?.png (test_client_attendant.py"),
        ("error", "its reply cannot be sent: UnicodeEncodeError: "),
        ("content", "its reply cannot be sent: UnicodeEncodeError: "),
    ],
)
def test_a_reply_that_cannot_travel_is_told_and_the_client_goes_on(where: str, told: str) -> None:
    with grid_for(["client-0"]) as grid:
        clients = Clients(f"127.0.0.1:{grid.port}", {"client-0": Foreign(where)})
        grid.wait_for(1, lambda _: None)
        for _ in range(2):
            (reply,) = ask(grid, 10)
            assert str(reply.error.reason).startswith(told)
        assert grid.fleet.counts["arrivals"] == 1
        clients.close()


def test_a_task_that_cannot_be_read_is_answered() -> None:
    async def begin() -> Message | None:
        with ThreadPoolExecutor(1) as pool:
            attendant = Attendant("127.0.0.1:1", "client-0", None, Echo(), pool)
            attendant.begin(Intake(wire.Body(task="t", head=b"\xff\xff")), 0.0)
            await asyncio.gather(*attendant._tasks)
            return attendant.reply("t")

    reply = asyncio.run(begin())
    assert reply is not None
    assert str(reply.error.reason).startswith("the client cannot read its task: not a message of Flower")


@pytest.mark.parametrize("keep", [False, True])
def test_tasks_that_run_out_of_time_at_a_busy_client_are_held_by_nobody(keep: bool) -> None:
    echo = Echo()
    with grid_for(["client-0"]) as grid:
        clients = Clients(f"127.0.0.1:{grid.port}", {"client-0": echo})
        attendant, station = clients.attendants["client-0"], grid.fleet.stations["client-0"]
        grid.wait_for(1, lambda _: None)
        echo.gate.clear()
        for _ in range(6):
            assert ask(grid, timeout=0.15, keep_late=keep) == []
        assert len(attendant._waiting) <= 2  # of six; their time begins when they have come
        wait_until(lambda: not [job for job in station.jobs.values() if list(job.message.content)])
        time.sleep(0.2)  # until the last one's time is over at the client as well
        echo.gate.set()
        wait_until(lambda: not [task for task, reply in attendant._held.items() if reply is None])
        (reply,) = ask(grid)
        assert reply.has_content()
        assert list(station.jobs) == []
        assert len(grid.late_replies()) == keep
        clients.close()


@pytest.mark.parametrize("held", [True, False])
def test_a_late_task_is_forgotten_when_the_client_comes_back_without_it(held: bool) -> None:
    fleet = Fleet(Enrolment(None, ["a"]), Terms(), "{}", "run")
    message = with_id(Message(RecordDict(), 2, "train"), "7")
    fleet.assign("a", Job("t", message, 0.0, lambda *_: None))
    fleet.withdraw(["t"], keep=True)
    fleet.arrive(wire.Hello(name="a", oldest=1, newest=1, held=["t"] if held else []), 1)
    assert list(fleet.stations["a"].jobs) == ["t"] * held


def test_a_line_that_drops_later_is_not_laid_to_the_certificates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificates(tmp_path, ["localhost"], ["client-0"])
    with grid_for(["client-0"], identity_of(tmp_path, "server")) as grid:
        proxy = Proxy(grid.port)
        clients = Clients(f"localhost:{proxy.port}", {"client-0": Echo()}, identity_of(tmp_path, "client-0"))
        grid.wait_for(1, lambda _: None)
        caplog.clear()
        proxy.cut()
        wait_until(lambda: "no line to" in caplog.text)
        assert "certificate" not in caplog.text
        clients.close()
        proxy.close()


class Reading(Echo):
    """Reads its data until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared = 0
        self.gate.clear()

    def prepare(self, config: str, run: str, number: int, classes: Sequence[str]) -> dict[str, int]:
        self.prepared += 1
        self.gate.wait(20)
        return super().prepare(config, run, number, classes)


def test_a_line_that_drops_while_the_data_are_read_does_not_have_them_read_again() -> None:
    work = Reading()
    with grid_for(["client-0"]) as grid:
        proxy = Proxy(grid.port)
        clients = Clients(f"127.0.0.1:{proxy.port}", {"client-0": work})
        for number in (1, 2):
            wait_until(lambda number=number: grid.fleet.counts["arrivals"] == number)
            wait_until(lambda: work.prepared > 0)
            proxy.cut()
        work.gate.set()
        grid.wait_for(1, lambda _: None)
        assert work.prepared == 1
        clients.close()
        proxy.close()


_BUSY = """
import sys, time
from fedbox.__main__ import main
from fedbox.client.join import SiteWork
SiteWork.prepare = lambda *_: {"labelled": 1, "unlabelled": 0, "test": 0, "classes": 10}
SiteWork.answer = lambda *_: time.sleep(60)
sys.argv = ["fedbox", "join", *sys.argv[1:], "--insecure", "--log", "json"]
main()
"""


def test_a_client_that_is_refused_goes_though_it_is_at_work(tmp_path: Path) -> None:
    listed = tmp_path / "clients.txt"
    listed.write_text("client-0\n")
    with grid_for([], path=listed) as grid:
        words = [f"127.0.0.1:{grid.port}", "--name", "client-0", "--state", str(tmp_path / "state")]
        client = subprocess.Popen([sys.executable, "-c", _BUSY, *words], stderr=subprocess.PIPE, text=True)
        asking = threading.Thread(target=lambda: ask(grid, 10))
        try:
            grid.wait_for(1, lambda _: None)
            asking.start()
            wait_until(lambda: bool(grid.fleet.stations["client-0"].jobs))
            time.sleep(0.3)  # the task gets there, and the work begins
            listed.write_text("client-0 revoked\n")
            _, said = client.communicate(timeout=15)
        finally:
            client.kill()
        asking.join(10)
    assert client.returncode == 1
    assert said.splitlines()[-1] == "error: the server refuses client-0: client-0 is revoked"
