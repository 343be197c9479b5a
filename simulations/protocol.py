"""What a pool and its workers say to each other.

It does not stand in worker.py: that file runs as `__main__`, whose classes are not those that the pool imports.
"""

from dataclasses import dataclass
from typing import Any

from ..strategies.base import Metadata
from .packing import Layout, Packed
from .sharing import Shared


@dataclass(frozen=True)
class Setup:
    """The first thing a worker hears."""

    config_json: str
    folder: str
    data_fd: int
    data: Shared
    broadcast_fd: int


@dataclass(frozen=True)
class Task:
    """One message for one client. `layout` and `size` describe the arrays in the broadcast block, if they are there."""

    number: int
    client: str
    metadata: Metadata
    records: dict[str, Any]
    version: int
    layout: Layout | None
    size: int


@dataclass(frozen=True)
class Done:
    """A reply; its arrays lie in the worker's reply block of that number. `began`, `ended`: of `time.monotonic`."""

    number: int
    packed: Packed
    slab: int
    rss_mb: float
    began: float
    ended: float
