"""A real browser for the tests of pages: Chromium by Playwright, and axe-core, the accessibility checker.

Both are skipped with a reason where they are not there: `pip install playwright` and a Chromium (FEDBOX_CHROMIUM names
one); axe-core comes out of the npm registry (`npm pack`) or from FEDBOX_AXE, a path of axe.min.js.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
WALL = {"width": 1920, "height": 1080}


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a headless Chromium. Skips without one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs a browser's driver: pip install playwright")
    path = os.environ.get("FEDBOX_CHROMIUM") or next((p for name in BROWSERS if (p := shutil.which(name))), None)
    with sync_api.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium to be started (FEDBOX_CHROMIUM names one): {str(error).splitlines()[0]}")
        yield browser
        browser.close()


def axe_script(folder: Path) -> str:
    """Give axe-core's source, which is not part of the project. Skips where it cannot be had."""
    if given := os.environ.get("FEDBOX_AXE"):
        return Path(given).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs axe-core: FEDBOX_AXE names its axe.min.js, or npm fetches it")
    done = subprocess.run(
        [npm, "pack", "axe-core@4", "--silent"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    packages = list(folder.glob("axe-core-*.tgz"))
    if done.returncode or not packages:
        pytest.skip(f"axe-core could not be fetched: {done.stderr.strip()[:120]}")
    with tarfile.open(packages[0]) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


@dataclass
class Opened:
    """A page in the browser, with what it wrote to the console and what it asked of the network."""

    page: Any
    console: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def wide(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def faults(self, script: str) -> list[str]:
        """Give axe-core's findings, each with its weight and the first element it is about."""
        self.page.evaluate(script + "; window.axe = axe")
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


@contextmanager
def opened(browser: Any, url: str, size: dict[str, int], scheme: str) -> Iterator[Opened]:
    """Open a page in a window of its own, in the colours of `scheme`."""
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    shown = Opened(context.new_page())
    shown.page.on("console", lambda message: shown.console.append(message.text))
    shown.page.on("pageerror", lambda error: shown.console.append(str(error)))
    shown.page.on("request", lambda request: shown.asked.append(request.url))
    shown.page.goto(url)
    yield shown
    context.close()
