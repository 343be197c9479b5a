"""What must not bring a run down, and what must with a clear word: bad clients, folders, checkpoints, keys."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from plugins_for_tests import command, environment, lines, run, run_trouble, save_config, summary

import fedbox
from fedbox.configs import Config, ConfigError
from fedbox.data.arrays import DataError
from fedbox.server.checkpoint import CheckpointError
from fedbox.server.folder import FolderError, RunFolder
from fedbox.server.loop import RunFailedError
from fedbox.simulations.compare import Cell
from fedbox.strategies.registry import PluginError

REFUSED = {
    "nan": "not finite",
    "inf": "not finite",
    "infinite-extra": "'hint' has 1 of 1 values that are not finite",
    "shape": "has shape",
    "dtype": "has type float64; wanted: float32",
    "name": "'backdoor' was not asked for",
    "missing": "1 of 4 arrays are missing",
    "empty": "4 of 4 arrays are missing",
    "negative": "-3 examples; wanted: 0 or more",
    "huge": "cannot be sent",
    "large": "can be summed",
}
RAISED = {
    "raises": "RuntimeError: the camera is broken (plugins_for_tests.py, line",
    "exits": "SystemExit: 3",
    "nothing": "Error: ",
    "text": "do not travel",
}


@pytest.mark.parametrize("kind", [*REFUSED, *RAISED])
def test_a_bad_client_is_left_out_and_named(tmp_path: Path, kind: str) -> None:
    """The model is the one that the other clients make, whoever of them answers first."""
    result = run_trouble(tmp_path / "run", kind, "client-0", "client-3", rounds=1)
    record = result.rounds[0]
    assert sorted(record["clients"]) == ["client-1", "client-2", "client-4"]
    assert [row["client"] for row in record["failures"]] == ["client-0", "client-3"]
    for row in record["failures"]:
        assert row["kind"] == ("refused" if kind in REFUSED else "raised")
        assert {**REFUSED, **RAISED}[kind] in row["reason"]
    assert result.summary["failures"] == 2
    absent = run_trouble(tmp_path / "absent", "raises", "client-0", "client-3", rounds=1)
    assert result.summary["model_sha256"] == absent.summary["model_sha256"]


def test_a_metric_that_is_not_finite_or_out_of_range_is_dropped(tmp_path: Path) -> None:
    result = run_trouble(tmp_path / "run", "metric", "client-1", rounds=1)
    row = result.rounds[0]["clients"]["client-1"]
    assert set(row) == {"examples"}
    assert result.rounds[0]["metrics"]["train_loss"] > 0
    assert not result.rounds[0]["failures"]
    assert result.summary["model_sha256"] == run(tmp_path / "good", rounds=1).summary["model_sha256"]


def test_a_metric_cannot_pass_for_the_number_of_examples(tmp_path: Path) -> None:
    bad = run_trouble(tmp_path / "bad", "count", "client-1", rounds=1)
    assert bad.rounds == [
        {**run(tmp_path / "good", rounds=1).rounds[0], "seconds": bad.rounds[0]["seconds"]}
        | {"bytes_up": bad.rounds[0]["bytes_up"]}
    ]


def test_a_server_metric_that_is_not_finite_stands_as_null(tmp_path: Path) -> None:
    stop = {"metric": "odd", "patience": 2}
    changes: dict[str, Any] = {"strategy": "plugins_for_tests:diverging", "rounds": 4, "evaluate__stop": stop}
    result = run(tmp_path / "run", **changes)
    assert [record["metrics"]["odd"] for record in result.rounds] == [1.0, None, None, None]
    assert result.metrics["odd"] == 1.0  # the last value that is one
    first = run(tmp_path / "resumed", **{**changes, "rounds": 2})
    assert run(first.folder, resume=True, **changes).summary["rounds"] == 4


def test_all_clients_fail_and_the_mended_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    switch, everyone = tmp_path / "broken", [f"client-{number}" for number in range(5)]
    wish = {"file": str(switch), "rounds": [2]}
    whole = run_trouble(tmp_path / "whole", "raises", *everyone, wish=wish)
    settings = {"plugins_for_tests": {"kind": "raises", "clients": everyone, **wish}}
    config = save_config(tmp_path / "toy.yaml", strategy="plugins_for_tests:trouble", settings=settings)
    switch.touch()
    out = tmp_path / "run"
    words = command("run", config, "--out", str(out), "--quiet")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for part in ("round 2: 0 of 5", "client-0, client-1 and 3 more (raised): RuntimeError: the camera", "--resume\n"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert summary(out)["status"] == "failed"
    assert summary(out)["rounds"] == 1
    assert [(line["round"], line["phase"], len(line["failures"])) for line in lines(out)] == [
        (1, "train", 0),
        (2, "failed", 5),
    ]
    switch.unlink()
    end = run_trouble(out, "raises", *everyone, wish=wish, resume=True)
    assert end.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(out) == lines(whole.folder)
    assert end.summary["failures"] == 0


def test_once_there_is_a_checkpoint_it_is_told_that_a_changed_key_needs_another_folder(tmp_path: Path) -> None:
    everyone = [f"client-{number}" for number in range(5)]
    changes: dict[str, Any] = {"wish": {"rounds": [2]}, "engine__checkpoint_every": 1}
    with pytest.raises(RunFailedError, match="go on with --resume; as there is a checkpoint, a changed key such as"):
        run_trouble(tmp_path / "run", "raises", *everyone, **changes)
    with pytest.raises(CheckpointError, match=r"train\.lr: the checkpoint has 0\.1, this run has 0\.01"):
        run_trouble(tmp_path / "run", "raises", *everyone, **changes, train__lr=0.01, resume=True)


@pytest.mark.parametrize(
    ("min_success", "bad", "succeeds"),
    [(3, 2, True), (4, 2, False), (0.6, 2, True), (0.61, 2, False), (1.0, 0, True), (1.0, 1, False), (1, 4, True)],
)
def test_min_success_at_its_boundary(tmp_path: Path, min_success: float, bad: int, succeeds: bool) -> None:
    clients = [f"client-{number}" for number in range(bad)]
    if succeeds:
        result = run_trouble(tmp_path / "run", "raises", *clients, rounds=1, clients__min_success=min_success)
        assert len(result.rounds[0]["failures"]) == bad
        return
    with pytest.raises(RunFailedError, match=f"{5 - bad} of 5 clients succeeded"):
        run_trouble(tmp_path / "run", "raises", *clients, rounds=1, clients__min_success=min_success)


def test_a_checkpoint_of_another_configuration(tmp_path: Path) -> None:
    run(tmp_path / "run", rounds=2)
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path / "run", resume=True, train__lr=0.2, data__partition__alpha=0.7, engine__workers=2, name="new")
    assert "train.lr: the checkpoint has 0.1, this run has 0.2" in str(caught.value)
    assert "data.partition.alpha: the checkpoint has 0.5, this run has 0.7" in str(caught.value)
    assert "engine" not in str(caught.value)
    assert caught.value.exit_code == 5
    assert run(tmp_path / "run", resume=True, rounds=2).summary["status"] == "completed"


def test_a_run_of_a_fedbox_that_had_fewer_keys_goes_on(tmp_path: Path) -> None:
    """A key that came later counts with its default, in a checkpoint and in the folder of a comparison's run."""
    whole = run(tmp_path / "whole", rounds=2)
    out = run(tmp_path / "run", rounds=1).folder
    (file,) = out.glob("checkpoint/round-*/meta.json")
    meta = json.loads(file.read_text())
    assert meta["config"]["train"].pop("precision") == "float32"
    file.write_text(json.dumps(meta))
    assert run(out, resume=True, rounds=2).summary["model_sha256"] == whole.summary["model_sha256"]
    told = yaml.safe_load((out / "config.yaml").read_text())
    del told["train"]["precision"]
    (out / "config.yaml").write_text(yaml.safe_dump(told))
    assert Cell("", Config.model_validate(yaml.safe_load((whole.folder / "config.yaml").read_text())), out).done
    (file,) = out.glob("checkpoint/round-*/meta.json")
    meta = json.loads(file.read_text())
    meta["config"]["a_key_that_has_gone"] = 1  # such a configuration is compared as it is
    file.write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="a_key_that_has_gone: the checkpoint has 1, this run has None"):
        run(out, resume=True, rounds=3)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "meta.json"])
