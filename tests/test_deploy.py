"""The deploy guide as it stands: its five commands with real processes over TLS, and a client with data of its own."""

import asyncio
import json
import logging
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chaos_for_tests import free_port
from grpc_for_tests import grid_for, serve_to
from PIL import Image
from typer.testing import CliRunner

import fedbox
from fedbox.__main__ import app
from fedbox.client.grpc_line import RefusedError, ask_status
from fedbox.client.join import SiteWork
from fedbox.client.state import StateStore
from fedbox.client.workspace import forget, workspace_for
from fedbox.configs import ConfigError
from fedbox.data.arrays import DataError
from fedbox.server.serve import Host, _who
from fedbox.server.session import check
from fedbox.strategies.base import identity, read_run_config

RUN = "0" * 32
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "deploy.md"


@pytest.mark.slow
def test_the_five_commands_of_the_guide_run(tmp_path: Path) -> None:
    (block, *_) = re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    port = str(free_port())
    lines = [line.replace("9091", port).removesuffix(" &") for line in block.splitlines()]
    commands = [[sys.executable, "-m", *shlex.split(line)] for line in lines]
    assert len(commands) == 5
    assert subprocess.run(commands[0], cwd=tmp_path, check=True, capture_output=True)
    commands[1] += ["rounds=2", "data.options.limit=300", "--track", "csv,tensorboard"]
    running = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) for command in commands[1:]]
    try:
        assert [process.wait(120) for process in running] == [0, 0, 0, 0]
    finally:
        for process in running:
            process.kill()
    summary = json.loads((tmp_path / "runs" / "served" / "summary.json").read_text())
    same = {"rounds": 2, "data.options.limit": 300, "data.partition.clients": 3, "workers": 1}
    simulated = fedbox.run("quickstart", out=tmp_path / "sim", quiet=True, report=False, **same)
    assert summary["model_sha256"] == simulated.summary["model_sha256"]
    assert (tmp_path / "runs" / "served" / "report.html").stat().st_size > 10_000
    assert len((tmp_path / "runs" / "served" / "metrics.csv").read_text().splitlines()) == 3  # a head, two rounds
    assert list((tmp_path / "runs" / "served" / "tensorboard").glob("events.*"))


def test_a_client_with_data_of_its_own_holds_all_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "data" / part / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    config = check(
        {"data": {"dataset": "image_folder", "root": "/elsewhere", "labels": {"share": 0.5}}, "model": "mlp"}
    )
    work = SiteWork("site-a", tmp_path / "data", "cpu", tmp_path / "state")
    text = config.model_dump_json()
    held = {"labelled": 6, "unlabelled": 6, "test": 0, "classes": 2}
    assert work.prepare(text, RUN, 4, ("cat", "dog")) == held
    for others in (("bird", "cat"), ("dog", "cat"), ("cat", "dog", "emu")):  # its labels would mean something else
        with pytest.raises(
            DataError, match=f"site-a have the classes cat, dog; those of the server are {', '.join(others)}"
        ):
            work.prepare(text, RUN, 4, others)
    assert work.prepare(text, RUN, 4, ()) == held  # a server of an older release does not tell
    text, folder = read_run_config(work._run_config)
    assert folder == str(tmp_path / "state" / RUN)
    assert workspace_for(text, folder).federation.number("site-a") == 4
    forget()


def test_a_server_deals_nothing_to_clients_that_bring_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("server/train", "server/test", "site-b/train"):
        for label in ("cat", "dog"):
            for number in range(1 if part == "server/train" else 6):
                path = tmp_path / part / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    (tmp_path / "listed").write_text("site-b\n")
    data = {"dataset": "image_folder", "root": str(tmp_path / "server"), "labels": {"by_client": {"site-b": 0.5}}}
    config = check({"rounds": 1, "data": data, "model": "mlp"})  # 20 clients, as nobody said otherwise
    work = {"site-b": SiteWork("site-b", tmp_path / "site-b", None, tmp_path / "state")}
    with identity(1):
        result, _ = serve_to(work, config, tmp_path / "run", tmp_path / "listed")
    (line,) = result.rounds
    assert {name: row["examples"] for name, row in line["clients"].items()} == {"site-b": 6}
    (tmp_path / "listed").write_text("site-b\nclient-1\n")
    with pytest.raises(DataError, match="20 clients cannot share 2 samples"):
        serve_to(work, config, tmp_path / "other", tmp_path / "listed")
    forget()


def test_data_of_ones_own_for_a_data_set_that_reads_none_are_refused(tmp_path: Path) -> None:
    """They were passed over, and the client trained on all that the configuration deals to the others."""
    work = SiteWork("client-3", tmp_path, None, tmp_path / "state")
    with pytest.raises(DataError, match=r"data set .digits. reads no files, yet root is .*--data"):
        work.prepare(check({}).model_dump_json(), RUN, 3, ())
    forget()


