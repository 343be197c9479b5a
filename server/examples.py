"""Example pictures of a run: `examples/` read as it is, and what each picture shows, in words and numbers."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .stats import number, printable

VERSION = 1
KINDS = {"truth": "truth", "model": "global model", "teacher": "teacher", "student": "student"}
MATCH = 0.5
"""IoU from which a detection of the right class counts as a true box found."""
MAX_EXAMPLES = 100
MAX_BYTES = 2_000_000  # of a picture
MAX_BOXES = 1000
MAX_SIDE = 4096  # pixels


@dataclass(frozen=True)
class Box:
    """A box in pixels of the picture, x1 < x2 and y1 < y2, with the name of its class and its score in [0, 1]."""

    x1: float
    y1: float
    x2: float
    y2: float
    name: str
    score: float

    @property
    def area(self) -> float:
        """In square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def iou(self, other: "Box") -> float:
        """Give the intersection over the union, in [0, 1]."""
        wide = min(self.x2, other.x2) - max(self.x1, other.x1)
        high = min(self.y2, other.y2) - max(self.y1, other.y1)
        shared = max(wide, 0.0) * max(high, 0.0)
        return shared / (self.area + other.area - shared)


@dataclass(frozen=True)
class Example:
    """A picture with its boxes by kind, in the order of KINDS; `client` is whose teacher and student they are."""

    domain: str
    client: str
    width: int
    height: int
    picture: str  # JPEG in base64
    boxes: dict[str, list[Box]]

    @property
    def text(self) -> str:
        """Say how many true boxes there are, and how many of them each model found."""
        truth = self.boxes.get("truth", [])
        told = f"{len(truth)} true box{'' if len(truth) == 1 else 'es'}"
        link = "; {} found by the "
        for kind, boxes in self.boxes.items():
            if kind != "truth":
                hits = found(truth, boxes)
                told += link.format(hits) + KINDS[kind] + (f" ({len(boxes) - hits} false)" if len(boxes) > hits else "")
                link = ", {} by the "
        return told

    @property
    def rows(self) -> list[list[str]]:
        """Tabulate the boxes: kind, class, score, then x1, y1, x2, y2."""
        return [
            [KINDS[kind], box.name, number(box.score), *(f"{side:.1f}" for side in (box.x1, box.y1, box.x2, box.y2))]
            for kind, boxes in self.boxes.items()
            for box in boxes
        ]

    def drawn(self, kind: str) -> list[Box]:
        """Give the boxes of a kind, the largest first, so that those inside others can be pointed at."""
        return sorted(self.boxes[kind], key=lambda box: -box.area)


def found(truth: Sequence[Box], boxes: Sequence[Box]) -> int:
    """Count the true boxes that are found: by the best detection, in order of scores, of their class and place."""
    left = list(truth)
    for box in sorted(boxes, key=lambda box: -box.score):
        rivals = [true for true in left if true.name == box.name and true.iou(box) >= MATCH]
        if rivals:
            left.remove(max(rivals, key=box.iou))
    return len(truth) - len(left)


def by_domain(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Gather examples by their domain, in the order in which they come."""
    domains: dict[str, list[Example]] = {}
    for example in examples:
        domains.setdefault(example.domain, []).append(example)
    return domains


def read_examples(folder: Path, notes: list[str]) -> tuple[Example, ...]:
    """Read the examples of a run's folder; what is broken is noted and left out, and without any there are none."""
    place = folder / "examples"
    if not place.is_dir():
        return ()
    try:
        told = json.loads((place / "examples.json").read_text(encoding="utf-8"))
        version, listed = told["version"], list(told["examples"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        notes.append("examples/examples.json is absent or unreadable: no pictures")
        return ()
    if version != VERSION:
        notes.append(
            f"examples/examples.json has version {printable(version)[:20]}; this report reads version {VERSION}"
        )
        return ()
    examples, faults = [], []
    for raw in listed[:MAX_EXAMPLES]:
        try:
            examples.append(_example(raw, place))
        except Exception as error:  # whatever a broken picture or a made-up entry leads to
            image = printable(raw.get("image") if isinstance(raw, dict) else raw)[:40]
            faults.append(f"examples/{image} cannot be shown: {printable(error)[:120] or type(error).__name__}")
    if faults:
        notes.append(faults[0] + (f"; nor can {len(faults) - 1} more" if len(faults) > 1 else ""))
    return tuple(examples)


def _example(raw: dict[str, Any], place: Path) -> Example:
    width, height = (_whole(raw[side], MAX_SIDE) for side in ("width", "height"))
    classes = [printable(name) for name in raw["classes"]]
    boxes = {kind: _boxes(raw["boxes"][kind], classes, width, height) for kind in KINDS if kind in raw["boxes"]}
    domain, client = (printable("" if raw.get(key) is None else raw[key]) for key in ("domain", "client"))
    return Example(domain, client, width, height, _picture(place, raw["image"], (width, height)), boxes)


def _whole(value: Any, most: int) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{printable(value)[:20]} is not a whole number from 1 to {most}")
    return value


def _boxes(raw: Any, classes: Sequence[str], width: int, height: int) -> list[Box]:
    boxes = []
    for row in raw[:MAX_BOXES]:
        x1, y1, x2, y2, label, score = row
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and 0 <= score <= 1):  # a NaN fails it, too
            raise ValueError(f"a box is {printable(row)[:60]}, which is not in the picture or has a wrong score")
        if type(label) is not int or not 0 <= label < len(classes):
            raise ValueError(f"a box has the label {printable(label)[:20]}; there are {len(classes)} classes")
        boxes.append(Box(float(x1), float(y1), float(x2), float(y2), classes[label], float(score)))
    return boxes


def _picture(place: Path, name: Any, size: tuple[int, int]) -> str:
    """Give a picture of the folder in base64. Raises OSError, ValueError unless it is a whole JPEG of the size."""
    from PIL import Image

    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError("not the name of a file in the folder")
    path = place / name
    if not path.is_file() or path.is_symlink():
        raise ValueError("the picture is absent")
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise ValueError(f"the picture has more than {MAX_BYTES:,} bytes")
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        if picture.size != size:
            raise ValueError(f"the picture is {picture.size[0]} x {picture.size[1]} pixels")
        picture.load()
    return base64.b64encode(data).decode()
