"""The MNIST family: four idx files, plain or gzipped.

An idx file opens with a big-endian magic number (2051 for images, 2049 for labels) and its sizes, each
32 bits; unsigned bytes follow.
"""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .arrays import DataError, DataSet, ImageData, UInt8Array
from .files import folder, read_bytes

DIGITS = tuple(str(digit) for digit in range(10))
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

_IMAGES, _LABELS = 2051, 2049
_GZIP_MAGIC = b"\x1f\x8b"


class _Kin(NamedTuple):
    """What tells one data set of the family from another."""

    name: str
    classes: tuple[str, ...]
    mean: float
    std: float
    source: str


_MNIST = _Kin("mnist", DIGITS, 0.1307, 0.3081, "https://github.com/cvdfoundation/mnist")
_FASHION_MNIST = _Kin("fashion_mnist", FASHION, 0.2860, 0.3530, "https://github.com/zalandoresearch/fashion-mnist")
_KMNIST = _Kin("kmnist", KUZUSHIJI, 0.5, 0.5, "https://github.com/rois-codh/kmnist")


def read_mnist(root: str | Path | None) -> DataSet:
    """Read MNIST's four idx files from the folder `root`: 60,000 + 10,000 images [1, 28, 28]."""
    return _read(_MNIST, root)


def read_fashion_mnist(root: str | Path | None) -> DataSet:
    """Read Fashion-MNIST's four idx files from the folder `root`: 60,000 + 10,000 images [1, 28, 28]."""
    return _read(_FASHION_MNIST, root)


def read_kmnist(root: str | Path | None) -> DataSet:
    """Read Kuzushiji-MNIST's four idx files from the folder `root`: 60,000 + 10,000 images [1, 28, 28]."""
    return _read(_KMNIST, root)


def _read(kin: _Kin, root: str | Path | None) -> DataSet:
    place = folder(kin.name, root, f"the idx files of {kin.source} (train-images-idx3-ubyte.gz and so on)")
    train, test = (_read_part(kin, place, part) for part in ("train", "t10k"))
    return DataSet(kin.name, train, test, kin.classes, (kin.mean,), (kin.std,))


def _read_part(kin: _Kin, root: Path, part: str) -> ImageData:
    images_file = _find(kin, root, f"{part}-images", 3)
    labels_file = _find(kin, root, f"{part}-labels", 1)
    classes = len(kin.classes)
    images, labels = read_idx(images_file, _IMAGES), read_idx(labels_file, _LABELS)
    if len(images) != len(labels):
        raise DataError(f"{images_file} holds {len(images)} images but {labels_file} {len(labels)} labels")
    if len(labels) and labels.max() >= classes:
        row = int(np.argmax(labels >= classes))
        raise DataError(f"{labels_file}: label {labels[row]} of image {row} is out of range 0..{classes - 1}")
    return ImageData(images[:, None], labels.astype(np.int64))


def _find(kin: _Kin, root: Path, stem: str, axes: int) -> Path:
    names = [f"{stem}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for candidate in names:
        if (root / candidate).is_file():
            return root / candidate
    raise DataError(
        f"data set {kin.name!r}: {root} holds none of {', '.join(names)}; "
        f"get the files from {kin.source} and put them there"
    )


def read_idx(path: Path, magic: int) -> UInt8Array:
    """Return the array of one idx file, plain or gzipped.

    Raises DataError naming the file if it is no gzip, is cut short or too long, or has another magic number.
    """
    raw = _unpacked(path)
    axes = magic % 256
    start = 4 * (axes + 1)
    if len(raw) >= 4 and (found := int.from_bytes(raw[:4], "big")) != magic:
        kind = "images" if magic == _IMAGES else "labels"
        raise DataError(f"{path} opens with magic number {found}; idx {kind} have {magic}")
    if len(raw) < start:
        raise DataError(f"{path} is cut short: {len(raw)} bytes, its header alone needs {start}")
    header = np.frombuffer(raw, ">u4", axes + 1)
    shape = tuple(int(size) for size in header[1:])
    expected = start + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        fault = "is cut short" if len(raw) < expected else "is too long"
        raise DataError(f"{path} {fault}: {len(raw)} bytes, its sizes {shape} need {expected}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _unpacked(path: Path) -> bytes:
    raw = read_bytes(path)
    # By content, not by name: browsers and mirrors unpack .gz files and leave their names alone.
    if raw.startswith(_GZIP_MAGIC):
        try:
            return gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is a damaged or truncated gzip file: {error}; fetch it again") from error
    if path.suffix == ".gz" and raw[:2] != b"\0\0":
        raise DataError(f"{path} is not a gzip file: it opens with {raw[:2]!r}; fetch it again")
    return raw
