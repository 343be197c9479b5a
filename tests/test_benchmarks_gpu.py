"""The benchmark of GPUs, as far as it runs without one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300, check=False
    )


def test_all_contestants_train_the_same_model(tmp_path: Path) -> None:
    done = _run("--device", "cpu", "--quick", "--only", "small_mlp", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    race = json.loads((tmp_path / "found.json").read_text())["races"]["small_mlp"]
    names = {"loop", "one_by_one", "stack", "stack_cuda_graphs"}
    assert race["ratios"].keys() == race["clients_per_second"].keys() == names
    assert race["largest_difference"] < 1e-6  # but for the rounding of the mean
    assert race["gpu_busy"] == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    done = _run("--quick")
    assert done.returncode == 2
    assert "--device cuda: torch sees no GPU here; --device cpu shows that the script works" in done.stderr
