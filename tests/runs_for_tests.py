"""Small run folders for the tests of the report, and the page that is made of them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from fedbox.server.report import write_report

SVG = re.compile(r"<svg xmlns.*?</svg>", re.DOTALL)


def make_line(at: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    clients = {
        "client-2": {"examples": 30, "train_loss": 0.5, "accuracy": accuracy},
        "client-10": {"examples": 10, "train_loss": 0.7, "accuracy": 0.25},
    }
    line = {"round": at, "phase": "train", "metrics": {"accuracy": accuracy, "loss": 1 / at}, "clients": clients}
    line |= {"bytes_up": 1000, "bytes_down": 3000, "failures": []}
    line["seconds"] = {"train": 0.5, "aggregate": 0.125, "evaluate": 0.25, "checkpoint": 0.0, "total": 1.0}
    return line | more


def make_run(
    folder: Path,
    accuracies: list[float | None],
    *,
    name: str = "digits",
    seed: int = 0,
    strategy: str = "fedavg",
    tail: str = "",
    status: str | None = "completed",
    **config: Any,
) -> Path:
    folder.mkdir(parents=True)
    told = {"name": name, "seed": seed, "strategy": strategy, "data": {"dataset": "digits"}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    lines = [json.dumps(make_line(i, value)) for i, value in enumerate(accuracies, start=1)]
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n" + tail)
    if status:
        summary = {"name": name, "strategy": strategy, "engine": "inprocess", "workers": 1, "seed": seed}
        summary |= {"rounds": len(lines), "clients": 2, "status": status, "metrics": {"accuracy": accuracies[-1]}}
        summary |= {"bytes_up": 1000 * len(lines), "bytes_down": 3000 * len(lines), "seconds": 1.0 * len(lines)}
        summary |= {"peak_rss_mb": 300.5, "model_sha256": "ab" * 32, "versions": {"torch": "2.13"}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def page(runs: list[Path], tmp_path: Path) -> str:
    return write_report(runs, tmp_path / "out" / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Gather tags with their attributes, and check that every tag that must close does, in order."""

    void = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()
