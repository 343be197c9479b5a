"""The command line, as a user meets it: real processes, their output and their exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from runs_for_tests import make_run

from fedbox.__main__ import app

TOY = ["rounds=1", "data.options.limit=300", "data.partition.min_size=1", "model=mlp", "train.epochs=1"]
TOY += ["engine.workers=1"]


def _fedbox(*words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-m", "fedbox", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = (
        "import sys; sys.argv = ['fedbox', '--help']\n"
        "from fedbox.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'flwr', 'numpy', 'datasets', 'kornia', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "report" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]
def test_every_command_explains_itself(command: str, fedbox_here: Any) -> None:
    ended, out, _ = fedbox_here(command, "--help")
    assert ended == 0
    assert "Usage: " in out


def test_a_run_ends_with_a_summary_and_a_report(tmp_path: Path) -> None:
    done = _fedbox("run", "quickstart", *TOY, "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "here" / "summary.json").read_text())
    assert summary["model_sha256"] in done.stdout
    assert "<html" in (tmp_path / "here" / "report.html").read_text()
    assert _fedbox("report", "here", "--out", "page.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "page.html").is_file()


def test_changes_may_stand_without_a_configuration_and_folders_are_made(tmp_path: Path) -> None:
    for name in ("quickstart-fedavg-seed7", "quickstart-fedavg-seed7-2"):
        done = _fedbox("run", "seed=7", *TOY, "--quiet", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (tmp_path / "runs" / name / "summary.json").is_file()


def test_all_faults_of_a_configuration_come_at_once(tmp_path: Path) -> None:
    done = _fedbox("run", "quickstart", "trian.lr=1", "rounds=0", "settings.fedprox.mu=-1", "strategy=fedprx")
    assert done.returncode == 2
    for text in ("did you mean 'train'", "rounds: got 0", "settings.fedprox.mu: got -1", "did you mean 'fedprox'"):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["run", "nowhere.yaml"], 2, "no such file"),
        (["run", "quickstart", "data.dataset=digitz"], 3, "digits"),
        (["run", "quickstart", "data.dataset=fashion_mnist", "data.root=/nowhere"], 3, "/nowhere"),
        (["run", "quickstart", "model=cnnn"], 3, "cnn"),
        (["run", "quickstart", "strategy=no_such_module:plugin"], 4, "no_such_module"),
        (["run", "quickstart", "lr=0.1"], 2, "lr: unknown key; did you mean train.lr?"),
        (["run", "quickstart", "strategy=json:dumps"], 4, "not a fedbox.strategies.Plugin; name the value"),
        (["run", "--resume", "--out", "nothing"], 5, "holds no run"),
        (["report", "nothing"], 3, "nothing"),
        (["configs", "quickstrt"], 2, "did you mean 'quickstart'"),
        (["strategies", "fedprx"], 4, "did you mean 'fedprox'"),
    ],
)
def test_exit_codes_tell_what_was_wrong(words: list[str], code: int, text: str, fedbox_here: Any) -> None:
    ended, _, error = fedbox_here(*words)
    assert ended == code, error
    assert text in error
    assert "Traceback" not in error


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, fedbox_here: Any) -> None:
    make_run(tmp_path / "run", [0.5])
    (tmp_path / "file").touch()
    ended, _, error = fedbox_here("report", "run", "--out", "file/report.html")
    assert (ended, error) == (5, "error: file/report.html cannot be written (Not a directory); give another --out\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "quickstart", "--rounds", "5"], "rounds=5."),
        (["serve", "quickstart", "--rounds=5"], "rounds=5."),
        (["run", "--train.lr", "0.1"], "train.lr=0.1."),
        (["run", "--lr", "0.1"], "train.lr=0.1."),
        (["run", "--batch-size", "16"], "train.batch_size=16 or evaluate.batch_size=16."),
        (["run", "--model", "cnn"], "model=cnn."),
        (["compare", "quickstart", "--settings.fedprox.mu", "1"], "settings.fedprox.mu=1."),
        (["run", "--rounds"], "rounds=VALUE."),
        (["run", "--round", "5"], "rounds=5."),
        (["run", "--batch-sise=3"], "train.batch_size=3 or evaluate.batch_size=3."),
    ],
)
def test_a_setting_given_as_an_option_is_told_how_it_is_written(words: list[str], told: str, fedbox_here: Any) -> None:
    ended, _, error = fedbox_here(*words)
    assert ended == 2
    assert f"A setting is given as {told}" in error
    assert "Did you mean" not in error


@pytest.mark.parametrize(("other", "ours"), [("client", "join"), ("server", "serve"), ("simulate", "run")])
def test_what_other_platforms_call_a_command_is_understood(other: str, ours: str, fedbox_here: Any) -> None:
    code, _, error = fedbox_here(other)
    assert code == 2
    assert f"No such command '{other}'. Did you mean '{ours}'?" in error


def test_a_misspelt_command_is_told_once(fedbox_here: Any) -> None:
    code, _, error = fedbox_here("rnu")
    assert code == 2
    assert error.count("Did you mean 'run'?") == 1, error


def test_an_option_that_is_like_none_is_not_guessed_at(fedbox_here: Any) -> None:
    ended, _, error = fedbox_here("run", "quickstart", "--foo")
    assert ended == 2
    assert "No such option '--foo'." in error
    assert "Did you mean" not in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "quickstart", "--seed", "3"], "--seeds"),
        (["run", "--engin", "ray"], "--engine"),
        (["report", "x", "--out-", "y"], "--out"),
    ],
)
def test_a_misspelt_option_is_told_the_option(words: list[str], told: str, fedbox_here: Any) -> None:
    ended, _, error = fedbox_here(*words)
    assert ended == 2
    assert f"'{told}'" in error
    assert "A setting" not in error


def test_help_needs_no_working_folder(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = ["bash", "-c", f"cd {gone}; rmdir {gone}; {sys.executable} -m fedbox run --help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    done = _fedbox("run", "quickstart", "model=cnnn", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "cnn" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    done = _fedbox("run", "quickstart", "--dry-run", "strategy=fedprox", "clients.per_round=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [" ".join(line.strip(" │").split()).replace(" │ ", ": ") for line in done.stdout.splitlines()]
    for line in (
        "strategy: fedprox (mu 0.01)",
        "data: digits: 1,438 train and 359 test images of 1 x 8 x 8, 10 classes; 115 kB in memory",
        "server: 0 labelled; measures on 359 test images",
        "model: cnn: 9,258 weights, 37 kB",
        "backbone: 8,928 weights, 35.7 kB",
        "head: 330 weights, 1.32 kB",
        "rounds: 30; 5 of 20 clients in a round",
    ):
        assert line in told
    assert list(tmp_path.iterdir()) == []
    quiet = _fedbox("run", "--dry-run", "--quiet", *TOY, "--out", "here", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_fedsto_tells_its_phases(tmp_path: Path) -> None:
    toy = ["data.options.samples=64", "data.options.test_samples=8", "data.options.size=64"]
    done = _fedbox("run", "scenes-fedsto", "--dry-run", *toy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in (
        "16 labelled; measures on 8 test images",
        "client-1 (rainy)",
        "0 labelled, 16 unlabelled, 2 test",
        "neck",
        "the server alone",
        "selective: each client is sent",
        "14 to 16",
    ):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "code"),
    [("rounds=0", 2), ("engine.device=abacus", 2), ("data.dataset=digitz", 3), ("model=cnnn", 3), ("strategy=x:y", 4)],
)
def test_a_dry_run_ends_with_the_code_of_the_fault(word: str, code: int, fedbox_here: Any) -> None:
    ended, out, error = fedbox_here("run", "quickstart", "--dry-run", word)
    assert ended == code
    assert out == ""
    assert "Traceback" not in error


def test_listings(fedbox_here: Any) -> None:
    strategies = fedbox_here("strategies")[1]
    for name in ("fedavg", "fedprox", "centralized", "local"):
        assert name in strategies
    assert "mu" in fedbox_here("strategies", "fedprox")[1]
    assert "quickstart" in fedbox_here("configs")[1]
    assert fedbox_here("configs", "quickstart")[1].startswith("# fedbox run quickstart")


def test_data_shows_every_client_and_draws_a_picture(tmp_path: Path) -> None:
    done = _fedbox("data", "quickstart", "data.labels.share=0.5", "--plot", "p.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "client-19" in done.stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("plain", ["", "1"])
def test_errors_are_red_in_a_terminal_unless_no_color_is_set(plain: str) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "NO_COLOR": plain, "TERM": "xterm"}
    command = [sys.executable, "-m", "fedbox", "configs", "quickstrt"]
    done = subprocess.run(command, stderr=theirs, env=environment, check=False)
    os.close(theirs)
    told = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 2
    assert "did you mean" in told
    assert ("\x1b[31m" in told) == (not plain)
