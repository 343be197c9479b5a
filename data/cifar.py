"""CIFAR-10 kept as JPEG streams in two .npz files, train.npz and test.npz.

Each holds data (uint8: all JPEG streams end to end), offsets (integers, [n + 1]: where each begins and
ends), labels (integers, [n]) and classes (their names).
"""

import zipfile
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import DataError, DataSet, ImageData
from .files import cached, folder, read_bytes
from .pictures import decode_all

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
_SIDE = 32
_KEYS = ("data", "offsets", "labels", "classes")


def read_cifar10_jpeg(root: str | Path | None) -> DataSet:
    """Read train.npz and test.npz from the folder `root`: 50,000 + 10,000 images [3, 32, 32].

    The first reading decodes the JPEG streams (about 10 s) and keeps the result in the cache folder
    ($FEDBOX_CACHE, else ~/.cache/fedbox) under a hash of the file's content; later ones take it from there.
    """
    place = folder("cifar10_jpeg", root, "train.npz and test.npz (JPEG streams, see fedbox.data.cifar)")
    (train, classes), (test, other) = (_read_part(place / f"{part}.npz") for part in ("train", "test"))
    if classes != other:
        raise DataError(f"{place}: train.npz has the classes {list(classes)}, test.npz {list(other)}")
    return DataSet("cifar10_jpeg", train, test, classes, MEAN, STD)


def _read_part(path: Path) -> tuple[ImageData, tuple[str, ...]]:
    if not path.is_file():
        raise DataError(f"data set 'cifar10_jpeg': {path} does not exist; root must hold train.npz and test.npz")
    content = _arrays(path)
    offsets, count = content["offsets"].astype(np.int64), len(content["labels"])
    _check(path, content["data"], offsets, content["labels"], len(content["classes"]))
    stream = content["data"].tobytes()
    streams = ((f"{path}: image {row}", stream[offsets[row] : offsets[row + 1]]) for row in range(count))
    # Keyed by content: a moved, copied or touched file is still the same file, a changed one never is.
    key = f"cifar10_jpeg-{path.stem}-{sha256(stream + offsets.tobytes()).hexdigest()[:20]}"
    images = cached(key, lambda: decode_all(streams, count, 3, _SIDE))
    return ImageData(images, content["labels"].astype(np.int64)), tuple(str(name) for name in content["classes"])


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    read_bytes(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [key for key in _KEYS if key not in stored]
            if missing:
                raise DataError(f"{path} lacks the array(s) {', '.join(missing)}; it needs {', '.join(_KEYS)}")
            return {key: stored[key] for key in _KEYS}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no readable .npz file: {error}") from error


def _check(path: Path, data: NDArray[Any], offsets: NDArray[np.int64], labels: NDArray[Any], classes: int) -> None:
    if len(offsets) != len(labels) + 1:
        raise DataError(f"{path}: {len(labels)} labels need {len(labels) + 1} offsets, got {len(offsets)}")
    if offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) <= 0).any():
        raise DataError(f"{path}: offsets must rise from 0 to the {len(data)} bytes of data")
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        row = int(np.argmax((labels < 0) | (labels >= classes)))
        raise DataError(f"{path}: label {labels[row]} of image {row} is out of range 0..{classes - 1}")
