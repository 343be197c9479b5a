"""100,000 clients, and 2,000 of them in one round: memory does not grow with either number."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import environment

CODE = """
import json, resource, sys
import fedbox
changes = json.loads(sys.argv[2])
base = {
    "name": "many", "rounds": 2, "engine": {"workers": 1}, "model": {"name": "mlp", "options": {"hidden": 64}},
    "data": {"dataset": "synthetic", "options": {"samples": 200_000, "size": 8},
             "partition": {"kind": "iid", "clients": 1000}},
    "train": {"epochs": 1, "batch_size": 4, "lr": 0.05}, "clients": {"per_round": 100},
}
result = fedbox.run(base, out=sys.argv[1], quiet=True, report=False, **changes)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
sizes = [len(record["clients"]) for record in result.rounds]
print(json.dumps({"peak_mb": peak, "sizes": sizes, "clients": result.summary["clients"]}))
"""


def _run(out: Path, **changes: Any) -> dict[str, Any]:
    words = [sys.executable, "-c", CODE, str(out), json.dumps(changes)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """1,000 clients, 100 a round."""
    return _run(tmp_path_factory.mktemp("few") / "run", train__steps=4)


@pytest.mark.slow
def test_a_population_of_a_hundred_thousand(tmp_path: Path, few: dict[str, Any]) -> None:
    many = _run(tmp_path / "run", data__partition__clients=100_000, train__steps=4)
    assert many["clients"] == 100_000
    assert many["sizes"] == [100, 100]
    # 99,000 clients more: 0.8 MB of offsets, and what the dealing of samples needs for a moment.
    assert many["peak_mb"] < few["peak_mb"] + 40, (many, few)


@pytest.mark.soak
def test_a_cohort_of_two_thousand(tmp_path: Path, few: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"data__partition__clients": 20_000, "train__steps": 4}
    many = _run(tmp_path / "run", clients__per_round=2000, **changes)
    assert many["sizes"] == [2000, 2000]
    # The updates alone, all held at once, would be 2,000 x 4,810 weights x 4 bytes = 38 MB.
    assert many["peak_mb"] < few["peak_mb"] + 25, (many, few)
