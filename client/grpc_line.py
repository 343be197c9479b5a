"""A client's line to the server over gRPC: it comes back by itself, and a finished reply waits until it is taken."""

import asyncio
import itertools
import logging
import random
import time
from concurrent.futures import Executor
from typing import Any, Protocol

import grpc

from .. import __version__
from ..configs.tls import Identity
from ..strategies import wire_pb2 as wire
from ..strategies.base import LOST, Error, Message, WireError
from ..strategies.frames import FRAME, NEWEST, OLDEST, Intake, Outbox, body_of, cut

log = logging.getLogger("fedbox.client")

_ATTEND, _STATUS = "/fedbox.v1.Fleet/Attend", "/fedbox.v1.Fleet/Status"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 15.0
_UNWELCOME = 30.0  # seconds that the server may take for its first word
_STABLE = 3.0  # seconds after which a line counts as good, and the pauses begin anew


class RefusedError(RuntimeError):
    """The server does not let this client in, or cannot be reached."""

    exit_code = 1


class Work(Protocol):
    """What a client does on its line; both calls may take long, and are made on another thread."""

    def prepare(self, config: str, run: str, number: int) -> dict[str, int]:
        """Get ready for a run; say what the client holds: labelled, unlabelled, test, classes."""

    def answer(self, message: Message) -> Message:
        """Give the reply to a task's message, whatever happens."""


