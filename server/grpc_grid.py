"""The gRPC Grid: carries Flower messages to clients on other machines, each on a stream that it opened itself.

gRPC runs on a thread of its own with an event loop; the round loop stays where it is and takes replies from a queue.
"""

import asyncio
import hashlib
import json
import logging
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from .. import __version__
from ..configs.tls import Identity
from ..strategies import wire_pb2 as wire
from ..strategies.base import Message, WireError
from ..strategies.frames import FRAME, NEWEST, OLDEST
from ..strategies.grids import StreamGrid
from .fleet import Fleet, Job, Line
from .roster import NamedRoster

log = logging.getLogger("fedbox.server")

_HELLO_SECONDS = 10.0
_TICK = 0.5
_SERVICE = "fedbox.v1.Fleet"


class ListenError(RuntimeError):
    """The server cannot listen where it is told to."""

    exit_code = 1


class GrpcGrid(StreamGrid):
    """A Grid over the clients of a fleet. `listen` is HOST:PORT; port 0 takes a free one, told by `port`."""

    def __init__(self, fleet: Fleet, listen: str, identity: Identity | None, life: str) -> None:
        super().__init__()
        self.fleet = fleet
        self.roster = NamedRoster({name: station.node for name, station in fleet.stations.items()})
        self.port = 0
        self.status: Callable[[], dict[str, Any]] = dict
        self._names = {station.node: name for name, station in fleet.stations.items()}
        self._life = life
        self._late: queue.SimpleQueue[tuple[Job, Message]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name="fedbox-grpc", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(listen, identity), self._loop).result(30)

    def get_node_ids(self) -> Iterable[int]:
        """Give the node ids of all clients on the list."""
        return list(self._names)

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, keep_late: bool = False
    ) -> Iterator[Message]:
        """Give the replies as they come; after `timeout` seconds no more come.

        With `keep_late` a reply that comes later waits for `late_replies`; else it is dropped.
        """
        replies: queue.SimpleQueue[tuple[Job, Message, bool]] = queue.SimpleQueue()
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting: set[str] = set()

        def answer(job: Job, reply: Message, holds: bool) -> None:
            if job.late:
                self._late.put((job, reply))
                if holds:
                    self.fleet.release()
            else:
                replies.put((job, reply, holds))

        for message in messages:
            stamped = self.stamped(message)
            job = Job(f"{self._life}-{stamped.metadata.message_id}", stamped, deadline, answer)
            waiting.add(job.task)
            self._call(self.fleet.assign, self._names[message.metadata.dst_node_id], job)
        try:
            while waiting:
                left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                if left <= 0:
                    return
                try:
                    job, reply, holds = replies.get(timeout=left)
                except queue.Empty:
                    continue
                waiting.discard(job.task)
                yield reply
                if holds:
                    self._call(self.fleet.release)
        finally:
            self._call(self._abandon, waiting, keep_late, replies)

    def _abandon(
        self, waiting: set[str], keep_late: bool, replies: "queue.SimpleQueue[tuple[Job, Message, bool]]"
    ) -> None:
        """Let go of what nobody waits for any more, on the loop's thread: no reply can come in between."""
        self.fleet.withdraw(waiting, keep_late)
        while not replies.empty():
            job, reply, holds = replies.get()
            if keep_late:
                self._late.put((job, reply))
            if holds:
                self.fleet.release()

    def late_replies(self) -> list[Message]:
        """Give the replies to earlier rounds that have come since this was last asked."""
        found = []
        while not self._late.empty():
            found.append(self._late.get()[1])
        return found

    def wait_for(self, wanted: int, told: Callable[[list[str]], None], every: float = 10.0) -> None:
        """Wait until so many clients are on line and have said what they hold; tell now and then who is missing."""
        due = 0.0
        while True:
            ready = [s for s in list(self.fleet.stations.values()) if s.line is not None and s.holding]
            if len(ready) >= wanted:
                return
            if time.monotonic() >= due:
                told([s.name for s in self.fleet.stations.values() if s not in ready])
                due = time.monotonic() + every
            time.sleep(0.05)

    def close(self, reason: str = "the server stops", over: bool = False, linger: float = 0.0) -> None:
        """Say good-bye to the clients and end the thread.

        `over` tells them that the run has ended; those who are off line just then are awaited for `linger` seconds.
        """
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._shut(reason, over, linger), self._loop).result(30 + linger)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._stop.wait())
        self._loop.close()

    async def _open(self, listen: str, identity: Identity | None) -> None:
        seconds = self.fleet.terms.heartbeat
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", FRAME),
                ("grpc.max_send_message_length", FRAME),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", int(seconds * 1000 / 2)),
                ("grpc.keepalive_timeout_ms", int(seconds * 1000 / 2)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),
            ],
            maximum_concurrent_rpcs=2 * len(self._names) + 32,
        )
        handlers = {
            "Attend": grpc.stream_stream_rpc_method_handler(
                self._attend, wire.ClientFrame.FromString, wire.ServerFrame.SerializeToString
            ),
            "Status": grpc.unary_unary_rpc_method_handler(
                self._status, wire.StatusRequest.FromString, wire.StatusReply.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            if identity is None:
                self.port = self._server.add_insecure_port(listen)
            else:
                self.port = self._server.add_secure_port(
                    listen,
                    grpc.ssl_server_credentials(
                        [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
                    ),
                )
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {listen}: {error}; is another server there?") from error
        self._own = _common_name(identity)
        await self._server.start()
        for name in ("", _SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._ticker = self._loop.create_task(self._tick())

    async def _shut(self, reason: str, over: bool, linger: float) -> None:
        self._ticker.cancel()
        await self._health.enter_graceful_shutdown()
        self.fleet.end(reason, over)
        last = time.monotonic() + linger
        known = {name for name, station in self.fleet.stations.items() if station.holding}
        while known - self.fleet.told and time.monotonic() < last:
            await asyncio.sleep(0.1)
        await self._server.stop(2.0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            try:
                self.fleet.tick()
            except Exception:  # the watch must go on
                log.exception("looking after the lines failed")

    async def _attend(self, _requests: object, context: Any) -> None:
        """Serve one client's stream."""
        hello = await self._hello(context)
        if hello is None:
            return
        line = self.fleet.arrive(hello, min(NEWEST, hello.newest))
        reason = ""
        reading = asyncio.ensure_future(self._read(line, context))
        writing = asyncio.ensure_future(self._write(line, context))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not reading.cancelled():
                reason = reading.result()
            if reason and not writing.done():
                line.end(reason)
                await asyncio.wait((writing,), timeout=1.0)
        finally:
            reading.cancel()
            writing.cancel()
            self.fleet.leave(line, reason)

    async def _hello(self, context: Any) -> wire.Hello | None:
        """Take a stream's first frame; None, and a Refusal, where the client may not come in."""
        peer = context.peer()
        try:
            first = await asyncio.wait_for(context.read(), _HELLO_SECONDS)
        except TimeoutError:
            log.warning("a stream from %s said nothing for %g s", peer, _HELLO_SECONDS)
            return None
        except DecodeError:
            log.warning("a stream from %s sent what is no frame", peer)
            return None
        if first is grpc.aio.EOF or first.WhichOneof("frame") != "hello":
            log.warning("a stream from %s did not begin with a hello", peer)
            return None
        hello: wire.Hello = first.hello
        reason = self._refusal(hello, context)
        if reason is None:
            return hello
        name = hello.name[:64]
        known = name if name in self.fleet.stations else "?"
        self.fleet.refused[known, reason if known != "?" else "not on the list of clients"] += 1
        log.warning("refused %r from %s: %s", name, peer, reason, extra={"client": name, "reason": reason})
        await context.write(wire.ServerFrame(refusal=wire.Refusal(reason=reason, final=True)))
        return None

    def _refusal(self, hello: wire.Hello, context: Any) -> str | None:
        if hello.newest < OLDEST or hello.oldest > NEWEST:
            return (
                f"the client (fedbox {hello.release[:40]}) speaks versions {hello.oldest} to {hello.newest} of the "
                f"protocol, this server (fedbox {__version__}) {OLDEST} to {NEWEST}; install the same release on both"
            )
        who = context.auth_context().get("x509_common_name")
        fingerprint = None
        if who is not None:
            if who[0].decode(errors="replace") != hello.name:
                return f"the certificate is that of {who[0].decode(errors='replace')!r}, not of {hello.name[:64]!r}"
            pem = context.auth_context()["x509_pem_cert"][0].decode()
            fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        reason = self.fleet.enrolment.refusal(hello.name[:64], fingerprint)
        if reason is None and hello.name not in self.fleet.stations:
            return f"{hello.name} was put on the list after the run began; it may join once the server is restarted"
        return reason

    async def _read(self, line: Line, context: Any) -> str:
        """Take frames until the stream ends; give the reason where it is a fault."""
        try:
            while (frame := await context.read()) is not grpc.aio.EOF:
                self.fleet.counts["bytes_up"] += frame.ByteSize()
                self.fleet.hear(line, frame)
        except WireError as error:
            return str(error)
        except DecodeError:
            return "it sent what is no frame"
        return ""

    async def _write(self, line: Line, context: Any) -> None:
        while (frame := await line.outbox.get()) is not None:
            self.fleet.counts["bytes_down"] += frame.ByteSize()
            await context.write(frame)

    async def _status(self, _request: wire.StatusRequest, context: Any) -> wire.StatusReply:
        who = context.auth_context().get("x509_common_name")
        if who is not None and who[0] != self._own:
            reason = self.fleet.enrolment.refusal(who[0].decode(errors="replace"), None)
            if reason is not None:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
        return wire.StatusReply(json=json.dumps({**self.status(), **self.fleet.snapshot()}))


def _common_name(identity: Identity | None) -> bytes:
    if identity is None:
        return b""
    from cryptography import x509

    subject = x509.load_pem_x509_certificate(identity.certificate).subject
    return str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value).encode()
