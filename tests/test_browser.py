"""The pages in a real browser: no error, nothing asked of anyone, nothing too wide, and no fault of accessibility."""

import fcntl
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_for_tests import DESK, PHONE, WALL, axe_script, chromium, opened
from runs_for_tests import add_examples, add_traces, make_detection_run, make_line, make_run, page

from fedbox.server.compare import compare_rows
from fedbox.server.compare_files import html
from fedbox.server.follow import Follower
from fedbox.server.groups import Group
from fedbox.server.runs import load_run
from fedbox.server.watch_web import LiveServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return axe_script(tmp_path_factory.mktemp("axe"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with every section, one of several runs, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    one = add_examples(add_traces(make_detection_run(folder / "one", ["server", "full", "full"])))
    with (one / "rounds.jsonl").open("a") as file:
        failures = [{"client": "client-10", "kind": "raised", "reason": "x" * 300}]
        line = make_line(4, None, failures=failures)
        line["metrics"] = {
            "map50": 0.5,
            "pseudo_precision": 0.5,
            "a_metric_with_a_very_long_name_indeed_of_many_words": 1,
        }
        file.write(json.dumps(line) + "\n")
    runs = [
        add_traces(
            make_run(folder / f"r{i}", [0.25, 0.5, 0.75], strategy=("fedavg", "local")[i % 2], seed=i // 2), i // 2
        )
        for i in range(4)
    ]
    groups = [Group(i, name, tuple(load_run(run) for run in runs[i::2])) for i, name in enumerate(("fedavg", "local"))]
    found = {"one": folder / "one.html", "many": folder / "many.html", "compare": folder / "compare.html"}
    found["one"].write_text(page([one], folder), encoding="utf-8")
    found["many"].write_text(page(runs, folder), encoding="utf-8")
    found["compare"].write_text(html(compare_rows(groups, "accuracy"), groups, "accuracy", None), encoding="utf-8")
    return found


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light")])
@pytest.mark.parametrize("name", ["one", "many", "compare"])
def test_a_page_has_no_fault(
    browser: Any, axe: str, pages: dict[str, Path], name: str, size: dict[str, int], scheme: str
) -> None:
    with opened(browser, pages[name].as_uri(), size, scheme) as shown:
        assert shown.wide <= 0
        shown.page.evaluate("document.querySelectorAll('details:not([open])').forEach(d => { d.open = true })")
        assert shown.wide <= 0
        if size is DESK:
            assert shown.faults(axe) == []
        assert shown.console == []
        assert [url for url in shown.asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("size", [DESK, WALL])
def test_the_table_of_final_figures_is_not_cut(browser: Any, pages: dict[str, Path], size: dict[str, int]) -> None:
    hidden = "(box => box.scrollWidth - box.clientWidth)(document.querySelector('.final').parentElement)"
    for name in ("one", "many"):
        with opened(browser, pages[name].as_uri(), size, "light") as shown:
            assert shown.page.evaluate(hidden) <= 0
            assert shown.wide <= 0


def test_the_page_follows_the_reader_s_colours(browser: Any, pages: dict[str, Path]) -> None:
    seen = set()
    for scheme in ("light", "dark"):
        with opened(browser, pages["one"].as_uri(), DESK, scheme) as shown:
            seen.add(shown.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            square = "getComputedStyle(document.querySelector('.heat path[class^=h]')).fill"
            seen.add(shown.page.evaluate(square))
    assert len(seen) == 4


def test_by_keyboard_alone_a_reader_skips_hides_and_opens(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["many"].as_uri(), DESK, "light") as shown:
        keys, active = shown.page.keyboard, "document.activeElement"
        keys.press("Tab")
        assert shown.page.evaluate(f"{active}.textContent") == "Skip to the final figures"
        keys.press("Enter")
        reached = []
        for _ in range(12):
            keys.press("Tab")
            reached.append(
                shown.page.evaluate(f"{active}.id || {active}.tagName + {active}.getAttribute('aria-label')")
            )
            if reached[-1] == "show0":
                break
        assert reached == ["DIVTable: final figures", "show0"]  # the wide table can be scrolled by keys
        drawn = "[...document.querySelectorAll('svg .g0')].filter(g => g.getClientRects().length).length"
        assert shown.page.evaluate(drawn) > 0
        keys.press("Space")
        assert shown.page.evaluate(drawn) == 0
        shown.page.focus("summary")
        keys.press("Enter")
        assert shown.page.evaluate("document.querySelector('details').open") is True


def test_the_live_page_takes_over_a_new_round_and_keeps_what_the_reader_did(
    browser: Any, axe: str, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", [0.25, 0.5], rounds=9, status=None)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = LiveServer(Follower(folder), 0)
        try:
            with opened(browser, server.url, PHONE, "dark") as shown:
                shown.page.click("summary")
                with (folder / "rounds.jsonl").open("a") as file:
                    file.write(json.dumps(make_line(3, 0.875)) + "\n")
                shown.page.wait_for_selector("h1:has-text('0.8750')", timeout=60_000)
                assert shown.page.text_content("#live-state") == "digits: round 4 of 9, about 6.00 s left"
                assert shown.page.evaluate("document.querySelector('details').open") is True
                assert shown.wide <= 0
                assert shown.console == []
                assert {url.removeprefix(server.url) for url in shown.asked if not url.startswith("data:")} == {
                    "", "live.js", "state",
                }  # fmt: skip
                shown.page.click("#live-pause")
                assert shown.page.get_attribute("#live-pause", "aria-pressed") == "true"
        finally:
            server.close()
    assert threading.active_count() < 20
