"""`fedbox watch`: what it says of a run that waits, goes on, ends or broke off; the live page, on loopback alone."""

import fcntl
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from runs_for_tests import Tags, make_line, make_run
from typer.testing import CliRunner

from fedbox.__main__ import app
from fedbox.configs import ConfigError
from fedbox.server.folder import FolderError, is_locked
from fedbox.server.follow import ENDED, RUNNING, WAITING, Follower
from fedbox.server.watch import screen, sparkline, watch
from fedbox.server.watch_web import LiveServer


def _lock(folder: Path) -> IO[str]:
    """Hold a run's folder as the process does that runs in it."""
    file = (folder / ".lock").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _add(folder: Path, at: int, accuracy: float = 0.5) -> None:
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(make_line(at, accuracy)) + "\n")


def _console() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=False)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_is_seen_from_before_its_begin_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    follower = Follower(folder)
    assert follower.look().state == WAITING
    make_run(folder, [0.25, 0.5], rounds=4, status=None)
    with _lock(folder):
        view = follower.look()
        assert (view.state, view.done, view.total, view.curve) == (RUNNING, 2, 4, [0.25, 0.5])
        assert view.left == pytest.approx(2.0)  # two rounds at a second each
        with (folder / "rounds.jsonl").open("a") as file:
            file.write('{"round": 3, "met')  # half a line, as it may be seen for a moment
        assert follower.look().done == 2
        (folder / "rounds.jsonl").write_text("".join(json.dumps(make_line(i, 0.5)) + "\n" for i in (1, 2, 3, 4)))
        assert follower.look().done == 4
    summary = {"status": "completed", "rounds": 4, "metrics": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    view = follower.look()
    assert (view.state, view.outcome, view.code) == (ENDED, "completed", 0)
    version = view.version
    assert follower.look().version == version


@pytest.mark.parametrize(
    ("status", "code"), [("completed", 0), ("stopped", 0), ("failed", 1), ("interrupted", 130), ("of old", 1)]
)
def test_the_exit_code_tells_how_the_run_ended(tmp_path: Path, status: str, code: int) -> None:
    folder = make_run(tmp_path / "run", [0.25, 0.5], rounds=2, status=status)
    done = CliRunner().invoke(app, ["watch", str(folder)])
    assert done.exit_code == code, done.output
    assert "round 2 of 2, accuracy 0.5000, 1.00 s, 4 kB" in done.output
    assert f"{status} after 2 of 2 rounds" in done.output


def test_a_run_that_was_killed_broke_off(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.25, 0.5, 0.5], rounds=9, status=None)
    assert Follower(folder, patience=60).look().state == RUNNING  # it may be about to write its summary
    view = Follower(folder, patience=0).look()
    assert (view.state, view.outcome, view.code) == (ENDED, "broken off", 1)


def test_waiting_ends_at_the_timeout(tmp_path: Path) -> None:
    console = _console()
    with pytest.raises(FolderError, match=r"no run has begun within 0\.05 s"):
        watch(tmp_path / "none", 0.05, console, every=0.01)
    assert _said(console).count("waits for a run") == 1
    assert not (tmp_path / "none").exists()


def test_a_file_is_no_folder_to_wait_for(tmp_path: Path, fedbox_here: Any) -> None:
    (tmp_path / "run.zip").touch()
    code, _, error = fedbox_here("watch", "run.zip")
    assert (code, "run.zip is a file, in which no run will begin" in error) == (5, True)


def test_it_ends_with_the_run_and_tells_each_round_once(tmp_path: Path) -> None:
    folder, console = make_run(tmp_path / "run", [0.25], rounds=3, status=None), _console()
    codes: list[int] = []
    with _lock(folder):
        thread = threading.Thread(target=lambda: codes.append(watch(folder, 5, console, every=0.01)))
        thread.start()
        for at in (2, 3):
            time.sleep(0.05)
            _add(folder, at)
        (folder / "summary.json").write_text(json.dumps({"status": "failed", "rounds": 3}))
    thread.join(10)
    assert codes == [1]
    lines = _said(console).splitlines()
    assert [line.split(",")[0] for line in lines[1:4]] == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]
    assert lines[0].startswith("digits: fedavg, seed 0, 3 rounds")
    assert lines[-1] == "digits: failed after 3 of 3 rounds; it can go on with --resume"


def test_the_screen_names_what_matters_and_takes_names_as_they_are(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.25, 0.5], rounds=4, status=None, name="[red]x[/]")
    failure = {"client": "client-7", "kind": "raised", "reason": "[bold]no[/]"}
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(make_line(3, 0.375, failures=[failure])) + "\n")
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(screen(Follower(folder, patience=60).look()))
    text = _said(console)
    for told in ("[red]x[/]: fedavg", "3 of 4, about 1.00 s left", "▁█▅  0.3750, best 0.5000 in round 2", "client-10",
                 "round 3: client-7 raised: [bold]no[/]"):  # fmt: skip
        assert told in text, told
    assert text.index("client-10") < text.index("client-2 ")  # the one that fares worst stands first


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 50))
def test_a_sparkline_is_never_wider_and_shows_the_last_value(values: list[float], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width)
    assert (
        len(drawn) < 2 or drawn[-1] == sparkline([*values[-1:], min(values), max(values)], 3)[0] or width < len(values)
    )


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, LiveServer]]:
    folder = tmp_path / "run"
    server = LiveServer(Follower(folder), 0)
    yield folder, server
    server.close()


def _ask(server: LiveServer, path: str, host: str | None = None) -> tuple[int, str]:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = line.getresponse()
    return answer.status, answer.read().decode()


def test_the_live_page_grows_with_the_run_and_writes_nothing(live: tuple[Path, LiveServer]) -> None:
    folder, server = live
    status, text = _ask(server, "/")
    assert (status, "No round was recorded yet" in text) == (200, True)
    make_run(folder, [0.25, 0.5], rounds=4, status=None)
    names = sorted(path.name for path in folder.iterdir())
    with _lock(folder):
        state = json.loads(_ask(server, "/state")[1])
        assert (state["state"], state["done"], state["total"]) == (RUNNING, 2, 4)
        text = _ask(server, "/")[1]
    tags = Tags(text)
    assert not tags.open
    scripts = [attrs for tag, attrs in tags.seen if tag == "script"]
    assert [attrs["src"] for attrs in scripts] == ["/live.js"]
    assert f'data-version="{state["version"]}"' in text
    assert "default-src 'none'" in text
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == names
    assert not is_locked(folder)


def test_only_loopback_may_ask_and_only_for_what_is_there(live: tuple[Path, LiveServer]) -> None:
    _, server = live
    assert server.url.startswith("http://127.0.0.1:")
    assert _ask(server, "/state", "evil.example")[0] == 421
    assert _ask(server, "/../../etc/passwd")[0] == 404
    assert _ask(server, "/live.js")[0] == 200
    with pytest.raises(ConfigError, match="--port"):
        LiveServer(Follower(Path()), int(server.url.rstrip("/").rpartition(":")[2]))
