"""The gRPC Grid with real streams: replies once, lines that break, certificates, limits."""

import asyncio
import json
import threading
import time
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from chaos_for_tests import Proxy
from cryptography import x509
from grpc_for_tests import TOY, Clients, Echo, ask, grid_for, identity_of, site_clients, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc

import fedbox
from fedbox.client.grpc_line import ask_status
from fedbox.client.workspace import forget
from fedbox.configs import ConfigError
from fedbox.server import certificates
from fedbox.server.certificates import make_certificates, revoke
from fedbox.server.grpc_grid import GrpcGrid
from fedbox.server.metrics import Metrics
from fedbox.server.serve import Host, check_exposure, serve
from fedbox.server.session import check
from fedbox.strategies import wire_pb2 as wire
from fedbox.strategies.base import Message, RecordDict, from_record, identity, to_record

NAMES = ["client-0", "client-1", "client-2"]


@pytest.fixture(autouse=True)
def _flower_identity() -> Any:
    with identity(1):
        yield


def test_the_model_is_that_of_a_simulation(tmp_path: Path) -> None:
    simulated = fedbox.run(TOY, out=tmp_path / "simulated", quiet=True, report=False)
    forget()
    result: list[fedbox.Result] = []
    ports: list[int] = []

    service, config = Host("127.0.0.1:0"), check(TOY)
    run = threading.Thread(
        target=lambda: result.append(serve(config, service, out=tmp_path / "served", listening=ports.append))
    )
    run.start()
    while not ports:
        time.sleep(0.02)
    clients = site_clients(ports[0], tmp_path / "state", NAMES)
    run.join(60)
    clients.join()
    assert result[0].summary["model_sha256"] == simulated.summary["model_sha256"]
    assert result[0].summary["engine"] == "grpc"
    assert [r["bytes_up"] for r in result[0].rounds] == [r["bytes_up"] for r in simulated.rounds]
    assert set(clients.words.values()) == {"the run is complete"}


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_larger_than_a_chunk_come_back_as_they_were(compress: bool) -> None:
    with grid_for(NAMES, chunk=4096, compress=compress, uploads=1) as grid:
        clients = Clients(f"127.0.0.1:{grid.port}", {name: Echo() for name in NAMES})
        grid.wait_for(3, lambda _: None)
        replies = ask(grid, 100_000)
        assert {reply.metadata.src_node_id for reply in replies} == set(grid.get_node_ids())
        for reply in replies:
            found = from_record(reply.content.array_records["arrays"])
            np.testing.assert_array_equal(found["a"], np.arange(100_000, dtype=np.float32))
            assert found["empty"].shape == (0, 3)
        sent = grid.fleet.counts["bytes_up"]
        assert sent < 3 * 400_000 * (0.9 if compress else 1.02)
        clients.close()


def test_a_line_that_breaks_while_a_client_works_costs_nothing() -> None:
    work = {name: Echo() for name in NAMES}
    with grid_for(NAMES) as grid:
        proxy = Proxy(grid.port)
        clients = Clients(f"127.0.0.1:{proxy.port}", work)
        grid.wait_for(3, lambda _: None)
        for echo in work.values():
            echo.gate.clear()
        found: list[Message] = []
        run = threading.Thread(target=lambda: found.extend(ask(grid)))
        run.start()
        time.sleep(0.3)
        proxy.cut()
        wait_until(lambda: grid.fleet.counts["departures"] == 3, seconds=2.0)
        for echo in work.values():
            echo.gate.set()
        run.join(20)
        assert sorted(reply.metadata.src_node_id for reply in found) == list(grid.get_node_ids())
        assert grid.fleet.counts["departures"] == 3
        # Nobody worked twice: the task was still in hand when the line came back.
        assert all(len(echo.seen) == 1 for echo in work.values())
        clients.close()
        proxy.close()


def test_a_client_that_stays_away_is_lost_after_the_grace() -> None:
    with grid_for(NAMES, grace=0.6) as grid:
        clients = Clients(f"127.0.0.1:{grid.port}", {name: Echo() for name in NAMES[:2]})
        grid.wait_for(2, lambda _: None)
        replies = ask(grid)
        lost = [reply for reply in replies if reply.has_error()]
        assert len(replies) == 3
        assert [reply.error.reason for reply in lost] == ["off line for 0.6 s"]
        clients.close()


