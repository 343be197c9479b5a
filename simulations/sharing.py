"""A federation's arrays in shared memory: every worker sees the same pages, however many workers there are.

Images that lie in a file are not copied: every worker maps the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configs import Config
from ..data.arrays import DataError, DataSet, ImageData, TextSet
from ..data.boxes_data import BoxData, BoxSet
from ..data.partition import Partition
from ..data.rows import Rows
from ..strategies.federation import Federation
from .shared import Block, Layout, get, put

_IMAGES = ("images", "labels")
_FIELDS = {"images": _IMAGES, "texts": _IMAGES, "boxes": ("images", "boxes", "box_labels", "offsets")}
_SETS: dict[str, Any] = {"boxes": BoxSet, "texts": TextSet, "images": DataSet}


@dataclass(frozen=True)
class Shared:
    """What a worker needs, besides the block, to see the federation.

    `kind` is images, texts or boxes; `files` names, by split, the files of images that are mapped.
    """

    kind: str
    layout: Layout
    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: dict[str, Path]


def share(federation: Federation, block: Block) -> Shared:
    """Copy the federation's arrays into a block."""
    data = federation.dataset
    kind = next(kind for kind, each in _SETS.items() if isinstance(data, each))
    arrays: dict[str, Any] = {
        "server": federation.server,
        "validation": federation.validation,
        "offsets": federation.clients.offsets,
        "flat": federation.clients.flat,
    }
    files: dict[str, Path] = {}
    for split, part in (("train", data.train), ("test", data.test)):
        arrays |= {f"{split}.{name}": getattr(part, name) for name in _FIELDS[kind]}
        if isinstance(part.images, Rows):
            files[split] = part.images.path
            arrays[f"{split}.images"] = part.images.index
        # Texts may be objects, which cannot be shared; as arrays of characters they can.
        arrays |= {f"{split}.attribute.{name}": _plain(values) for name, values in part.attributes.items()}
    return Shared(kind, put(arrays, block), data.name, data.classes, data.mean, data.std, files)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(str) if values.dtype.hasobject else values


def _mapped(path: Path, index: NDArray[Any]) -> Rows:
    try:
        return Rows.open(path, index)
    except (OSError, ValueError) as error:
        raise DataError(f"the cached images {path} cannot be read any more: {error}") from error


def attach(block: Block, shared: Shared, config: Config) -> Federation:
    """Give the federation whose arrays lie in the block. Raises DataError where a mapped file is gone."""
    arrays: dict[str, Any] = get(block, shared.layout)
    parts = []
    for split in ("train", "test"):
        prefix = f"{split}.attribute."
        attributes = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        fields = {name: arrays[f"{split}.{name}"] for name in _FIELDS[shared.kind]}
        if split in shared.files:
            fields["images"] = _mapped(shared.files[split], fields["images"])
        make = BoxData if shared.kind == "boxes" else ImageData
        parts.append(make(**fields, attributes=attributes))
    dataset = _SETS[shared.kind](shared.name, *parts, shared.classes, shared.mean, shared.std)
    clients = Partition(arrays["offsets"], arrays["flat"], None)
    return Federation(config, dataset, np.asarray(arrays["server"]), np.asarray(arrays["validation"]), clients)
