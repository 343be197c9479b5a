"""What closes a run on the screen, and who holds what."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import command, environment, save_config, summary
from rich.console import Console

from fedbox.server.console import partition_table, summary_table
from fedbox.simulations.run import check
from fedbox.strategies.federation import Federation


def test_stricter_measures_of_each_domain_stand_in_the_summary_and_not_on_the_screen() -> None:
    """A detection run has map50, map75 and map of every domain and class, of up to three models."""
    kinds = [f"{who}{kind}" for who in ("", "personal_") for kind in ("map50", "map75", "map")]
    families = {f"{kind}_by_domain": {"rainy": 0.25} for kind in kinds}
    counts: dict[str, Any] = dict.fromkeys(["rounds", "clients", "failures", "workers", "bytes_up", "bytes_down"], 3)
    texts = dict.fromkeys(["name", "strategy", "status", "engine", "model_sha256"], "text")
    metrics = {"map50": 0.5, "map75": 0.25, "map": 0.125, **families}
    summary = {**counts, **texts, "best": {}, "metrics": metrics, "seconds": 1.0, "peak_rss_mb": 1.0}
    console = Console(width=120, record=True)
    console.print(summary_table(summary, Path("run")))
    shown = {line.split()[1] for line in console.export_text().splitlines() if len(line.split()) > 2}
    assert {"map50", "map75", "map", "map50_by_domain", "personal_map50_by_domain"} <= shown
    assert not {name for name in families if "map50" not in name} & shown


def test_folders_and_names_are_no_markup() -> None:
    counts: dict[str, Any] = dict.fromkeys(["rounds", "clients", "failures", "workers", "bytes_up", "bytes_down"], 3)
    texts = {"name": "a[/b]", "strategy": "x:[red]", "status": "completed", "engine": "ray", "model_sha256": "0"}
    summary = {**counts, **texts, "best": {}, "metrics": {"loss[0]": 0.5}, "seconds": 1.0, "peak_rss_mb": 1.0}
    console = Console(width=120, record=True)
    console.print(summary_table(summary, Path("runs/[lr=0.1]")))
    shown = console.export_text()
    for text in ("a[/b]: x:[red]", "loss[0]", "runs/[lr=0.1]"):
        assert text in shown


def test_many_classes_leave_room_for_the_roles() -> None:
    """30 classes on 72 columns: no figure is cut, what cannot be shown is told; four do fit."""
    for classes, told in ((30, True), (4, False)):
        changes = {"data.options.classes": classes, "data.partition.alpha": 1.0}
        federation = Federation.prepare(check("quickstart", {"data.dataset": "synthetic", **changes}))
        console = Console(width=72, record=True)
        console.print(partition_table(federation, federation.table(), 3, console))
        shown = " ".join(console.export_text().split())
        assert all(role in shown for role in ("labelled", "unlabelled", "test"))
        assert "\u2026" not in shown
        assert (f"{classes} classes, too many" in shown) == told


@pytest.mark.parametrize("screen", ["a pipe that nobody reads", "/dev/full"])
def test_a_run_outlives_the_screen_that_shows_it(tmp_path: Path, screen: str) -> None:
    """As when a terminal is closed, or the disk fills that its log is on."""
    if screen == "/dev/full" and not Path(screen).exists():
        pytest.skip("there is no /dev/full")
    if screen == "/dev/full":
        shown = os.open(screen, os.O_WRONLY)
    else:
        unread, shown = os.pipe()
        os.close(unread)
    words = command("run", save_config(tmp_path / "toy.yaml"), "rounds=2", "--out", str(tmp_path / "run"))
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=shown, env=environment(), timeout=120, check=False)
    os.close(shown)
    assert done.returncode == 0
    assert b"report:" in done.stdout
    assert summary(tmp_path / "run")["status"] == "completed"
