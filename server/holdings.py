"""Who holds what, noted at a run's start as `partition.json`: samples by client, class and role. No sample is in it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..strategies.atomic import write_atomic
from ..strategies.federation import Federation
from .stats import printable

FILE, VERSION = "partition.json", 1
MAX_CLIENTS = 200
"""Clients whose holdings are noted, the first ones: of a population of 100,000 a picture shows no more."""
MAX_CLASSES = 1000
ROLES = ("labelled", "unlabelled", "test")

Table = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Holdings:
    """Samples by client and class for each role, and those of the server by class; `clients` counts all of them."""

    classes: tuple[str, ...]
    clients: int
    names: tuple[str, ...]
    labelled: Table
    unlabelled: Table
    test: Table
    server: tuple[int, ...]

    @property
    def training(self) -> Table:
        """Labelled and unlabelled samples together, by client and class."""
        pairs = zip(self.labelled, self.unlabelled, strict=True)
        return tuple(tuple(a + b for a, b in zip(*pair, strict=True)) for pair in pairs)


def write_holdings(folder: Path, federation: Federation) -> None:
    """Write partition.json into a run's folder. An image with boxes counts under the class that most of them have."""
    labels, classes = federation.dataset.train.labels, federation.dataset.classes
    names = [federation.name(number) for number in range(min(len(federation), MAX_CLIENTS))]

    def count(index: Any) -> list[int]:
        return [int(n) for n in np.bincount(labels[index], minlength=len(classes))]

    roles = [federation.roles(name) for name in names]
    keys = federation.clients.keys
    told = {
        "version": VERSION,
        "classes": [str(name) for name in classes],
        "clients": len(federation),
        "names": [name if keys is None else f"{name} ({keys[i]})" for i, name in enumerate(names)],
        **{role: [count(getattr(one, role)) for one in roles] for role in ROLES},
        "server": count(federation.server),
    }
    write_atomic(folder / FILE, (json.dumps(told) + "\n").encode())


def digest_of(folder: Path) -> str | None:
    """Give the SHA-256 of partition.json, by which two runs can tell that their data was dealt alike; None without."""
    path = folder / FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def read_holdings(folder: Path, notes: list[str]) -> Holdings | None:
    """Read partition.json; None where there is none, or where it is broken, which is noted."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != VERSION:
            raise ValueError("another version")
        names, classes = _texts(told["names"], MAX_CLIENTS), _texts(told["classes"], MAX_CLASSES)
        shape = (len(names), len(classes))
        labelled, unlabelled, test = (_table(told[role], shape) for role in ROLES)
        (server,) = _table([told["server"]], (1, shape[1]))
        return Holdings(classes, int(told["clients"]), names, labelled, unlabelled, test, server)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        notes.append(f"{FILE} is unreadable and was ignored: no picture of who holds what")
        return None


def _texts(raw: Sequence[Any], most: int) -> tuple[str, ...]:
    if not isinstance(raw, list) or not 0 < len(raw) <= most:
        raise ValueError("not a list of names")
    return tuple(printable(name) for name in raw)


def _table(raw: Any, shape: tuple[int, int]) -> Table:
    rows = tuple(tuple(row) for row in raw)
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        raise ValueError("a table of another shape")
    if any(type(cell) is not int or cell < 0 for row in rows for cell in row):
        raise ValueError("a count that is none")
    return rows