class Attendant:
    """One client: keeps a line to the server and works on what comes over it, one task at a time."""

    def __init__(self, target: str, name: str, identity: Identity | None, work: Work, pool: Executor) -> None:
        self.target, self.name = target, name
        self._identity = identity
        self._work, self._pool = work, pool
        self._held: dict[str, Message | None] = {}
        """Replies that the server has not settled; None while the task is under way."""
        self._ready: tuple[str, str, int] | None = None
        self._counts: dict[str, int] = {}
        self._outbox: Outbox[wire.ClientFrame] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = random.Random()

    async def run(self, give_up: float | None = None) -> str:
        """Serve until the run is over; give the server's last word.

        `give_up`: seconds without a line after which RefusedError is raised; None tries for ever.
        """
        pause, lost = _FIRST_PAUSE, time.monotonic()
        while True:
            began = time.monotonic()
            over, reason, good = await self._attend()
            if over:
                return reason
            now = time.monotonic()
            if good:
                lost = now
            if good and now - began > _STABLE:
                pause = _FIRST_PAUSE
            if give_up is not None and now - lost > give_up:
                raise RefusedError(
                    f"{self.name}: no line to {self.target} for {give_up:g} s; the last reason: {reason}"
                )
            wait = self._random.uniform(pause / 2, pause)
            told = {"client": self.name, "reason": reason}
            log.warning("%s: no line to %s: %s; again in %.1f s", self.name, self.target, reason, wait, extra=told)
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _attend(self) -> tuple[bool, str, bool]:
        """Open a line and serve it until it ends: whether the run is over, why it ended, whether it came about."""
        async with channel_to(self.target, self._identity) as channel:
            call = channel.stream_stream(
                _ATTEND,
                request_serializer=wire.ClientFrame.SerializeToString,
                response_deserializer=wire.ServerFrame.FromString,
            )()
            session = _Session(self, call)
            try:
                await call.write(wire.ClientFrame(hello=self._hello()))
                return await session.serve()
            except grpc.aio.AioRpcError as error:
                return False, self._told(error), session.welcome is not None
            except asyncio.InvalidStateError:
                # gRPC refuses to write on a stream that has ended: why it ended stands in the call.
                code, details = await call.code(), await call.details()
                return False, f"{code.name.lower()}: {details}", session.welcome is not None
            except WireError as error:
                return False, f"the server sent what it must not: {error}", True
            finally:
                self._outbox = None
                session.close()

    def _told(self, error: "grpc.aio.AioRpcError") -> str:
        """Say why there is no line; of a handshake that fails gRPC tells the client next to nothing."""
        text = f"{error.code().name.lower()}: {error.details()}"
        if self._identity is not None and ("Socket closed" in text or "handshake" in text.lower()):
            text += " (perhaps one side does not accept the other's certificate: the server's log says why)"
        return text

    def _hello(self) -> wire.Hello:
        return wire.Hello(oldest=OLDEST, newest=NEWEST, name=self.name, release=__version__, held=list(self._held))

    async def prepare(self, welcome: wire.Welcome, outbox: "Outbox[wire.ClientFrame]") -> None:
        """Get ready for the server's run, tell what is held here, and offer what is finished."""
        wanted = (welcome.config, welcome.run, welcome.number)
        if self._ready != wanted:
            loop = asyncio.get_running_loop()
            self._counts = await loop.run_in_executor(self._pool, self._work.prepare, *wanted)
            self._ready = wanted
        outbox.put(wire.ClientFrame(holding=wire.Holding(**self._counts)))
        self._outbox = outbox
        for task, reply in self._held.items():
            if reply is not None:
                self._offer(task, reply)

    def begin(self, intake: Intake, seconds: float) -> None:
        """Take on a task."""
        if intake.task not in self._held:
            self._held[intake.task] = None
            doing = asyncio.ensure_future(self._do(intake, time.monotonic() + seconds if seconds else None))
            self._tasks.add(doing)
            doing.add_done_callback(self._tasks.discard)

    def settle(self, task: str) -> None:
        """Forget a task; one that is under way ends for nothing."""
        self._held.pop(task, None)

    def reply(self, task: str) -> Message | None:
        """Give the finished reply to a task."""
        return self._held.get(task)

    async def _do(self, intake: Intake, deadline: float | None) -> None:
        reply = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, intake, deadline)
        if intake.task not in self._held:
            return
        if reply is None:
            self._held.pop(intake.task)
            return
        self._held[intake.task] = reply
        self._offer(intake.task, reply)

    def _answer(self, intake: Intake, deadline: float | None) -> Message | None:
        """Work on a task, unless it was settled or ran out of time while it waited for its turn."""
        if intake.task not in self._held or (deadline is not None and time.monotonic() > deadline):
            return None
        return self._work.answer(intake.message())

    def _offer(self, task: str, reply: Message) -> None:
        if self._outbox is not None:
            records = reply.content.array_records.values() if reply.has_content() else ()
            size = sum(len(array.data) for record in records for array in record.values())
            self._outbox.put(wire.ClientFrame(offer=wire.Offer(task=task, size=size)))

    async def leave(self) -> None:
        """Say good-bye, if there is a line."""
        if self._outbox is not None:
            self._outbox.put(wire.ClientFrame(bye=wire.Bye(reason="the client stops")))
            await asyncio.sleep(0.2)


