"""What the readers of detection data share: pictures with marks, as their files have them, and their options."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from os.path import abspath, join
from pathlib import Path, PurePosixPath
from reprlib import Repr
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from .arrays import DataError
from .draws import generator
from .trees import SHOWN, Tree

Side = Annotated[int, Field(ge=32, multiple_of=32)]
BoxSize = Side | tuple[Side, Side]
BadBoxes = Literal["error", "drop"]
Limit = Annotated[int, Field(ge=1)] | None
TestLimit = Annotated[int, Field(ge=0)] | None
MinSide = Annotated[float, Field(ge=0)]
CacheFolder = Path | None

# Real photographs: the constants of ImageNet.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNKNOWN = "unknown"

Key = int | float | str

# A list of lists of lists, which aliases of YAML make of a few lines, would not fit into memory as text.
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 3, 20, 10, 90, 90


@dataclass(frozen=True)
class Mark:
    """One box as its file has it: corners in pixels of the picture (or in shares of its sides), and where.

    ignored: a crowd, a group, a difficult object: no label to learn, and what is found there counts neither way.
    """

    corners: tuple[float, float, float, float]
    label: int
    where: str
    ignored: bool = False


@dataclass(frozen=True)
class Picture:
    """One picture as its file has it.

    path: below the root. size: (width, height) as the annotations claim, None where they do not.
    shares: the corners of its marks are shares of its sides. where: the record that speaks of it.
    annotated: whether annotations speak of it, though they may mark nothing.
    """

    path: str
    where: str
    marks: Sequence[Mark] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    shares: bool = False
    annotated: bool = True

    def turns(self, stored: tuple[int, int], upright: tuple[int, int]) -> bool:
        """Say whether to turn it as its EXIF data say, by its (width, height) as stored and upright.

        Annotation tools and other loaders pass over these data, so that marks belong to the pixels as stored,
        unless only the upright picture has the size that the annotations claim.
        """
        if self.size is None:
            return not self.annotated
        return stored != self.size == upright


def inside(path: str, where: str) -> str:
    """Return a path below the root in plain form; raise DataError if it leads out of it."""
    plain = PurePosixPath(path.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        raise DataError(f"{where}: picture {shown(path)} must be a path below the root")
    return plain.as_posix()


def check_present(tree: Tree, pictures: Sequence[Picture]) -> None:
    """Raise DataError that names the pictures which the annotations speak of and which are not there."""
    lost = [picture for picture in pictures if not tree.has(picture.path)]
    if lost:
        told = "; ".join(f"{picture.where}: {shown(picture.path)}" for picture in lost[:SHOWN])
        hint = "; are these the annotations of other pictures?" if len(lost) == len(pictures) else ""
        raise DataError(f"{len(lost)} of {len(pictures)} pictures are not in {tree.place}{hint} ({told})")


def check_distinct(tree: Tree, parts: Mapping[str, Sequence[Picture]]) -> None:
    """Raise DataError that names the pictures which are given twice, in one part or in two."""
    first: dict[str, str] = {}
    twice = []
    for part, pictures in parts.items():
        for picture in pictures:
            # The folders of the options may hold steps up, or begin at the root of the file system.
            path = abspath(join(tree.place, picture.path))
            where = f"{part}: {picture.where}"
            if path in first:
                twice.append(f"{shown(picture.path)} ({first[path]}; {where})")
            first.setdefault(path, where)
    if twice:
        told = f"{len(twice)} picture(s) of {tree.place} are given twice; each may be in one part, once"
        raise DataError(f"{told}: {listed(twice)}")


def listed(faults: Sequence[str]) -> str:
    """Return the first faults in one line, and how many there are beside them."""
    return "; ".join(faults[:SHOWN]) + (f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else "")


def limited(pictures: Sequence[Picture], limit: int | None, part: str) -> list[Picture]:
    """Keep `limit` pictures, the first of a fixed shuffle, in their old order; all without a limit."""
    if limit is None or limit >= len(pictures):
        return list(pictures)
    kept = generator(0, f"limit-{part}").permutation(len(pictures))[:limit]
    return [pictures[row] for row in np.sort(kept)]


def chosen_classes(known: Sequence[str], wanted: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the classes to keep, in order: `wanted`, or all; raise DataError for an unknown one, and for none."""
    if not known:
        raise DataError(f"{where} has no class, and so nothing to detect")
    if wanted is None:
        return tuple(known)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise DataError(f"{where} has no class {', '.join(unknown) or '(none wanted)'}; it has {', '.join(known)}")
    return tuple(wanted)


def shown(value: object) -> str:
    """Return how messages tell a value, the middle of a long one left out."""
    text = _SHORT.repr(value)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"


def numbers(values: object, count: int, where: str) -> tuple[float, ...]:
    """Return `count` numbers, or raise DataError naming the record."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise DataError(f"{where}: {count} numbers are needed, got {shown(values)}")
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):  # OverflowError: a whole number of hundreds of digits
        raise DataError(f"{where}: {count} numbers are needed, got {shown(values)}") from None


def extent(values: object, where: str) -> tuple[int, int]:
    """Return the (width, height) that annotations claim, each 0 or more, or raise DataError naming the record."""
    sides = numbers(values, 2, where)
    if not all(side >= 0 and side.is_integer() for side in sides):
        raise DataError(f"{where}: whole numbers of pixels are needed, got {shown(values)}")
    return int(sides[0]), int(sides[1])


def claimed(sides: Sequence[object], where: str) -> tuple[int, int] | None:
    """Return the (width, height) that annotations claim; None where a tool left one out, empty, null or 0."""
    if any(side is None or (isinstance(side, str) and not side.strip()) for side in sides):
        return None
    size = extent(sides, where)
    return size if min(size) > 0 else None


def key(value: object, where: str) -> Key:
    """Return an id, a number or a text; raise DataError naming the record for anything else."""
    # A NaN would be an id that equals nothing, and true would equal 1.
    odd = isinstance(value, bool) or (isinstance(value, float) and isnan(value))
    if isinstance(value, str | int | float) and not odd:
        return value
    raise DataError(f"{where} must be a number or a text, got {shown(value)}")


def word(value: object, where: str) -> str:
    """Return the name of a class or a file, a text or a number; raise DataError for anything else or an empty one."""
    name = str(key(value, where))
    if not name.strip():
        raise DataError(f"{where} must not be empty")
    return name


def mapping(value: object, where: str) -> dict[str, Any]:
    """Return a JSON object; raise DataError for anything else."""
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object, got {shown(value)}")
    return value


def records(content: object, name: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record) of a list of JSON objects; raise DataError for anything else."""
    if not isinstance(content, list):
        raise DataError(f"{where}: {name} must be a list, got {type(content).__name__}")
    for row, record in enumerate(content):
        place = f"{where}: {name}[{row}]"
        yield place, mapping(record, place)


def needed(record: Mapping[str, Any], name: str, where: str) -> Any:
    """Return record[name], or raise DataError that names what is missing where."""
    if name not in record:
        raise DataError(f"{where} lacks {name!r}; it has {', '.join(map(str, record)) or 'nothing'}")
    return record[name]


def plain(values: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, str]:
    """Return the single values of a record as attributes, those named in `without` excluded."""
    return {
        str(key): str(value)
        for key, value in values.items()
        if key not in without and isinstance(value, str | int | float) and value != ""
    }
