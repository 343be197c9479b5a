"""The gRPC service: one stream for each client, who may come in, and the health and status that others ask for.

The only file of the server that imports grpc.
"""

import asyncio
import hashlib
import json
import logging
import math
import ssl
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..configs.tls import Identity
from ..strategies import wire_pb2 as wire
from ..strategies.base import WireError
from ..strategies.frames import FRAME, MOST_HELD, NEWEST, OLDEST, RELEASE, TASK_NAME
from .fleet import Fleet
from .lines import Line

log = logging.getLogger("fedbox.server")

_HELLO_SECONDS = 10.0
_LAST_WORD = 2.0  # seconds that a good-bye may take
_NEVER = 2**31 - 1
_TICK = 0.5
_SERVICE = "fedbox.v1.Fleet"


class ListenError(RuntimeError):
    """The server cannot listen where it is told to."""

    exit_code = 1


class Service:
    """Serves a fleet; all of it runs on one event loop. `status` gives what is told of the run."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.status: Callable[[], dict[str, Any]] = dict

    async def open(self, listen: str, identity: Identity | None) -> int:
        """Listen, with mutual TLS where there is an identity; give the port. Raises ListenError."""
        seconds = self.fleet.terms.heartbeat
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", FRAME),
                ("grpc.max_send_message_length", FRAME),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", int(seconds * 1000 / 2)),
                # Also how long TCP waits where a slow line is full. The fleet's own watch sees silent clients sooner.
                ("grpc.keepalive_timeout_ms", int(self.fleet.terms.full * 1000)),
                ("grpc.keepalive_permit_without_calls", 1),
                # The answer to a ping waits behind all that a slow line carries first; any byte shows that it lives.
                ("grpc.http2.ping_timeout_ms", _NEVER),
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),
            ],
            maximum_concurrent_rpcs=2 * len(self.fleet.stations) + 32,
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
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(
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
        self._ticker = asyncio.ensure_future(self._tick())
        return int(port)

    async def shut(self, reason: str, over: bool, linger: float) -> None:
        """Say good-bye to all, wait `linger` seconds for those who do not know that the run is over, and end."""
        self._ticker.cancel()
        await self._health.enter_graceful_shutdown()
        self.fleet.end(reason, over)
        last = time.monotonic() + linger
        # Where nobody has come since the server began, any of them may still be trying.
        known = {name for name, station in self.fleet.stations.items() if station.holding} or set(self.fleet.stations)
        if linger > 0 and known - self.fleet.told:
            log.info("waiting %g s at most for clients that do not know yet: %s", linger, reason)
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
        ending = asyncio.ensure_future(line.ended.wait())
        try:
            await asyncio.wait((reading, writing, ending), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not reading.cancelled():
                reason = reading.result()
            if reason:
                line.end(reason)
            if line.ended.is_set():  # its last word may find nobody who reads it
                await asyncio.wait((writing,), timeout=_LAST_WORD)
        finally:
            for task in (reading, writing, ending):
                task.cancel()
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
                f"protocol, this server (fedbox {RELEASE}) {OLDEST} to {NEWEST}; install the same release on both"
            )
        if len(hello.held) > MOST_HELD or any(len(task.encode()) > TASK_NAME for task in hello.held):
            return f"it names {len(hello.held):,} tasks in hand; at most {MOST_HELD} of {TASK_NAME} bytes are heard"
        who, fingerprint = _shown(context)
        if who is not None and who != hello.name:
            return f"the certificate is that of {who!r}, not of {hello.name[:64]!r}"
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
            size = frame.ByteSize()
            self.fleet.counts["bytes_down"] += size
            line.due = time.monotonic() + self.fleet.terms.patience(size)
            await context.write(frame)
            line.due = math.inf

    async def _status(self, _request: wire.StatusRequest, context: Any) -> wire.StatusReply:
        who, fingerprint = _shown(context)
        if who is not None and (not who or who != self._own):
            reason = self.fleet.enrolment.refusal(who, fingerprint)
            if reason is not None:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
        return wire.StatusReply(json=json.dumps({**self.status(), **self.fleet.snapshot()}))


def _shown(context: Any) -> tuple[str | None, str | None]:
    """Give the name in the certificate of whoever is there, and its fingerprint; None twice on a line without TLS."""
    shown = context.auth_context()
    if "x509_pem_cert" not in shown:
        return None, None
    (name, *_), (pem, *_) = shown.get("x509_common_name", [b""]), shown["x509_pem_cert"]
    return name.decode(errors="replace"), hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()


def _common_name(identity: Identity | None) -> str:
    if identity is None:
        return ""
    from cryptography import x509

    subject = x509.load_pem_x509_certificate(identity.certificate).subject
    names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
