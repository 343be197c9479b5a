"""What closes a run on the screen."""

from pathlib import Path
from typing import Any

from rich.console import Console

from fedbox.server.console import summary_table


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
