"""Fixtures that every room's tests share."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from pages_for_tests import EXAMPLES, lay_out

if TYPE_CHECKING:
    from fedbox.simulations.pool import Pool

# How fast examples come says something of the machine, not of what is tested.
settings.register_profile("fedbox", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedbox")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked `soak` unless it is asked for: FEDBOX_SOAK=1 pytest -m soak."""
    if not os.environ.get("FEDBOX_SOAK"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="a long test: FEDBOX_SOAK=1 runs it"))


def real_data() -> Path:
    """Where data sets lie that are not part of the project; perhaps they are not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("FEDBOX_DATA", beside))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = real_data()
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder} (FEDBOX_DATA), which are not part of the project")
    return folder


@pytest.fixture
def fedbox_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process, for what needs no process of its own: (exit code, stdout, stderr)."""

    from fedbox.__main__ import main

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedbox", *words])
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("NO_COLOR", "1")
        with contextlib.chdir(tmp_path), pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def example_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of someone who reads the pages: it holds their examples."""
    lay_out(tmp_path)
    for _, name, _ in EXAMPLES:  # what an earlier test imported may be another page's file of that name
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path, also on that of the pool's workers, into which tests may install packages."""
    folder = tmp_path_factory.mktemp("plugins")
    added = [str(folder), str(Path(__file__).resolve().parents[1] / "examples" / "fedbox-scaffold")]
    sys.path[:0] = added
    yield folder
    for entry in added:
        sys.path.remove(entry)


@pytest.fixture(scope="session")
def pool(plugin_site: Path) -> "Iterator[Pool]":
    """Two workers for all conformance suites: to start them takes longer than a run on them."""
    from fedbox.simulations.pool import Pool

    workers = Pool(2)
    yield workers
    workers.close()
