"""The race of engines, as far as it can be tried in seconds."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def test_the_race_of_the_detector_comes_to_its_end(tmp_path: Path) -> None:
    words = ["--quick", "--turns", "1", "--only", "detection", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "engines.py"), *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "found.json").read_text())["ratios"]["detection"] > 0
