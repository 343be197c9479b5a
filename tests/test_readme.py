"""What the README shows must work as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOY = ["rounds=1", "data.options.limit=300", "data.partition.min_size=1", "model=mlp", "train.epochs=1"]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_there_are_exactly_two_set_up_commands() -> None:
    commands = [line for block in _blocks("bash") for line in block.splitlines() if "pip install" in line]
    assert len(commands) == 2
    assert commands[0].endswith("&& fedbox run")
    assert "&& pytest" in commands[1]


def test_the_python_example_runs(tmp_path: Path) -> None:
    code = next(block for block in _blocks("python") if "import fedbox" in block)
    code = code.replace('"quickstart", ', '"quickstart", quiet=True, ')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 6  # the final line, then one for each of five rounds


def test_the_strategy_in_one_file_passes_the_check_that_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "pull.py").write_text(next(block for block in _blocks("python") if "pull.py" in block))
    assert "`fedbox check pull.py`" in README
    done = subprocess.run(
        [sys.executable, "-m", "fedbox", "check", "pull.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_strategy_in_one_file_runs_and_is_fedprox(tmp_path: Path) -> None:
    (tmp_path / "pull.py").write_text(next(block for block in _blocks("python") if "pull.py" in block))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    hashes = []
    for strategy, key in (("pull:plugin", "pull"), ("fedprox", "fedprox")):
        words = ["run", f"strategy={strategy}", f"settings.{key}.mu=0.3", *TOY, "--out", key]
        subprocess.run(
            [sys.executable, "-m", "fedbox", *words],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
        )
        hashes.append(re.search(r'"model_sha256": "(\w+)"', (tmp_path / key / "summary.json").read_text()))
    assert hashes[0] is not None
    assert hashes[1] is not None
    assert hashes[0][1] == hashes[1][1]