def test_a_damaged_checkpoint(tmp_path: Path, name: str, damage: Any) -> None:
    changes: dict[str, Any] = {"strategy": "plugins_for_tests:keeping", "rounds": 1}
    run(tmp_path / "run", **changes)
    file = tmp_path / "run" / "checkpoint" / "round-000001" / name
    damage(file)
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path / "run", resume=True, **changes)
    assert str(file) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    shutil.rmtree(tmp_path / "run" / "checkpoint")  # as the message says
    whole = run(tmp_path / "whole", **changes)
    assert run(tmp_path / "run", resume=True, **changes).summary["model_sha256"] == whole.summary["model_sha256"]


@pytest.mark.parametrize("tail", [b'{"round": 4, "pha', b"\x00\xff\n", b'{"no": "round"}\n', b"[1]\n", b"\n"])
def test_a_broken_last_line_is_dropped(tmp_path: Path, tail: bytes) -> None:
    out = run(tmp_path / "run").folder
    with (out / "rounds.jsonl").open("ab") as file:
        file.write(tail)
    run(out, resume=True, rounds=4)
    assert lines(out) == lines(run(tmp_path / "whole", rounds=4).folder)


def test_lines_that_are_gone_are_missed(tmp_path: Path) -> None:
    out = run(tmp_path / "run").folder
    kept = (out / "rounds.jsonl").read_text().splitlines(keepends=True)
    for text in ("".join(kept[:2]), None):
        (out / "rounds.jsonl").unlink()
        if text is not None:
            (out / "rounds.jsonl").write_text(text)
        with pytest.raises(CheckpointError, match=r"rounds\.jsonl holds rounds 1 to \d, but the checkpoint"):
            run(out, resume=True, rounds=4)
        (out / "rounds.jsonl").touch()


