"""YOLO txt: one label file for each picture, a line `class x y width height` for each box, in shares of the sides.

The path of a label file is that of its picture with the last folder `images` replaced by `labels`. A picture
without a label file, or with an empty one, has no box. Lines with a polygon (class x1 y1 x2 y2 x3 y3 ...)
become the box around it. Folders between the part's folder and a picture are the attribute "folder".
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from .annotations import (
    MEAN,
    STD,
    BadBoxes,
    BoxSize,
    CacheFolder,
    Limit,
    Mark,
    MinSide,
    Picture,
    TestLimit,
    chosen_classes,
    numbers,
    shown,
)
from .arrays import DataError
from .boxes_data import BoxSet
from .framing import Framing
from .trees import Tree

# Where the pictures of a part may lie, if no data.yaml says so.
_PLACES = ("images/{}", "{}/images")
# The label of each class by its number as label files have it, None for one that is left out.
_Labels = dict[str, int | None]
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt")


def read_yolo(
    root: str | Path | None,
    *,
    data: str = "data.yaml",
    names: tuple[str, ...] | None = None,
    train: str = "train",
    test: str | None = "val",
    size: BoxSize = 256,
    classes: tuple[str, ...] | None = None,
    min_side: MinSide = 0.0,
    limit: Limit = None,
    test_limit: TestLimit = None,
    bad_boxes: BadBoxes = "error",
    cache: CacheFolder = None,
) -> BoxSet:
    """Read pictures and their YOLO label files from a folder, a zip archive or a folder with just one.

    data: the yaml file with names and the place of each part (a folder, a .txt list of pictures, or a list of
    both); names: the classes by number, for data without such a file, whose parts then lie in images/<part>
    or <part>/images. train, test: the names of the parts; test may be None.
    classes: those to keep, in this order. The other options are those of `read_coco`.

    Raises DataError that names the file and the line for whatever does not fit.
    """
    tree = Tree("yolo", root, "data.yaml, images/ and labels/ (YOLO)", (data, "images", train))
    config = {} if names is not None else _config(tree, data)
    known = list(names) if names is not None else _names(config, tree.full(data))
    chosen = chosen_classes(known, classes, tree.full(data) if names is None else "names")
    labels = {str(row): chosen.index(name) if name in chosen else None for row, name in enumerate(known)}
    parts = [_pictures(tree, part, config, labels) for part in (train, test) if part is not None]
    pictures = parts[0], parts[1] if test is not None else []
    framed = Framing(size, min_side, bad_boxes, cache).parts(tree, *pictures, (limit, test_limit))
    return BoxSet("yolo", *framed, chosen, MEAN, STD)


def _config(tree: Tree, data: str) -> dict[str, Any]:
    if not tree.has(data):
        raise DataError(f"{tree.full(data)} does not exist; name the file in data, or give the option names")
    content = tree.yaml(data)
    if not isinstance(content, dict):
        raise DataError(f"{tree.full(data)} must hold names, train and val, got {shown(content)}")
    return content


def _names(config: dict[str, Any], where: str) -> list[str]:
    names = config.get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{where}: names must be a list of classes, or number each from 0; got {shown(names)}")
    return [str(name) for name in names]


def _pictures(tree: Tree, part: str, config: dict[str, Any], labels: _Labels) -> list[Picture]:
    places = config.get(part)
    if config and places is None:
        raise DataError(f"{tree.place}: data.yaml has no part {part!r}; it has {', '.join(map(str, config))}")
    if places is None:
        folders = [place.format(part) for place in _PLACES]
        places = [folder for folder in folders if tree.has_folder(folder)]
        if not places:
            raise DataError(f"{tree.place} has neither of the folders {', '.join(folders)}")
    pictures: list[Picture] = []
    for place in places if isinstance(places, list) else [places]:
        pictures += _place(tree, _below(tree, str(place)), labels)
    return pictures


def _below(tree: Tree, place: str) -> str:
    """Return a place of data.yaml as a path below the root: exporters write ../train/images for train/images."""
    path = PurePosixPath(place.replace("\\", "/"))
    parts = [step for step in path.parts if step not in ("..", ".", "/")]
    path = PurePosixPath(*parts) if parts else PurePosixPath(".")
    # An absolute path, or one that counts from a folder above, may repeat the way to the root.
    while not (tree.has(str(path)) or tree.has_folder(str(path))) and len(path.parts) > 1:
        path = PurePosixPath(*path.parts[1:])
    return str(path)


def _place(tree: Tree, place: str, labels: _Labels) -> list[Picture]:
    if place.endswith(".txt") and tree.has(place):
        lines = [line.strip() for line in tree.text(place).splitlines()]
        files = [_below(tree, line) for line in lines if line]
    else:
        files = tree.below(place)
    if not files:
        raise DataError(f"{tree.full(place)} holds no pictures")
    pictures = []
    for file in files:
        label = _label_file(file)
        marks = _marks(tree, label, labels) if tree.has(label) else []
        folder = PurePosixPath(file.removeprefix(place).lstrip("/")).parent.as_posix()
        attributes = {"folder": folder} if folder != "." and not place.endswith(".txt") else {}
        pictures.append(Picture(file, tree.full(place), marks, attributes, shares=True))
    _check_owners(tree, place, {_label_file(file) for file in files})
    return pictures


def _label_file(picture: str) -> str:
    path = PurePosixPath(picture).with_suffix(".txt")
    parts = list(path.parts)
    at = next((row for row in range(len(parts) - 1, -1, -1) if parts[row] == "images"), None)
    if at is not None:
        parts[at] = "labels"
    return str(PurePosixPath(*parts))


def _check_owners(tree: Tree, place: str, expected: set[str]) -> None:
    """Raise DataError for a label file whose picture is missing: the labels may be those of other pictures."""
    if place.endswith(".txt"):
        return
    folder = str(PurePosixPath(_label_file(f"{place}/x.png")).parent)
    files = [file for file in tree.below(folder, (".txt",)) if PurePosixPath(file).name.lower() not in _NO_LABELS]
    orphans = [file for file in files if file not in expected]
    if orphans:
        raise DataError(
            f"{len(orphans)} of {len(files)} label files in {tree.full(folder)} have no picture in {place}: "
            f"{', '.join(orphans[:3])}; are they those of other pictures?"
        )


def _marks(tree: Tree, path: str, labels: _Labels) -> list[Mark]:
    marks = []
    for row, line in enumerate(tree.text(path).splitlines(), 1):
        where = f"{tree.full(path)}, line {row}"
        words = line.split()
        if not words:
            continue
        if words[0] not in labels:
            raise DataError(f"{where}: unknown class {shown(words[0])}; classes are numbered 0..{len(labels) - 1}")
        label = labels[words[0]]
        corners = _corners(numbers(words[1:], len(words) - 1, where), where)
        if label is not None:
            marks.append(Mark(corners, label, where))
    return marks


def _corners(values: Sequence[float], where: str) -> tuple[float, float, float, float]:
    # Written so that a NaN fails it.
    if not all(-0.001 <= value <= 1.001 for value in values):
        raise DataError(f"{where}: {list(values)} must be shares of the picture's sides, from 0 to 1")
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) >= 6 and len(values) % 2 == 0:
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    raise DataError(f"{where}: a line is `class x y width height`, got {len(values) + 1} values")
