"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest
from pages_for_tests import lay_out


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked `soak` unless it is asked for: FEDBOX_SOAK=1 pytest -m soak."""
    if not os.environ.get("FEDBOX_SOAK"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="a long test: FEDBOX_SOAK=1 runs it"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder}, which are not part of the project")
    return folder


@pytest.fixture
def example_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of someone who reads the pages: it holds their examples."""
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path