def test_a_list_that_differs_from_who_is_dealt_data_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "listed").write_text("client-0\nclient-7\nsite-a\n")
    config = check("quickstart", {"data.partition.clients": 2})
    _who(Host("127.0.0.1:0", clients=tmp_path / "listed"), config)
    assert "client-7 may join, but data.partition.clients deals data to 2 only" in caplog.text
    assert "deals data to 2, but client-1 may not join" in caplog.text
    caplog.clear()
    (tmp_path / "listed").write_text("client-0\nclient-1\nsite-a\n")
    _who(Host("127.0.0.1:0", clients=tmp_path / "listed"), config)
    assert not caplog.text


def test_a_client_of_another_name_must_bring_data(tmp_path: Path) -> None:
    work = SiteWork("site-a", None, None, tmp_path)
    with pytest.raises(DataError, match=r"client-0 to client-19.*--data"):
        work.prepare(check({}).model_dump_json(), RUN, 0, ())
    with pytest.raises(RefusedError, match="does not understand"):
        work.prepare('{"future": 1}', RUN, 0, ())
    forget()


def test_a_client_tells_whether_it_finds_what_it_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fedbox.client")
    store = StateStore(tmp_path / "state" / RUN / "clients")
    store.durable = True  # as that of a client that joins
    store.write("client-0", 7, {"a": np.zeros(2)})
    for folder, told in (("state", "goes on with what it kept after round 7"), ("other", "has kept nothing there yet")):
        SiteWork("client-0", None, None, tmp_path / folder).prepare(check({}).model_dump_json(), RUN, 0, ())
        assert f"its state is in {tmp_path / folder}, and it {told}" in caplog.text
    forget()


@pytest.mark.parametrize("run", ["../../elsewhere", "/etc", "run", "", RUN + "/.."])
def test_a_server_cannot_choose_where_a_client_writes(tmp_path: Path, run: str) -> None:
    work = SiteWork("client-0", None, None, tmp_path / "state")
    with pytest.raises(RefusedError, match=r"calls its run .*; wanted: 32 of the digits"):
        work.prepare(check({}).model_dump_json(), run, 0, ())
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_here_is_told_before_a_round(tmp_path: Path) -> None:
    config = check({"engine": {"device": "cuda:99"}}).model_dump_json()
    with pytest.raises(ConfigError, match=r"engine\.device: got 'cuda:99', which cannot .*this machine has cpu"):
        SiteWork("client-0", None, None, tmp_path).prepare(config, RUN, 0, ())
    SiteWork("client-0", None, "cpu", tmp_path).prepare(config, RUN, 0, ())
    forget()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "quickstart", "--listen", "0.0.0.0:1", "--insecure"], "only on loopback"),
        (["serve", "quickstart", "--cert", "no.pem"], "--key: is missing"),
        (["join", "fed.example.org:9091", "--name", "a", "--insecure"], "only to this machine"),
        (["join", "nowhere", "--name", "a"], "wanted such as fed.example.org:9091"),
        (
            ["join", "127.0.0.1:1", "--name", "a", "--insecure", "--device", "nonsense"],
            "--device: got 'nonsense'",
        ),
        (["join", "127.0.0.1:1", "--name", "a", "--insecure", "--device", "cuda:99"], "--device: got 'cuda:99'"),
        (["status", "127.0.0.1:1", "--insecure"], "does not answer"),
    ],
)
def test_faults_are_told(words: list[str], told: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0
    assert told in str(result.exception)


def test_a_line_on_this_machine_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.setblocking(False)
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with grid_for(["client-0"]) as grid:
            for host in ("127.0.0.1", "localhost"):
                assert '"client-0"' in asyncio.run(ask_status(f"{host}:{grid.port}", None))
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_packed_app_holds_the_whole_configuration(tmp_path: Path) -> None:
    import tomllib

    out = tmp_path / "app"
    made = CliRunner().invoke(
        app, ["pack", "quickstart", "rounds=7", "--out", str(out), "--folder", str(tmp_path / "x")]
    )
    assert made.exit_code == 0, made.output
    project = tomllib.loads((out / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert project["components"] == {"serverapp": "fedbox.server.app:app", "clientapp": "fedbox.client.app:app"}
    config, folder = read_run_config(project["config"])
    assert fedbox.Config.model_validate_json(config) == check("quickstart", ["rounds=7"])
    assert folder == str(tmp_path / "x")
    again = CliRunner().invoke(app, ["pack", "quickstart", "--out", str(out)])
    assert "holds files already" in str(again.exception)
