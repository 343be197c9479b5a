"""A federation's arrays in shared memory: every worker sees the same pages, however many workers there are."""

from dataclasses import dataclass
from typing import Any

from ..configs import Config
from ..data.arrays import DataSet, ImageData
from ..data.partition import Partition
from ..strategies.federation import Federation
from .shared import Block, Layout, get, put


@dataclass(frozen=True)
class Shared:
    """What a worker needs, besides the block, to see the federation."""

    layout: Layout
    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def share(federation: Federation, block: Block) -> Shared:
    """Copy the federation's arrays into a block."""
    data = federation.dataset
    arrays: dict[str, Any] = {
        "train.images": data.train.images,
        "train.labels": data.train.labels,
        "test.images": data.test.images,
        "test.labels": data.test.labels,
        "server": federation.server,
        "validation": federation.validation,
        "offsets": federation.clients.offsets,
        "flat": federation.clients.flat,
    }
    return Shared(put(arrays, block), data.name, data.classes, data.mean, data.std)


def attach(block: Block, shared: Shared, config: Config) -> Federation:
    """Give the federation whose arrays lie in the block."""
    arrays: dict[str, Any] = get(block, shared.layout)
    train = ImageData(arrays["train.images"], arrays["train.labels"])
    test = ImageData(arrays["test.images"], arrays["test.labels"])
    dataset = DataSet(shared.name, train, test, shared.classes, shared.mean, shared.std)
    clients = Partition(arrays["offsets"], arrays["flat"], None)
    return Federation(config, dataset, arrays["server"], arrays["validation"], clients)
