"""Pictures on disk: which are meant, and copies of them with boxes drawn."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.arrays import DataError
from ..data.files import walked
from ..data.folder import SUFFIXES
from .predicting import Found, opened

if TYPE_CHECKING:
    from PIL import ImageDraw

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def listed(paths: Iterable[Path]) -> dict[Path, Path]:
    """Give the pictures meant, each with its path below the folder that was named, or with its bare name.

    A file counts as a picture whatever its name; of a folder those are taken, at any depth, that are called like one
    and are not hidden.
    Raises DataError for what is not there and for a folder without a picture.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in walked(path) if file.suffix.lower() in SUFFIXES and file.is_file())
            if not files:
                raise DataError(f"{path} holds no picture ({', '.join(SUFFIXES)})")
            found |= {file: file.relative_to(path) for file in files}
        elif path.exists():
            found[path] = Path(path.name)
        else:
            raise DataError(f"{path} does not exist; give a picture, or a folder of pictures")
    return found


def targets(pictures: Mapping[Path, Path], folder: Path) -> dict[Path, Path]:
    """Give where the copy of each picture goes; of two with one name the second has -2 behind it.

    Raises DataError where a copy would take the place of a picture.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; --draw names a folder")
    places: dict[Path, Path] = {}
    taken: set[Path] = set()
    for picture, name in pictures.items():
        suffix = name.suffix if name.suffix.lower() in SUFFIXES else f"{name.suffix}.png"
        place, number = folder / name.with_suffix(suffix), 1
        while place in taken:
            number += 1
            place = folder / name.with_name(f"{name.stem}-{number}{suffix}")
        if place.exists() and any(place.samefile(one) for one in pictures if one.exists()):
            raise DataError(f"{place} would be drawn over; give --draw another folder than that of the pictures")
        taken.add(place)
        places[picture] = place
    return places


def draw(picture: Path, found: Sequence[Found], place: Path) -> None:
    """Write a copy of a picture, upright, with the boxes, their classes and scores. Raises DataError."""
    from PIL import ImageDraw

    copy = opened(picture, str(picture))[0].convert("RGB")
    pen, width = ImageDraw.Draw(copy), max(1, round(max(copy.size) / 300))
    for each in reversed(found):  # the best last, on top
        _draw_box(pen, each, width)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        copy.save(place, quality=95)
    except (OSError, ValueError) as error:
        raise DataError(f"{place} cannot be written: {error}") from error


def _draw_box(pen: "ImageDraw.ImageDraw", found: Found, width: int) -> None:
    assert found.bbox is not None
    x, y, wide, high = found.bbox
    colour, text = _COLOURS[found.category_id % len(_COLOURS)], f"{found.category} {found.score:.2f}"
    size = max(10.0, 5.0 * width)
    pen.rectangle((x, y, x + wide, y + high), outline=colour, width=width)
    top = max(0.0, y - size - 2)
    pen.rectangle(pen.textbbox((x + 1, top), text, font_size=size), fill=colour)
    pen.text((x + 1, top), text, fill="white", font_size=size)
