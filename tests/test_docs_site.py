"""The documentation as a site and as a notebook: it builds without a warning, and its cells run."""

import glob
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages_for_tests import COMMANDS, PAGES

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


ELSEWHERE = {"deploy.md": "tests/test_deploy.py runs these", "errors.md": "they show what goes wrong"}
NEEDS = {
    "cuda": "a GPU",
    "data/mnist": "MNIST",
    "pictures": "a folder of pictures",
    "ylecun": "the hub",
    "parquet/": "a parquet file",
    "bdd100k": "BDD100K",
}
SMALL = {
    "scenes-fedsto": ["data.options.samples=32", "data.options.test_samples=8", "data.options.size=64"],
    "fashion": ["data.options.limit=3000", "data.options.test_limit=200", "data.partition.min_size=1"],
}


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, example_files: Path, shared_data: Path) -> None:
    """In a folder that holds the pages' examples, as a reader would; one round each, on few samples."""
    for given in [words for at, words in COMMANDS if at == page]:
        line = " ".join(given)
        if any(need in line for need in NEEDS) or given[0] not in ("run", "data", "report", "compare", "configs"):
            continue
        folder = shared_data / ("foda_det" if "foda" in line else "fashion_mnist")
        named = [word.replace("FOLDER", str(folder)) for word in given]
        words = [found for word in named for found in (sorted(glob.glob(word)) if "*" in word else [word])]
        if words[0] in ("run", "compare") and "--resume" not in words:
            words += ["rounds=1", *next((more for name, more in SMALL.items() if name in line), [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(example_files), *sys.path])}
        done = subprocess.run(
            [sys.executable, "-m", "fedbox", *words],
            cwd=example_files,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr.decode()}"
