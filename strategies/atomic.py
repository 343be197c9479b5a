"""Files that are written whole or not at all, so that neither a kill nor a loss of power leaves half of one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save


def as_safetensors(arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None) -> bytes:
    """Give the bytes of a .safetensors file: `save` alone writes an array's memory as it lies, be it transposed."""
    return save({name: np.asarray(value, order="C") for name, value in arrays.items()}, metadata)


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file whole or not at all; with `sync` see its bytes on disk, so that its name never stands for others."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """See on disk which files the folder has: that a file has its new name is not there with the file's bytes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
