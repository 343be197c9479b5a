"""Small run folders for the tests of the report, and the page that is made of them."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import save_file

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


def make_detection_run(folder: Path, phases: list[str], *, member: float = 0.0, **more: Any) -> Path:
    """A run on two domains and three classes; round r has the map50 r / 10, and `member` more in each later name."""
    make_run(folder, [None] * len(phases), **more)
    lines = []
    for at, phase in enumerate(phases, start=1):
        metrics = {"map50": at / 10, "server_train_loss": 1 / at}
        names = [f"domain.{name}" for name in ("cloudy", "rainy")] + [
            f"class.{name}" for name in ("bus", "car", "sign")
        ]
        metrics |= {f"map50_by_{name}": at / 10 + i * member for i, name in enumerate(names)}
        metrics |= {"personal_map50_by_domain.rainy": at / 20}
        lines.append(json.dumps(make_line(at, None, phase=phase) | {"metrics": metrics, "clients": {}}))
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def jpeg(width: int = 64, height: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 150)).save(buffer, "JPEG")
    return buffer.getvalue()


def example(**changes: Any) -> dict[str, Any]:
    """An entry of examples.json: three true boxes, of which the model finds two, the teacher one, the student none."""
    truth = [[2, 2, 22, 22, 0, 1.0], [30, 4, 40, 24, 1, 1.0], [50, 10, 60, 30, 1, 1.0]]
    model = [[3, 2, 22, 22, 0, 0.9], [30, 5, 40, 24, 1, 0.8], [0, 0, 60, 30, 1, 0.4]]
    boxes = {"truth": truth, "model": model, "teacher": truth[:1], "student": [[2, 2, 22, 22, 1, 0.5]]}
    entry = {"domain": "rainy", "image": "00.jpg", "width": 64, "height": 32, "classes": ["bus", "car"]}
    return entry | {"boxes": boxes, "client": "client-1"} | changes


def add_examples(folder: Path, *entries: dict[str, Any]) -> Path:
    place = folder / "examples"
    place.mkdir()
    (place / "00.jpg").write_bytes(jpeg())
    (place / "examples.json").write_text(json.dumps({"version": 1, "examples": entries or [example()]}))
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


def add_traces(folder: Path, way: int = 0) -> Path:
    """Add to a run's folder what is noted for the report alone: who holds what, times, landmarks of two rounds."""
    names = ["client-2 (rainy)", "client-10 (a town with a very long name)"]
    tables = {"labelled": [[5 + way, 0, 1], [0, 7, 2]], "unlabelled": [[1, 1, 1], [0, 0, 0]], "test": [[1, 0, 0]] * 2}
    told = {"version": 1, "classes": ["bus", "car", "sign"], "clients": 1000, "names": names, "server": [9, 9, 0]}
    (folder / "partition.json").write_text(json.dumps(told | tables))
    visits = [["client-2", "train", "1", 0.01, 0.4], ["client-10", "train", "2", 0.01, 0.2]]
    visits += [["client-10", "evaluate", "", 0.6, 0.7]]
    phases = [["train", 0.0, 0.4], ["aggregate", 0.4, 0.45], ["evaluate", 0.45, 0.7]]
    lines = [{"round": at, "visits": visits, "phases": [*phases, ["checkpoint", 0.7, 0.7 + at]]} for at in range(1, 5)]
    (folder / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "landmarks").mkdir()
    for at in (1, 2):
        points = {"prototypes": np.eye(3, 5, dtype=np.float32) * at, "anchors": np.eye(3, 5, k=1, dtype=np.float32)}
        points["prototypes"][2] = np.nan if at == 1 else 1.0
        save_file(points, folder / "landmarks" / f"round-{at:06d}.safetensors")
    return folder
