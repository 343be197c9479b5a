"""Frames: what is cut comes together again, whatever the sizes; what is not one of ours is refused, whatever it is.

`FEDBOX_FUZZ=100000 pytest tests/test_wire_frames.py` tries that many inputs in each of the fuzzing tests.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedbox.server.enrolment import Enrolment
from fedbox.server.fleet import Fleet
from fedbox.server.lines import Job, Line, Terms
from fedbox.strategies import wire_pb2 as wire
from fedbox.strategies.base import (
    ConfigRecord,
    Message,
    RecordDict,
    WireError,
    identity,
    pack_message,
    read_task,
    read_update,
    to_record,
    unpack_message,
)
from fedbox.strategies.frames import Intake, Outbox, body_of, cut

FUZZ = settings(
    max_examples=int(os.environ.get("FEDBOX_FUZZ", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
bodies = st.lists(st.binary(max_size=70), max_size=8)


@pytest.fixture(autouse=True, scope="module")
def _flower_identity() -> Iterator[None]:
    with identity(1):
        yield


def example(size: int = 5) -> Message:
    arrays = to_record({"w": np.arange(size, dtype=np.float32), "none": np.zeros(0), "n": np.asarray(3)})
    return Message(RecordDict({"arrays": arrays, "task": ConfigRecord({"round": 1, "phase": "train"})}), 2, "train")


@given(bodies, st.integers(1, 80), st.booleans())
def test_chunks_are_full_and_join_to_the_bodies(parts: list[bytes], size: int, compress: bool) -> None:
    chunks = list(cut(parts, size, compress))
    intake = Intake(wire.Body(task="t", sizes=[len(part) for part in parts]), chunk=size)
    for chunk in chunks:
        assert not intake.complete
        intake.take(chunk)
    assert intake.complete
    assert intake._bodies == parts
    plain = list(cut(parts, size))
    assert all(len(chunk.data) == size for chunk in plain[:-1])
    assert b"".join(chunk.data for chunk in plain) == b"".join(parts)


def test_a_message_travels_without_its_arrays_bytes_in_the_head() -> None:
    message = example(100_000)
    head, parts = pack_message(message)
    assert len(head) < 1000
    assert [len(part) for part in parts] == [len(a.data) for a in message.content.array_records["arrays"].values()]
    round_, phase, _, arrays = read_task(unpack_message(head, parts).content)
    assert (round_, phase) == (1, "train")
    np.testing.assert_array_equal(arrays["w"], np.arange(100_000, dtype=np.float32))


def test_a_message_larger_than_agreed_is_refused_before_it_comes() -> None:
    body, parts = body_of("t", example(1000))
    with pytest.raises(WireError, match="arrays and 3,999 bytes are taken"):
        Intake(body, largest=3999)
    intake = Intake(body, chunk=100)
    with pytest.raises(WireError, match="a chunk of"):
        intake.take(wire.Chunk(data=bytes(101)))
    bomb = wire.Chunk(data=next(cut([bytes(2**20)], compress=True)).data, packed=True)
    with pytest.raises(WireError, match="a chunk of 101 bytes"):
        Intake(body, chunk=100).take(bomb)
    assert parts


def test_urgent_frames_overtake_streams() -> None:
    async def take() -> list[int | None]:
        box: Outbox[int] = Outbox()
        box.stream(iter([1, 2]))
        box.stream(iter([3]))
        found = [await box.get()]
        box.put(9)
        found += [await box.get() for _ in range(3)]
        box.close()
        return [*found, await box.get()]

    assert asyncio.run(take()) == [1, 9, 2, 3, None]


@FUZZ
@given(st.binary(max_size=300), bodies)
def test_any_bytes_make_a_message_or_a_wire_error(head: bytes, parts: list[bytes]) -> None:
    _read(head, parts)


@FUZZ
@given(st.data())
def test_a_damaged_message_makes_a_message_or_a_wire_error(data: st.DataObject) -> None:
    head, parts = pack_message(example())
    damaged = bytearray(head)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(max_size=8))
        else:
            del damaged[at : at + data.draw(st.integers(1, 8))]
        if not damaged:
            break
    parts[0] = data.draw(st.one_of(st.just(parts[0]), st.binary(max_size=200)))
    _read(bytes(damaged), parts)


def _read(head: bytes, parts: list[bytes]) -> None:
    try:
        message = unpack_message(head, parts)
        if message.has_content():
            for read in (read_task, read_update):
                try:
                    read(message.content)
                except WireError:
                    continue
    except WireError:
        pass


frames = st.one_of(
    st.builds(
        lambda t, n: wire.ClientFrame(offer=wire.Offer(task=t, size=n)), st.sampled_from("tu"), st.integers(0, 99)
    ),
    st.builds(
        lambda t, h, s: wire.ClientFrame(reply=wire.Body(task=t, head=h, sizes=s)),
        st.sampled_from("tu"),
        st.binary(max_size=20),
        st.lists(st.integers(0, 2**64 - 1), max_size=3),
    ),
    st.builds(lambda d, p: wire.ClientFrame(chunk=wire.Chunk(data=d, packed=p)), st.binary(max_size=40), st.booleans()),
    st.just(wire.ClientFrame(pong=wire.Beat())),
    st.just(wire.ClientFrame(hello=wire.Hello(name="a", newest=1))),
    st.just(wire.ClientFrame(bye=wire.Bye(reason="x"))),
    st.just(wire.ClientFrame()),
    st.builds(lambda n: wire.ClientFrame(holding=wire.Holding(labelled=n)), st.integers(0, 2**64 - 1)),
)


@FUZZ
@given(st.lists(frames, max_size=12))
def test_any_frames_leave_the_fleet_whole(sequence: list[wire.ClientFrame]) -> None:
    answers: list[Any] = []
    fleet = Fleet(Enrolment(None, ["a"]), Terms(uploads=2, largest=1000, chunk=32), "{}", "run")
    job = Job("t", example(), None, lambda job, reply, holds: answers.append((reply, holds)))
    line = fleet.arrive(wire.Hello(name="a", newest=1), 1)
    fleet.assign("a", job)
    try:
        for frame in sequence:
            fleet.hear(line, frame)
    except WireError as error:
        line.end(str(error))
    fleet.leave(line)
    assert len(answers) <= 1
    assert fleet.uploads.free == 2 - sum(holds for _, holds in answers)
    assert (len(answers) == 1) == ("t" not in fleet.stations["a"].jobs)
    again = fleet.arrive(wire.Hello(name="a", newest=1), 1)  # another line of the same client is as good as new
    assert isinstance(again, Line)


def test_too_many_frames_end_a_line() -> None:
    fleet = Fleet(Enrolment(None, ["a"]), Terms(frames=50), "{}", "run")
    line = fleet.arrive(wire.Hello(name="a", newest=1), 1)

    def flood() -> None:
        for _ in range(1000):
            fleet.hear(line, wire.ClientFrame(pong=wire.Beat()))

    with pytest.raises(WireError, match="50 frames a second"):
        flood()