def test_a_line_that_tells_too_little_of_its_round_is_missed(tmp_path: Path) -> None:
    out = run(tmp_path / "run").folder
    first, second, third = map(json.loads, (out / "rounds.jsonl").read_text().splitlines())
    del second["phase"]
    (out / "rounds.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (first, second, third)))
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl holds rounds 1 to 1, but the checkpoint"):
        run(out, resume=True, rounds=4)


def test_resume_of_a_completed_run_changes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path / "run", strategy="local")
    before = lines(first.folder)
    again = run(first.folder, resume=True, strategy="local")
    assert again.summary["model_sha256"] == first.summary["model_sha256"]
    assert again.summary["metrics"] == first.summary["metrics"]
    assert lines(first.folder) == before


@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_more_rounds_on_resume_equal_all_rounds_at_once(tmp_path: Path, strategy: str) -> None:
    run(tmp_path / "run", strategy=strategy, rounds=3)
    longer = run(tmp_path / "run", strategy=strategy, rounds=5, resume=True)
    whole = run(tmp_path / "whole", strategy=strategy, rounds=5)
    assert longer.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(longer.folder) == lines(whole.folder)


def test_a_run_that_goes_on_is_no_finished_one_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a report or an export would take for the outcome of all rounds, were the run killed now."""
    from fedbox.server.bundle import BundleError, export
    from fedbox.server.loop import Coordinator
    from fedbox.server.runs import load_run

    run(tmp_path / "run", rounds=2)
    seen = []

    def killed(self: Coordinator, round_: int) -> None:
        seen.append(load_run(tmp_path / "run").status)
        with pytest.raises(BundleError, match=r"summary\.json cannot be read"):
            export(tmp_path / "run")
        raise KeyboardInterrupt

    monkeypatch.setattr(Coordinator, "_run_round", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", rounds=9, resume=True)
    assert seen == ["unfinished"]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    run(tmp_path / "run", rounds=1)
    cases: list[tuple[str, bool, str]] = [
        ("file", False, "is a file"),
        ("file/below", False, "cannot be written"),
        ("empty", True, "holds no run to resume"),
        ("nowhere", True, "holds no run to resume"),
        ("mine", False, "holds other files"),
        ("run", False, "holds a run already; go on with it by --resume"),
    ]
    for name, resume, text in cases:
        with pytest.raises(FolderError, match=text) as caught:
            run(tmp_path / name, resume=resume, rounds=1)
        assert str(tmp_path / name) in str(caught.value)
        assert caught.value.exit_code == 5
    assert not (tmp_path / "nowhere").exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert run(tmp_path / "empty", rounds=1).summary["status"] == "completed"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; 'file/below' above takes this path for all")
def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(FolderError, match="cannot be written"):
        run(tmp_path / "locked" / "run", rounds=1)


def test_a_run_that_could_not_start_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run(tmp_path / "run", data__partition__min_size=10_000)
    assert run(tmp_path / "run", rounds=1).summary["status"] == "completed"
    busy = socket.create_server(("127.0.0.1", 0))
    words = command("serve", "quickstart", "--insecure", "--listen", f"127.0.0.1:{busy.getsockname()[1]}")
    done = subprocess.run(
        [*words, "--out", str(tmp_path / "served")], env=environment(), capture_output=True, text=True, check=False
    )
    busy.close()
    assert done.returncode == 1, done.stderr
    RunFolder(tmp_path / "served", resume=False).close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fedbox.server.folder import RunFolder\n"
        "held = RunFolder(Path(sys.argv[1]), False); print('held', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderError, match="another process is running in"):
            run(out, rounds=1)
        holder.kill()
    assert run(out, rounds=1).summary["status"] == "completed"  # the lock dies with its holder


@pytest.mark.parametrize(
    ("changes", "error", "code", "texts"),
    [
        ({"train__lrr": 0.1, "rounds": 0}, ConfigError, 2, ["train.lrr", "did you mean 'lr'", "rounds", "at least 1"]),
        ({"strategy": "fedavgg"}, ConfigError, 2, ["fedavgg", "did you mean 'fedavg'"]),
        ({"settings": {"fedprox": {"mu": -1.0}}}, ConfigError, 2, ["settings.fedprox.mu", "at least 0"]),
        ({"data__dataset": "digitz"}, DataError, 3, ["digitz", "digits"]),
        ({"model": "mlpp"}, ValueError, 3, ["mlpp", "mlp"]),
        ({"strategy": "plugins_for_tests:nothing"}, PluginError, 4, ["plugins_for_tests:nothing"]),
        ({"strategy": "plugins_for_tests:TOY"}, PluginError, 4, ["dict", "Plugin"]),
        ({"strategy": "no_such_module:plugin"}, PluginError, 4, ["no_such_module"]),
        ({"model": "__main__:net", "workers": 2}, ConfigError, 2, ["model.name", "in the running script", "workers=1"]),
    ],
)
def test_faults_are_named_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], code: int, texts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        run(tmp_path / "run", **changes)
    assert getattr(caught.value, "exit_code", None) == code
    for text in texts:
        assert text in str(caught.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("word", "code"), [("train.lrr=1", 2), ("data.dataset=digitz", 3), ("strategy=no_such_module:plugin", 4)]
)
def test_exit_codes(tmp_path: Path, word: str, code: int) -> None:
    words = command("run", word, "--out", str(tmp_path / "run"), "--workers", "2", "--quiet")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_library_raises_what_the_command_line_reports(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("rounds: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        fedbox.run(tmp_path / "wrong.yaml", out=tmp_path / "run")