def test_a_late_reply_is_dropped_or_kept_for_later() -> None:
    echo = Echo()
    with grid_for(NAMES[:1]) as grid:
        clients = Clients(f"127.0.0.1:{grid.port}", {NAMES[0]: echo})
        grid.wait_for(1, lambda _: None)
        for keep in (False, True):
            echo.gate.clear()
            assert ask(grid, timeout=0.2, keep_late=keep) == []
            echo.gate.set()
            began, late = time.monotonic(), []
            while not late and time.monotonic() - began < (3 if keep else 0.5):
                late = grid.late_replies()
                time.sleep(0.02)
            assert len(late) == keep
        assert len(ask(grid)) == 1  # the line is as good as before, and no upload slot is lost
        wait_until(lambda: grid.fleet.uploads.free == grid.fleet.terms.uploads)
        clients.close()


def test_a_reply_above_the_limit_is_refused_and_the_line_stays() -> None:
    with grid_for(NAMES[:1], largest=10_000) as grid:
        clients = Clients(f"127.0.0.1:{grid.port}", {NAMES[0]: Big()})
        grid.wait_for(1, lambda _: None)
        (reply,) = ask(grid, 10)
        assert "at most 10,000" in reply.error.reason
        assert len(ask(grid, 10)) == 1
        assert grid.fleet.counts["departures"] == 0
        clients.close()


class Big(Echo):
    """Answers with more than it was sent."""

    def answer(self, message: Message) -> Message:
        return Message(RecordDict({"arrays": to_record({"a": np.zeros(5000)})}), reply_to=message)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    make_certificates(folder, ["localhost"], NAMES)
    return folder


def test_certificates_say_who_is_who(pki: Path) -> None:
    made = x509.load_pem_x509_certificate((pki / "client-1.pem").read_bytes())
    assert made.subject.rfc4514_string() == "CN=client-1"
    made.verify_directly_issued_by(x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes()))
    assert (pki / "client-1.key").stat().st_mode & 0o777 == 0o600
    before = (pki / "server.pem").read_bytes()
    make_certificates(pki, ["elsewhere"], ["client-3"])
    assert (pki / "server.pem").read_bytes() == before
    assert (pki / "client-3.pem").exists()


@pytest.fixture
def secured(pki: Path, tmp_path: Path) -> Any:
    listed = tmp_path / "clients.txt"
    listed.write_text((pki / "clients.txt").read_text())
    with grid_for([], identity_of(pki, "server"), listed) as grid:
        yield grid, listed


def refusal(grid: GrpcGrid, name: str, given: Any) -> str:
    clients = Clients(f"localhost:{grid.port}", {name: Echo()}, given)
    began = time.monotonic()
    while name not in clients.words and time.monotonic() - began < 3:
        time.sleep(0.02)
    clients.close()
    return clients.words.get(name, "")


def test_a_certificate_lets_in_its_own_name_only(pki: Path, secured: Any) -> None:
    grid, _ = secured
    clients = Clients(f"localhost:{grid.port}", {"client-1": Echo()}, identity_of(pki, "client-1"))
    grid.wait_for(1, lambda _: None)
    clients.close()
    word = refusal(grid, "client-2", identity_of(pki, "client-1"))
    assert "the certificate is that of 'client-1', not of 'client-2'" in word


