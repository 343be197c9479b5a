"""Pictures of a detection run: a few images that the server measured on, with the true boxes and those of the models.

`examples/` in the run's folder holds the images as JPEG and `examples.json`: `version`, and `examples`, a list of
{domain, image, width, height, classes, boxes, client}. `boxes` has the kind `truth` and of `model` (the global one),
`teacher` and `student` (those that `client` keeps, in a simulation) what there is; a box is
[x1, y1, x2, y2, label, score] in pixels.
"""

import io
import json
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.boxes_data import BoxData, BoxSet
from ..models import FlatModel
from ..models.detections import ObjectDetector
from ..strategies.atomic import write_atomic
from ..strategies.box_samples import BoxSamples
from ..strategies.exact import Arrays
from ..strategies.federation import Federation, Index
from .examples import VERSION

MAX_DOMAINS, EACH, MAX_BOXES = 6, 2, 20
SCORE = 0.3
"""Detections with a score above this are shown."""

Box = list[float]
Chosen = dict[str | None, Index]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """Whose boxes are shown after round `round`: the global arrays' (None where models are personal) and the clients'.

    `keepers` are the clients that kept models of their own where the server can read them, as in a simulation; `own`
    gives the arrays of one of them by kind, `teacher` and `student`.
    """

    round: int
    weights: Arrays | None
    keepers: Collection[str] = ()
    own: Callable[[str], dict[str, Arrays]] = lambda _client: {}


def save_examples(folder: Path, federation: Federation, shown: Shown) -> None:
    """Write `examples/` into a run's folder; nothing for images without boxes, without a model, or before a round.

    A fault is logged and goes no further: pictures never fail a run. Draws no random number.
    """
    place = folder / "examples"
    try:
        (place / "examples.json").unlink(missing_ok=True)  # of an earlier end of the same run
        if not isinstance(federation.dataset, BoxSet) or shown.round == 0:
            return
        if shown.weights is None and not shown.keepers:
            return
        examples = list(_examples(federation, federation.dataset, shown))
        place.mkdir(exist_ok=True)
        for number, (example, picture) in enumerate(examples):
            example["image"] = f"{number:02d}.jpg"
            write_atomic(place / example["image"], picture)
        told = {"version": VERSION, "examples": [example for example, _ in examples]}
        write_atomic(place / "examples.json", json.dumps(told, allow_nan=False).encode())
    except Exception as error:
        log.warning("no example pictures, as they could not be made: %s: %s", type(error).__name__, error)


def choose(counts: NDArray[Any], domains: NDArray[Any] | None) -> Chosen:
    """Give the places of up to EACH images for each of the first MAX_DOMAINS domains, in order of their names.

    counts: boxes of each image, [n]; domains: names, [n], None for one domain without a name. The first images with two
    boxes or more are taken, then the first with one; a domain without boxes is left out.
    """
    names = [None] if domains is None else np.unique(domains).tolist()
    chosen: Chosen = {}
    for name in names:
        here = np.ones(len(counts), bool) if name is None else domains == name
        order = [*np.flatnonzero(here & (counts >= 2)), *np.flatnonzero(here & (counts == 1))]
        if order and len(chosen) < MAX_DOMAINS:
            chosen[name] = np.array(order[:EACH], np.int64)
    return chosen


def _examples(federation: Federation, dataset: BoxSet, shown: Shown) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Give each example, without the name of its file, and its JPEG."""
    config, device = federation.config, torch.device(federation.config.engine.device)
    validation = config.evaluate.split == "validation"
    part = dataset.train if validation else dataset.test
    rows = federation.validation if validation else np.arange(len(part))
    key = config.data.partition.key
    domains = part.attributes[key][rows].astype(str) if key is not None and key in part.attributes else None
    built = None
    for domain, places in choose(part.counts[rows], domains).items():
        data = part.take(rows[places])
        samples = BoxSamples(data, classes=dataset.classes, mean=dataset.mean, std=dataset.std, device=device)
        x = samples.x(torch.arange(len(data), device=device))
        client = _client(federation, domain, shown.keepers)
        if federation.kind(client) != built:  # one network for all domains, or one for each client shown
            built, flat = federation.kind(client), federation.model(device, client)
            before = flat.state(flat.module.state_dict())
        found = {}
        for kind, arrays in _arrays(client, shown).items():
            flat.load(before)
            flat.load(arrays)
            found[kind] = _detect(flat, x)
        for number in range(len(data)):
            boxes = {"truth": _truth(data, number)} | {kind: each[number] for kind, each in found.items()}
            _, _, height, width = data.images.shape
            about = {"domain": domain, "image": "", "width": width, "height": height}
            yield about | {"classes": list(dataset.classes), "boxes": boxes, "client": client}, _jpeg(data, number)


def _client(federation: Federation, domain: str | None, keepers: Collection[str]) -> str | None:
    """Give the first client of a domain that kept anything."""
    keys = federation.clients.keys
    if domain is None or keys is None:
        return None
    # A client of several domains has the key `rainy+snowy`.
    mine = (number for number, key in enumerate(keys) if domain == key or domain in key.split("+"))
    return next((name for name in map(federation.name, mine) if name in keepers), None)


def _arrays(client: str | None, shown: Shown) -> dict[str, Arrays]:
    found = {} if shown.weights is None else {"model": shown.weights}
    return found if client is None else found | shown.own(client)


def _detect(flat: FlatModel, x: Tensor) -> list[list[Box]]:
    found = cast(ObjectDetector, flat.module).detect(x, confidence=SCORE, most=MAX_BOXES)
    return [_rows(each.boxes.cpu(), each.labels.cpu(), each.scores.cpu()) for each in found]


def _truth(data: BoxData, number: int) -> list[Box]:
    boxes, labels = data.of(number)
    return _rows(boxes, labels, np.ones(len(boxes)))


def _rows(boxes: Any, labels: Any, scores: Any) -> list[Box]:
    rows = zip(np.asarray(boxes).tolist(), np.asarray(labels).tolist(), np.asarray(scores).tolist(), strict=True)
    told = ([*(round(side, 2) for side in box), label, round(score, 4)] for box, label, score in rows)
    return [row for row in told if np.isfinite(row).all() and row[0] < row[2] and row[1] < row[3]]


def _jpeg(data: BoxData, number: int) -> bytes:
    from PIL import Image

    image = data.images[number]
    pixels = image[0] if len(image) < 3 else np.moveaxis(image[:3], 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(np.array(pixels, order="C")).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