class _Session:
    """One open stream, from the hello on."""

    def __init__(self, client: Attendant, call: Any) -> None:
        self.client, self.call = client, call
        self.outbox: Outbox[wire.ClientFrame] = Outbox()
        self.welcome: wire.Welcome | None = None
        self.intake: Intake | None = None
        self.seconds = 0.0
        self.end: tuple[bool, str] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def serve(self) -> tuple[bool, str, bool]:
        """Take frames until the line ends."""
        self._writing = asyncio.ensure_future(self._write())
        while self.end is None:
            silence = 2 * self.welcome.heartbeat if self.welcome else _UNWELCOME
            reading = asyncio.ensure_future(self.call.read())
            if not await self._heard(reading, silence):
                reading.cancel()
                return False, f"nothing heard for {silence:g} s", self.welcome is not None
            frame = reading.result()
            if frame is grpc.aio.EOF:
                code, details = await self.call.code(), await self.call.details()
                return False, f"the line ended ({code.name.lower()}{': ' + details if details else ''})", True
            self.take(frame)
        return *self.end, True

    def take(self, frame: wire.ServerFrame) -> None:
        """Take one frame. Raises WireError, and RefusedError when the server does not want this client."""
        kind = frame.WhichOneof("frame")
        if kind == "chunk" and self.intake is not None:
            self.intake.take(frame.chunk)
            self._finish()
        elif kind == "task" and self.welcome is not None:
            self.intake = Intake(frame.task, self.welcome.largest, self.welcome.chunk)
            self.seconds = frame.task.seconds
            self._finish()
        elif kind == "grant":
            self._send(frame.grant.task)
        elif kind == "settled":
            self.client.settle(frame.settled.task)
        elif kind == "ping":
            self.outbox.put(wire.ClientFrame(pong=wire.Beat()))
        elif kind == "welcome":
            self.welcome = frame.welcome
            self._preparing = asyncio.ensure_future(self.client.prepare(frame.welcome, self.outbox))
        elif kind == "bye":
            self.end = frame.bye.over, frame.bye.reason
        elif kind == "refusal":
            if frame.refusal.final:
                raise RefusedError(f"the server refuses {self.client.name}: {frame.refusal.reason}")
            self.end = False, frame.refusal.reason
        else:
            raise WireError(f"a frame of kind {kind} has no place here")

    async def _heard(self, reading: "asyncio.Future[Any]", seconds: float) -> bool:
        """Wait for a frame; what went wrong meanwhile with the client's own data is raised here."""
        while self._preparing is not None:
            await asyncio.wait((reading, self._preparing), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not self._preparing.done():
                return reading.done()
            preparing, self._preparing = self._preparing, None
            preparing.result()
        await asyncio.wait((reading,), timeout=seconds)
        return reading.done()

    def _finish(self) -> None:
        if self.intake is not None and self.intake.complete:
            self.client.begin(self.intake, self.seconds)
            self.intake = None

    def _send(self, task: str) -> None:
        reply, welcome = self.client.reply(task), self.welcome
        if reply is None or welcome is None:
            return
        try:
            body, bodies = body_of(task, reply)
        except WireError as error:
            body, bodies = body_of(task, Message(Error(LOST, str(error)), reply_to=reply))
        chunks = (wire.ClientFrame(chunk=chunk) for chunk in cut(bodies, welcome.chunk, welcome.compress))
        self.outbox.stream(itertools.chain([wire.ClientFrame(reply=body)], chunks))

    async def _write(self) -> None:
        while (frame := await self.outbox.get()) is not None:
            await self.call.write(frame)

    def close(self) -> None:
        """End what is still under way on this line; the client's work goes on."""
        for task in (self._writing, self._preparing):
            if task is not None:
                task.cancel()
        self.call.cancel()


def channel_to(target: str, identity: Identity | None) -> Any:
    """Open a channel, with mutual TLS unless there is no identity."""
    options = [
        ("grpc.max_receive_message_length", FRAME),
        ("grpc.max_send_message_length", FRAME),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each client
        ("grpc.initial_reconnect_backoff_ms", 100),
    ]
    if identity is None:
        return grpc.aio.insecure_channel(target, options)
    secure = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    return grpc.aio.secure_channel(target, secure, options)


async def ask_status(target: str, identity: Identity | None, timeout: float = 10.0) -> str:
    """Give the server's status as JSON. Raises RefusedError."""
    async with channel_to(target, identity) as channel:
        call = channel.unary_unary(
            _STATUS,
            request_serializer=wire.StatusRequest.SerializeToString,
            response_deserializer=wire.StatusReply.FromString,
        )
        try:
            reply: wire.StatusReply = await call(wire.StatusRequest(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise RefusedError(f"{target} does not answer ({error.code().name.lower()}): {error.details()}") from error
        return reply.json


__all__ = ["Attendant", "RefusedError", "Work", "ask_status", "channel_to"]
