"""Decoding picture files to uint8 arrays of one size."""

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from .arrays import DataError, UInt8Array

if TYPE_CHECKING:
    from PIL.Image import Image

Side = Annotated[int, Field(ge=1)]
Size = Side | tuple[Side, Side] | None

Turn = Callable[[tuple[int, int], tuple[int, int]], bool]

_DEEP_MODES = ("I", "F")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap width and height
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def opened(raw: bytes, name: str, channels: int | None, turn: Turn = lambda stored, upright: True) -> "Image":
    """Decode a PNG, JPEG or other picture to a Pillow image of mode L or RGB, turned upright as its EXIF data say.

    channels: 1 (grey), 3 (colour) or None for what the picture has. `name` says in an error which picture it was.
    turn: given (width, height) as stored and upright, says whether to turn. Raises DataError if it does not decode.
    """
    return in_mode(loaded(raw, name, turn), name, channels)


def loaded(raw: bytes, name: str, turn: Turn = lambda stored, upright: True) -> "Image":
    """Decode a picture as `opened` does, but leave it in its own mode."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(raw)) as file:
            file.load()
            return upright(file, turn)
    except UnidentifiedImageError as error:  # its own words name an object in memory
        raise DataError(f"{name} does not decode as a picture: it is of no known format") from error
    # What a damaged file raises depends on its format and on where the damage lies: struct.error in EXIF data...
    except Exception as error:
        raise DataError(f"{name} does not decode as a picture: {error}") from error


def upright(picture: "Image", turn: Turn = lambda stored, upright: True) -> "Image":
    """Give a picture turned as its EXIF data say, where `turn` wants it so; itself where there is nothing to turn.

    Not by Pillow's exif_transpose, which also writes the EXIF data anew and fails where they are odd.
    """
    from PIL import ExifTags, Image

    orientation = picture.getexif().get(ExifTags.Base.Orientation)
    turned = picture.size[::-1] if orientation in _SIDEWAYS else picture.size
    if orientation in _TURNS and turn(picture.size, turned):
        return picture.transpose(Image.Transpose[_TURNS[orientation]])
    return picture


def in_mode(picture: "Image", name: str, channels: int | None) -> "Image":
    """Give a picture in mode L (channels 1) or RGB (3; None: what it has). Raises DataError for over 8 bits a value."""
    if picture.mode.startswith(_DEEP_MODES):
        raise DataError(f"{name} has more than 8 bits a value (mode {picture.mode}); convert it to 8 bits first")
    if channels is None:
        channels = 1 if picture.mode in ("1", "L", "LA") else 3
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def decode(raw: bytes, name: str, channels: int | None, size: Size) -> UInt8Array:
    """Decode a picture as `opened` does to uint8 [c, h, w].

    size: side, (h, w), or None to leave it. Raises DataError if it does not decode.
    """
    return pixels(opened(raw, name, channels), size)


def pixels(picture: "Image", size: Size) -> UInt8Array:
    """Give a picture of mode L or RGB as uint8 [c, h, w], stretched to `size` as `decode` does."""
    from PIL import Image

    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(picture, np.uint8)
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def decode_all(pictures: Iterable[tuple[str, bytes]], count: int, channels: int | None, size: Size) -> UInt8Array:
    """Decode `count` pictures, given as (name, bytes), to uint8 [n, c, h, w].

    With channels None the first picture decides. Raises DataError if one does not decode, or if sizes
    differ and `size` is None.
    """
    stack: UInt8Array | None = None
    first = ""
    for row, (name, raw) in enumerate(pictures):
        pixels = decode(raw, name, channels, size)
        if stack is None:
            first, channels = name, len(pixels)
            stack = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != stack.shape[1:]:
            raise DataError(
                f"pictures differ in size: {first} is {_size(stack.shape)}, {name} is {_size(pixels.shape)} "
                "(height x width); give the option size, an integer or [height, width], to resize them all"
            )
        stack[row] = pixels
    if stack is None:
        raise DataError("there are no pictures to decode")
    return stack


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-2]} x {shape[-1]}"
