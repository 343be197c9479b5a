"""Decoded images kept on disk: one file of pixels for each part of a data set, mapped instead of read.

A file has its name only when it is whole. Until then it is a draft, locked by the process that writes it: a second
process waits for the first, and a draft that a killed process left is begun anew. The name holds a fingerprint of all
that the pixels depend on, so a file that has its name is never out of date.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from .arrays import DataError, UInt8Array
from .rows import Rows

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of every fingerprint. Raise it when the same pictures give other pixels than before."""

Extent = tuple[int, int]
Frames = Callable[[], Iterable[tuple[UInt8Array, Extent]]]


def cached_images(
    folder: Path, name: str, shape: tuple[int, int, int, int], frames: Frames
) -> tuple[Rows, list[Extent]]:
    """Return mapped images and the (width, height) of the pictures they come from; make them where they are missing.

    name: that of the files, fingerprint included. shape: [n, c, h, w], n at least 1. frames: called to decode; gives
    n pairs of an image, uint8 [c, h, w], and the (width, height) of its picture.

    Raises DataError where the folder cannot be written or has no room.
    """
    stem = folder.expanduser().resolve() / name
    found = _whole(stem, shape)
    if found is None:
        try:
            _make(stem, shape, frames)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _no_room(stem, shape) from error
            told = error.strerror or error
            raise DataError(f"the cache {stem.parent} cannot be written: {told}; give another folder") from error
        found = _whole(stem, shape)
    if found is None:
        raise DataError(f"{stem}.npy has just been written and cannot be read; give another folder as cache")
    return found


def _whole(stem: Path, shape: tuple[int, ...]) -> tuple[Rows, list[Extent]] | None:
    """Return what the folder holds under this name, None unless it is whole."""
    try:
        sizes = [(int(width), int(height)) for width, height in json.loads(_notes(stem).read_text())["sizes"]]
        rows = Rows.open(_images(stem))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (rows, sizes) if rows.shape == shape and len(sizes) == len(rows) else None


def _make(stem: Path, shape: tuple[int, ...], frames: Frames) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(f"{stem}.part")
    with _locked(draft) as file:
        try:
            if _whole(stem, shape) is not None:
                draft.unlink()
                return
            if shutil.disk_usage(stem.parent).free < prod(shape):
                raise _no_room(stem, shape)
            sizes = _write(file, shape, frames)
            notes = Path(f"{stem}.json.part")
            notes.write_text(json.dumps({"shape": shape, "sizes": sizes}))
            # The notes first: images that have their name are whole and have their notes.
            os.replace(notes, _notes(stem))
            os.replace(draft, _images(stem))
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Open an empty file that this process alone writes; wait while another process does."""
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("waiting for another process, which decodes the same pictures to %s", path.parent)
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had the lock has renamed or removed its file: then this is no draft any more.
            if _is_at(file, path):
                file.truncate(0)
                yield file
                return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write(file: IO[bytes], shape: tuple[int, ...], frames: Frames) -> list[Extent]:
    """Write images as a .npy file and see them on the disk; return the sizes of the pictures."""
    sizes = []
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for image, size in frames():
        # Through the file and not through a map, in which a full disk would kill the process.
        file.write(np.ascontiguousarray(image).data)
        sizes.append(size)
    file.flush()
    os.fsync(file.fileno())
    return sizes


def _no_room(stem: Path, shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"the cache {stem.parent} has no room for {shape[0]:,} images: {prod(shape):,} bytes are needed, "
        f"{shutil.disk_usage(stem.parent).free:,} are free; free some, give another folder, or a smaller size or limit"
    )


def _images(stem: Path) -> Path:
    return Path(f"{stem}.npy")


def _notes(stem: Path) -> Path:
    return Path(f"{stem}.json")
