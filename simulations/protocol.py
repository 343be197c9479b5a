"""What a pool and its workers say to each other."""

from dataclasses import dataclass
from typing import Any

from ..strategies.base import Metadata
from .packing import Layout, Packed
from .sharing import Shared


@dataclass(frozen=True)
class Surroundings:
    """The first thing a worker hears: what it takes over from the process that asked for it, not from its parent."""

    environment: dict[str, str]
    path: list[str]
    folder: str


@dataclass(frozen=True)
class Setup:
    """What a worker hears before the clients of a run."""

    config_json: str
    folder: str
    data: Shared
    gpu: str | None = None
    """The one GPU that this worker is to see, as CUDA_VISIBLE_DEVICES names it; None: all of them."""


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
