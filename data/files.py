"""Finding the files of a data set, and the cache for what is slow to decode."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

from .arrays import DataError, UInt8Array

log = logging.getLogger(__name__)


def folder(dataset: str, root: str | Path | None, holds: str) -> Path:
    """Return `root` as a folder, or raise DataError that says what it should hold."""
    if root is None:
        raise DataError(f"data set {dataset!r} needs root: a folder with {holds}")
    path = Path(root).expanduser()
    if not path.is_dir():
        kind = "is not a folder" if path.exists() else "does not exist"
        if not path.is_absolute():  # as where a run is measured again from elsewhere than it was made
            kind += f", seen from {Path.cwd()}"
        raise DataError(f"data set {dataset!r}: root {str(path)!r} {kind}; it should hold {holds}")
    return path


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, or raise DataError naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def walked(place: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the files below a folder, at any depth, hidden ones excluded; links to folders are followed, loops are not.

    above: the real paths of the folders that led here. Raises DataError for a folder that cannot be read.
    """
    real = os.path.realpath(place)
    if real in above:
        return
    try:
        with os.scandir(place) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}") from error
    for entry in entries:
        if entry.is_dir():
            yield from walked(place / entry.name, above | {real})
        else:
            yield place / entry.name


def cached(key: str, make: Callable[[], UInt8Array]) -> UInt8Array:
    """Return make(), kept as <key>.npy in the cache folder.

    The folder is the environment variable FEDBOX_CACHE, else ~/.cache/fedbox. A folder that cannot be
    written or a damaged file costs time, never a result: the array is made again.
    """
    place = Path(os.environ.get("FEDBOX_CACHE") or Path.home() / ".cache" / "fedbox").expanduser() / f"{key}.npy"
    try:
        stored: UInt8Array = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        stored = make()
        _store(place, stored)
    return stored


def _store(place: Path, array: UInt8Array) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place.parent, suffix=".tmp", delete=False) as handle:
            try:
                np.save(handle, array)
            except BaseException:
                os.unlink(handle.name)
                raise
        # A rename is atomic: another process sees the whole file or none.
        os.replace(handle.name, place)
    except OSError as error:
        log.warning("decoded images are not kept in %s: %s", place.parent, error)