def test_unknown_and_expired_certificates_do_not_get_a_line(
    pki: Path, secured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, _ = secured
    make_certificates(tmp_path / "other", ["localhost"], ["client-0"])
    assert refusal(grid, "client-0", identity_of(tmp_path / "other", "client-0", pki)) == "cancelled"

    class Past(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Past":
            return cls.fromtimestamp((datetime.now(UTC) - timedelta(days=30)).timestamp(), tz)

    old = tmp_path / "old"
    old.mkdir()
    for name in ("ca.pem", "ca.key", "server.pem"):
        (old / name).write_bytes((pki / name).read_bytes())
    monkeypatch.setattr(certificates, "datetime", Past)
    make_certificates(old, [], ["client-0"], days=10)
    assert refusal(grid, "client-0", identity_of(old, "client-0")) == "cancelled"
    assert grid.fleet.counts["arrivals"] == 0


def test_a_revoked_client_is_out_at_once(pki: Path, secured: Any) -> None:
    grid, listed = secured
    clients = Clients(f"localhost:{grid.port}", {"client-2": Echo()}, identity_of(pki, "client-2"))
    grid.wait_for(1, lambda _: None)
    (listed.parent / "clients.txt").write_text(listed.read_text())
    revoke(listed.parent, ["client-2"])
    clients.join()
    assert clients.words["client-2"] == "RefusedError: the server refuses client-2: client-2 is revoked"
    assert grid.fleet.stations["client-2"].line is None


def test_without_tls_only_on_loopback() -> None:
    check_exposure("127.0.0.1:9091", secure=False)
    check_exposure("0.0.0.0:9091", secure=True)
    for listen in ("0.0.0.0:9091", ":9091", "fed.example.org:9091"):
        with pytest.raises(ConfigError, match="only on loopback"):
            check_exposure(listen, secure=False)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check_exposure("localhost", secure=True)


def test_bytes_that_are_no_frame_end_the_stream_and_nothing_else() -> None:
    async def send(port: int, frames: list[bytes]) -> grpc.StatusCode:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream("/fedbox.v1.Fleet/Attend")()
            for frame in frames:
                await call.write(frame)
            with suppress(grpc.aio.AioRpcError):
                async for _ in call:
                    pass
            return await call.code()

    hello = wire.ClientFrame(hello=wire.Hello(oldest=1, newest=1, name="client-0")).SerializeToString()
    chunk = wire.ClientFrame(chunk=wire.Chunk(data=b"x")).SerializeToString()
    with grid_for(NAMES[:1]) as grid:
        for frames in ([b"\xff\xff\xff"], [hello, b"\xff\xff\xff"], [hello, chunk], [chunk], [hello, bytes(2**23 + 1)]):
            asyncio.run(asyncio.wait_for(send(grid.port, frames), 10))
        clients = Clients(f"127.0.0.1:{grid.port}", {NAMES[0]: Echo()})
        grid.wait_for(1, lambda _: None)
        assert len(ask(grid)) == 1
        clients.close()


def test_another_protocol_is_told_which_release_to_install() -> None:
    async def greet(port: int) -> str:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(
                "/fedbox.v1.Fleet/Attend", wire.ClientFrame.SerializeToString, wire.ServerFrame.FromString
            )()
            await call.write(wire.ClientFrame(hello=wire.Hello(oldest=7, newest=9, name="client-0", release="9.0")))
            return str((await call.read()).refusal.reason)

    with grid_for(NAMES[:1]) as grid:
        reason = asyncio.run(greet(grid.port))
    assert "fedbox 9.0) speaks versions 7 to 9" in reason
    assert "same release" in reason


def test_status_and_health_and_metrics_tell_who_is_there() -> None:
    with grid_for(NAMES) as grid:
        metrics = Metrics(grid.fleet, 0)
        clients = Clients(f"127.0.0.1:{grid.port}", {name: Echo() for name in NAMES[:2]})
        grid.wait_for(2, lambda _: None)
        found = json.loads(asyncio.run(ask_status(f"127.0.0.1:{grid.port}", None)))
        assert {each["name"]: each["online"] for each in found["clients"]} == dict(zip(NAMES, [1, 1, 0], strict=True))
        with grpc.insecure_channel(f"127.0.0.1:{grid.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        metrics.on_round({"round": 4, "metrics": {"accuracy": 0.5, "loss": None}, "seconds": {"train": 2.0},
                          "failures": [{"kind": "lost"}]})  # fmt: skip
        page = urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics").read().decode()
        for line in (
            "fedbox_clients_online 2.0", "fedbox_clients_enrolled 3.0", "fedbox_round 4.0", "fedbox_arrivals_total 2.0",
            'fedbox_seconds_total{phase="train"} 2.0', 'fedbox_failures_total{kind="lost"} 1.0',
            'fedbox_metric{name="accuracy"} 0.5',
        ):  # fmt: skip
            assert line in page.splitlines()
        metrics.close()
        clients.close()
