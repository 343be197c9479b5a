"""A client's line to the server. The only file of the client that imports grpc."""

import asyncio
import itertools
from typing import Any, Protocol

import grpc

from ..configs.tls import Identity, is_loopback
from ..strategies import wire_pb2 as wire
from ..strategies.base import LOST, Error, Message, WireError
from ..strategies.frames import FRAME, Intake, Outbox, body_of, cut
from ..strategies.grids import sayable

_ATTEND, _STATUS = "/fedbox.v1.Fleet/Attend", "/fedbox.v1.Fleet/Status"
_UNWELCOME = 30.0  # seconds that the server may take for its first word


class RefusedError(RuntimeError):
    """The server does not let this client in, or cannot be reached."""

    exit_code = 1


class Client(Protocol):
    """What a line needs of the client at its end."""

    name: str

    async def prepare(self, welcome: wire.Welcome, outbox: "Outbox[wire.ClientFrame]") -> None:
        """Get ready for the server's run, tell what is held here, and offer what is finished."""

    def begin(self, intake: Intake, seconds: float) -> None:
        """Take on a task."""

    def settle(self, task: str) -> None:
        """Forget a task."""

    def reply(self, task: str) -> Message | None:
        """Give the finished reply to a task."""

    def line_ended(self) -> None:
        """Hear that there is no line any more."""


async def attend(client: Client, target: str, identity: Identity | None, hello: wire.Hello) -> tuple[bool, str, bool]:
    """Open a line and serve it until it ends: whether the run is over, why it ended, whether it came about."""
    async with channel_to(target, identity) as channel:
        call = channel.stream_stream(
            _ATTEND,
            request_serializer=wire.ClientFrame.SerializeToString,
            response_deserializer=wire.ServerFrame.FromString,
        )()
        session = _Session(client, call)
        try:
            await call.write(wire.ClientFrame(hello=hello))
            return await session.serve()
        except grpc.aio.AioRpcError as error:
            return False, _told(error, identity if session.welcome is None else None), session.welcome is not None
        except asyncio.InvalidStateError:
            # gRPC refuses to write on a stream that has ended: why it ended stands in the call.
            code, details = await call.code(), await call.details()
            return False, f"{code.name.lower()}: {details}", session.welcome is not None
        except WireError as error:
            return False, f"the server sent what it must not: {error}", True
        finally:
            client.line_ended()
            session.close()


def _told(error: "grpc.aio.AioRpcError", identity: Identity | None) -> str:
    """Say why there is no line; of a handshake that fails, where there is an `identity`, gRPC tells next to nothing."""
    text = f"{error.code().name.lower()}: {error.details()}"
    if identity is not None and ("Socket closed" in text or "handshake" in text.lower()):
        text += " (perhaps one side does not accept the other's certificate: the server's log says why)"
    return text


class _Session:
    """One open stream, from the hello on."""

    def __init__(self, client: Client, call: Any) -> None:
        self.client, self.call = client, call
        self.outbox: Outbox[wire.ClientFrame] = Outbox()
        self.welcome: wire.Welcome | None = None
        self.intake: Intake | None = None
        self.seconds = 0.0
        self.end: tuple[bool, str] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

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
            self._beating = asyncio.ensure_future(self._beat(max(0.1, frame.welcome.heartbeat / 3)))
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
            body, bodies = body_of(task, reply, largest=welcome.largest)
        except Exception as error:  # a reply may hold whatever a strategy puts in, and another one will not come
            reason = sayable(f"its reply cannot be sent: {type(error).__name__}: {error}")
            body, bodies = body_of(task, Message(Error(LOST, reason), reply_to=reply))
        chunks = (wire.ClientFrame(chunk=chunk) for chunk in cut(bodies, welcome.chunk, welcome.compress))
        self.outbox.stream(itertools.chain([wire.ClientFrame(reply=body)], chunks))

    async def _write(self) -> None:
        while (frame := await self.outbox.get()) is not None:
            await self.call.write(frame)

    async def _beat(self, every: float) -> None:
        """Say now and then that the client is there: the server's pings may be stuck behind a task on its way here."""
        while True:
            await asyncio.sleep(every)
            if not self.outbox.urgent:
                self.outbox.put(wire.ClientFrame(pong=wire.Beat()))

    def close(self) -> None:
        """End what is still under way on this line; the client's work goes on."""
        for task in (self._writing, self._preparing, self._beating):
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
    if is_loopback(target.rpartition(":")[0]):  # else, by http_proxy, it would leave the machine, even without TLS
        options.append(("grpc.enable_http_proxy", 0))
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
