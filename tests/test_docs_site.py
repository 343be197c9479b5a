"""The documentation as a site and as a notebook: it builds without a warning, and its cells run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fedbox

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links, anchors, the navigation and every name of the API page are right: mkdocs calls anything else a warning."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install -e '.[docs]'")
    words = ["build", "--strict", "--quiet", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "mkdocs", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert 'id="fedbox.strategies.contract.ServerHalf.finish"' in api
    # What lies outside docs/ is named as text, for the built site has no such page.
    assert "examples/deploy" in (tmp_path / "deploy.html").read_text(encoding="utf-8")
    loaded = ('src="http', 'rel="stylesheet" href="http', "url(http")
    assert [page.name for page in tmp_path.rglob("*.html") if any(one in page.read_text() for one in loaded)] == []


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one namespace, as a kernel would; with fewer rounds, and no window for the picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    space: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        code = "".join(cell["source"]).replace('"rounds": 8', '"rounds": 2')
        exec(compile(code, f"cell {number}", "exec"), space)
    result = space["result"]
    assert len(result.rounds) == 2
    assert set(space["runs"]) == {(method, seed) for method in ("fedavg", "fedprox", "local") for seed in (0, 1)}
    # The strategy of the last cell is FedAvg at a step of length 1.
    (tmp_path / "step.py").write_text("".join(cells[-2]["source"]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    mine = fedbox.run("quickstart", strategy="step:plugin", quiet=True, report=False, **{**space["small"], "rounds": 2})
    assert mine.metrics["accuracy"] == pytest.approx(result.metrics["accuracy"], abs=0.02)
