"""NumPy's .npy format without a copy. The same few headers come again and again, so they are made and read once."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4096)
def header_of(dtype: str, shape: tuple[int, ...]) -> tuple[str, bytes]:
    """Give the type's name and the .npy header: both take longer to make than a small array takes to copy."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer,
        {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape},
    )
    return str(np.dtype(dtype)), buffer.getvalue()


@lru_cache(maxsize=4096)
def read_header(head: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Give (shape, type, whether in Fortran's order). Raises what NumPy's readers raise for other bytes."""
    buffer = io.BytesIO(head)
    version = np.lib.format.read_magic(buffer)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(buffer)
    return shape, dtype, fortran


def view_of(data: bytes | bytearray) -> NDArray[Any]:
    """Give a read-only view of an array's bytes. Raises what NumPy's readers raise for other bytes."""
    # The header's length stands behind the magic text: 2 bytes in version 1, 4 bytes in versions 2 and 3.
    size, start = (2, 10) if data[6] == 1 else (4, 12)
    end = start + int.from_bytes(data[8 : 8 + size], "little")
    shape, dtype, fortran = read_header(bytes(data[:end]))
    if dtype.kind not in "fiub":
        raise ValueError(f"arrays of type {dtype} do not travel")
    flat = np.frombuffer(data, dtype, offset=end)
    flat.flags.writeable = False
    return flat.reshape(shape, order="F" if fortran else "C")
