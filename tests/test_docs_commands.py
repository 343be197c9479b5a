"""Every command of the pages is run, or its line says why not: what docs/index.md promises, and the test of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from conftest import real_data
from pages_for_tests import PAGES, ROOT, blocks
from PIL import Image

LEFT_OUT = re.compile(r"#\s+not run by the tests: (\w.*)$")
COMMAND = re.compile(r"(?:fedbox|python3?|pip|pytest|mkdocs|make|npm|docker|ray|FEDBOX_\w+=\S+) [^|]*")
# One round on few samples and, where nothing else is said, in one process; a bundle is run as it is.
FEDBOX = """#!/bin/bash
export PYTHONPATH="$PYTHONPATH:$TRIED_PATHS"
case "$1 $* " in
  run*.zip*) ;;
  run*--resume*) set -- "$@" rounds=2 ;;
  run*|serve*) set -- "$@" rounds=1 ;;
  compare*) set -- "$@" rounds=1 engine.workers=1 ;;
esac
case "$* " in
  run*scenes-fedsto*bdd*) ;;
  run*scenes-fedsto*) set -- "$@" data.options.samples=32 data.options.test_samples=8 data.options.size=64 ;;
  run*fashion-curriculum*) set -- "$@" data.options.limit=3000 data.options.test_limit=200 data.partition.clients=10 ;;
  run*fashion*) set -- "$@" data.options.limit=3000 data.options.test_limit=200 data.partition.min_size=1 ;;
esac
case "$1 $* " in
  *workers*|*--resume*|*.zip*) ;;
  run*) set -- "$@" engine.workers=1 ;;
esac
exec "$TRIED_PYTHON" -m fedbox "$@"
"""
PIP = """#!/bin/bash
exec "$TRIED_PYTHON" -m pip install "./${@: -1}" --quiet --no-deps --no-build-isolation --target installed
"""


def _lines(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def _script(block: str) -> str:
    """Give what of a block is run here."""
    kept = []
    for line in _lines(block):
        folder = real_data() / ("foda_det" if "foda" in line else "fashion_mnist")
        if LEFT_OUT.search(line) or line.startswith("python3 -m venv") or ("FOLDER" in line and not folder.is_dir()):
            continue
        kept.append(line.replace("FOLDER", str(folder)))
    return "\n".join(kept)


PAGES_WITH_COMMANDS = [page for page in PAGES if any(_script(block) for block in blocks(page, "bash"))]


def test_no_command_stands_outside_a_block_that_is_run() -> None:
    """Indented lines and blocks of other languages hold none, but for the usage lines and examples of cli.md."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        lines = re.findall(r"^ {4}(\S.*)$", outside, re.MULTILINE)
        for language in ("text", "sh", "console", "shell", ""):
            lines += [line for block in blocks(page, language) for line in _lines(block)]
        found += [f"{page.name}: {line}" for line in lines if COMMAND.match(line) and page.name != "cli.md"]
    assert found == []


def _lay_out_data(folder: Path) -> None:
    """Make the small data sets that the pages name: a folder of pictures, and parquet."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(1200):
        part, label = ("test", "train")[number % 4 > 0], ("cat", "dog")[number % 2]
        path = folder / "pictures" / part / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
        images.append({"bytes": path.read_bytes(), "path": None})
    (folder / "parquet").mkdir()
    for part in ("train", "test"):
        kinds = ["cat" if number % 2 else "dog" for number in range(len(images))]
        pq.write_table(pa.table({"image": images, "kind": kinds}), folder / "parquet" / f"{part}-0.parquet")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, example_files: Path) -> None:
    """In a folder that holds the pages' examples and small data sets, block by block, by bash."""
    _lay_out_data(example_files)
    (example_files / "benchmarks").symlink_to(ROOT / "benchmarks")
    tools = example_files / "bin"
    tools.mkdir()
    for name, text in (("fedbox", FEDBOX), ("pip", PIP), ("python", '#!/bin/bash\nexec "$TRIED_PYTHON" "$@"\n')):
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)
    paths = os.pathsep.join([str(example_files / "installed"), str(example_files), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "TRIED_PATHS": paths, "TRIED_PYTHON": sys.executable}
    environment["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    for block in blocks(page, "bash"):
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", f"{_script(block)}\nwait"],
            cwd=example_files,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
