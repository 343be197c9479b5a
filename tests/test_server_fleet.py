"""What the server promises of its lines: slow ones live, none takes more than its share, one that has ended is deaf."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest
from chaos_for_tests import Proxy
from grpc_for_tests import Clients, Echo, ask, grid_for, wait_until

from fedbox.server import grpc_service
from fedbox.server.enrolment import Enrolment
from fedbox.server.fleet import Fleet
from fedbox.server.lines import Job, Line, Terms
from fedbox.strategies import wire_pb2 as wire
from fedbox.strategies.base import Message, RecordDict, WireError, identity, to_record, with_id
from fedbox.strategies.frames import body_of, cut

Answers = list[tuple[Message, bool]]


@pytest.fixture(autouse=True)
def _flower_identity() -> Iterator[None]:
    with identity(1):
        yield


def fleet_of(*names: str, **terms: Any) -> Fleet:
    return Fleet(Enrolment(None, names), Terms(**terms), "{}", "run")


def arrive(fleet: Fleet, name: str, *held: str) -> Line:
    return fleet.arrive(wire.Hello(name=name, oldest=1, newest=1, held=held), 1)


def job_of(task: str, answers: Answers | None = None) -> Job:
    kept = [] if answers is None else answers
    arrays = to_record({"w": np.zeros(3)})
    message = with_id(Message(RecordDict({"arrays": arrays}), 2, "train", group_id="1"), "7")
    return Job(task, message, None, lambda _job, reply, holds: kept.append((reply, holds)))


def offer(fleet: Fleet, line: Line, task: str, size: int = 10) -> None:
    fleet.hear(line, wire.ClientFrame(offer=wire.Offer(task=task, size=size)))


def reply_to(fleet: Fleet, line: Line, job: Job, chunks: bool = True) -> None:
    arrays = to_record({"w": np.ones(3)})
    body, bodies = body_of(job.task, Message(RecordDict({"arrays": arrays}), reply_to=job.message))
    fleet.hear(line, wire.ClientFrame(reply=body))
    for chunk in cut(bodies) if chunks else ():
        fleet.hear(line, wire.ClientFrame(chunk=chunk))


def test_a_client_that_is_granted_and_says_nothing_has_one_slot_and_loses_it() -> None:
    fleet = fleet_of("a", "b", uploads=2)
    silent, good = arrive(fleet, "a"), arrive(fleet, "b")
    for number in range(5):
        fleet.assign("a", job_of(f"a-{number}"))
        offer(fleet, silent, f"a-{number}")
        fleet.withdraw([f"a-{number}"])  # the round has closed
    assert fleet.uploads.free == 1
    fleet.assign("b", job_of("b-0"))
    offer(fleet, good, "b-0")
    assert good.granted == "b-0"
    silent.moved -= 2 * fleet.terms.heartbeat + 1
    fleet.tick()
    assert (fleet.uploads.free, silent.granted) == (1, "")
    with pytest.raises(WireError, match="was not granted"):
        reply_to(fleet, silent, job_of("a-0"))


def test_a_reply_that_stops_on_its_way_gives_its_slot_back_and_may_come_once_more() -> None:
    answers: Answers = []
    fleet = fleet_of("a", uploads=1)
    line, job = arrive(fleet, "a"), job_of("t", answers)
    fleet.assign("a", job)
    offer(fleet, line, "t")
    reply_to(fleet, line, job, chunks=False)
    line.moved -= 2 * fleet.terms.heartbeat + 1
    fleet.tick()
    assert fleet.uploads.free == 1
    with pytest.raises(WireError, match="belongs to no reply"):
        fleet.hear(line, wire.ClientFrame(chunk=wire.Chunk(data=b"x")))
    fleet.leave(line)
    line = arrive(fleet, "a", "t")
    offer(fleet, line, "t")
    reply_to(fleet, line, job)
    assert [holds for _, holds in answers] == [True]


def test_offers_of_one_line_are_granted_one_after_the_other() -> None:
    answers: Answers = []
    fleet = fleet_of("a")
    line, jobs = arrive(fleet, "a"), [job_of(task, answers) for task in "tu"]
    for job in jobs:
        fleet.assign("a", job)
        offer(fleet, line, job.task)
    for job in jobs:
        assert line.granted == job.task
        reply_to(fleet, line, job)
    assert len(answers) == 2
    assert fleet.uploads.free == fleet.terms.uploads - 2


def test_a_line_that_has_ended_is_not_heard() -> None:
    answers: Answers = []
    fleet = fleet_of("a")
    job = job_of("t", answers)
    fleet.assign("a", job)
    old = arrive(fleet, "a")
    offer(fleet, old, "t")
    reply_to(fleet, old, job, chunks=False)
    new = arrive(fleet, "a", "t")
    assert fleet.uploads.free == fleet.terms.uploads
    for frame in (wire.ClientFrame(chunk=wire.Chunk(data=b"x")), wire.ClientFrame(offer=wire.Offer(task="t"))):
        with pytest.raises(WireError, match="this line has ended"):
            fleet.hear(old, frame)
    fleet.leave(old)
    fleet._drop(new, "it is revoked")
    with pytest.raises(WireError, match="this line has ended"):
        offer(fleet, new, "t")
    assert (answers, fleet.uploads.free) == ([], fleet.terms.uploads)


def test_what_breaks_off_again_and_again_is_lost() -> None:
    answers: Answers = []
    fleet = fleet_of("a", tries=3)
    fleet.assign("a", job_of("sent", answers))
    for _ in range(3):
        fleet.leave(arrive(fleet, "a"))
    assert not answers
    fleet.leave(arrive(fleet, "a"))
    begun = job_of("begun", answers)
    fleet.assign("a", begun)
    for _ in range(3):
        line = arrive(fleet, "a", "begun")
        offer(fleet, line, "begun")
        reply_to(fleet, line, begun, chunks=False)
        fleet.leave(line)
    assert len(answers) == 1
    offer(fleet, arrive(fleet, "a", "begun"), "begun")
    assert [reply.error.reason for reply, _ in answers] == [
        "its task was sent 3 times, and the line broke off each time",
        "its reply began 3 times, and the line broke off each time",
    ]


def test_what_waits_for_a_client_stays_small() -> None:
    fleet = fleet_of("a", frames=5000)
    line = arrive(fleet, "a")
    with pytest.raises(WireError, match="more than 80 bytes"):
        offer(fleet, line, "t" * 81)
    for number in range(1100):
        offer(fleet, line, str(number))
    fleet.tick()
    assert fleet.stations["a"].line is None
    assert line.ended.is_set()


def test_chunks_are_small_where_the_heartbeat_is_short() -> None:
    for heartbeat in (0.5, 3.0, 30.0, 600.0):
        assert Terms(heartbeat=heartbeat).piece <= heartbeat * 2**14
    assert Terms(heartbeat=0.001).piece == 2**12
    assert Terms().piece == 2**18


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_slow_line_is_not_taken_for_a_dead_one(way: str) -> None:
    with grid_for(["client-0"], heartbeat=1.5) as grid:
        slow: dict[str, Any] = {way: 100_000.0}
        proxy = Proxy(grid.port, **slow)
        clients = Clients(f"127.0.0.1:{proxy.port}", {"client-0": Echo()})
        grid.wait_for(1, lambda _: None)
        began = time.monotonic()
        (reply,) = ask(grid, 75_000)
        assert reply.has_content()
        assert time.monotonic() - began > 2.5  # twice the heartbeat at 100 kB/s
        assert grid.fleet.counts["arrivals"] == 1
        clients.close()
        proxy.close()


def test_a_task_above_the_limit_is_not_sent() -> None:
    with grid_for(["client-0"], largest=10_000) as grid:
        clients = Clients(f"127.0.0.1:{grid.port}", {"client-0": Echo()})
        grid.wait_for(1, lambda _: None)
        (reply,) = ask(grid, 5000)
        for words in ("its task cannot be sent: a message of 2 arrays and 20,256 bytes", "10,000 bytes are taken"):
            assert words in str(reply.error.reason)
        assert grid.fleet.counts["bytes_down"] < 1000
        assert grid.fleet.counts["arrivals"] == 1
        clients.close()


@contextmanager
def deaf_client(port: int) -> Iterator[None]:
    """A client-0 that answers pings, or seems to, but reads nothing."""
    done = threading.Event()

    async def hold() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream("/fedbox.v1.Fleet/Attend", wire.ClientFrame.SerializeToString)()
            await call.write(wire.ClientFrame(hello=wire.Hello(oldest=1, newest=1, name="client-0")))
            while not done.is_set():
                await asyncio.sleep(0.02)
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the server has ended it
                    await call.write(wire.ClientFrame(pong=wire.Beat()))

    holding = threading.Thread(target=lambda: asyncio.run(hold()))
    holding.start()
    try:
        yield
    finally:
        done.set()
        holding.join()


def test_a_client_that_talks_but_does_not_read_loses_its_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(grpc_service, "_LAST_WORD", 0.2)
    caplog.set_level(logging.INFO, logger="fedbox.server")
    with grid_for(["client-0"], heartbeat=1.0, unread=0.5, grace=0.5) as grid, deaf_client(grid.port):
        wait_until(lambda: grid.fleet.stations["client-0"].line is not None)
        (reply,) = ask(grid, 5_000_000, timeout=15.0)
        assert reply.error.reason == "off line for 0.5 s"
        assert "client-0 is off line: it has read nothing for 1 s" in caplog.text
        wait_until(lambda: not any("Service._write" in repr(task) for task in asyncio.all_tasks(grid._loop)))


def test_a_client_that_does_not_read_leaves_nothing_behind_when_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_service, "_LAST_WORD", 0.2)
    with grid_for(["client-0"]) as grid, deaf_client(grid.port):
        fleet = grid.fleet
        station = fleet.stations["client-0"]
        wait_until(lambda: station.line is not None)
        line = station.line
        assert line is not None
        asking = threading.Thread(target=lambda: ask(grid, 5_000_000, timeout=2.0))
        asking.start()
        wait_until(lambda: fleet.counts["bytes_down"] > 100_000)
        grid._call(fleet._drop, line, "it is revoked")
        wait_until(lambda: not any("_write" in repr(task) for task in asyncio.all_tasks(grid._loop)))
        asking.join()


def test_a_hello_with_too_many_tasks_in_hand_is_refused() -> None:
    async def greet(port: int, held: list[str]) -> str:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(
                "/fedbox.v1.Fleet/Attend", wire.ClientFrame.SerializeToString, wire.ServerFrame.FromString
            )()
            await call.write(wire.ClientFrame(hello=wire.Hello(oldest=1, newest=1, name="client-0", held=held)))
            return str((await call.read()).refusal.reason)

    with grid_for(["client-0"]) as grid:
        assert "it names 501 tasks in hand; at most 500" in asyncio.run(greet(grid.port, [str(i) for i in range(501)]))
        assert "it names 1 tasks in hand" in asyncio.run(greet(grid.port, ["t" * 81]))
        assert grid.fleet.counts["arrivals"] == 0
