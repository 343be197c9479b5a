"""YOLO txt: one label file for each picture, a line `class x y width height` for each box, in shares of the sides.

The path of a label file is that of its picture with the last folder `images` replaced by `labels`. A picture
without a label file, or with an empty one, has no box. Lines with a polygon (class x1 y1 x2 y2 x3 y3 ...)
become the box around it; of lines with key points, for which data.yaml has kpt_shape, the box counts. Folders
between the part's folder and a picture are the attribute "folder".
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

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
    extent,
    numbers,
    shown,
    word,
)
from .arrays import DataError
from .boxes_data import BoxSet
from .framing import Framing
from .trees import Tree

# Where the pictures of a part may lie, if no data.yaml says so.
_PLACES = ("images/{}", "{}/images")
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt")


class _Lines(NamedTuple):
    """How to read a line: the label of each class by its number, None for one left out; how many numbers of key points.

    The numbers of classes are texts, as label files have them.
    """

    labels: dict[str, int | None]
    points: int


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
    lines = _Lines(labels, _points(config, tree.full(data)))
    given = {"train": train} if test is None else {"train": train, "test": test}
    parts = [_pictures(tree, option, part, config, lines) for option, part in given.items()]
    pictures = parts[0], parts[1] if test is not None else []
    framed = Framing(size, min_side, bad_boxes, cache).parts(tree, *pictures, (limit, test_limit))
    return BoxSet("yolo", *framed, chosen, MEAN, STD)


def _config(tree: Tree, data: str) -> dict[str, Any]:
    if not tree.has(data):
        found = ", ".join(tree.below("", (".yaml", ".yml"))) or "none"
        hint = f"name one with data.options.data, or the classes with data.options.names{tree.astray()}"
        raise DataError(f"{tree.full(data)} does not exist; YAML files are {found}; {hint}")
    content = tree.yaml(data)
    if not isinstance(content, dict):
        raise DataError(f"{tree.full(data)} must hold names, train and val, got {shown(content)}")
    return content


def _names(config: dict[str, Any], where: str) -> list[str]:
    names = config.get("names")
    numbered = {str(key): name for key, name in names.items()} if isinstance(names, dict) else {}
    if numbered and numbered.keys() == {str(index) for index in range(len(numbered))}:
        names = [numbered[str(index)] for index in range(len(numbered))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{where}: names must be a list of classes, or number each from 0; got {shown(names)}")
    return [word(name, f"{where}: names[{row}]") for row, name in enumerate(names)]


def _points(config: dict[str, Any], where: str) -> int:
    """Return how many numbers of key points follow a box: kpt_shape is their number and that of values of each."""
    shape = config.get("kpt_shape")
    if shape is None:
        return 0
    points, values = extent(shape, f"{where}: kpt_shape")
    return points * values


def _pictures(tree: Tree, option: str, part: str, config: dict[str, Any], lines: _Lines) -> list[Picture]:
    places = config.get(part)
    hint = f"name another part with data.options.{option}{', or data.options.test=null' if option == 'test' else ''}"
    if config and places is None:
        raise DataError(f"{tree.place}: data.yaml has no part {part!r}; it has {', '.join(map(str, config))}; {hint}")
    if places is None:
        usual = [place.format(part) for place in _PLACES]
        places = [folder for folder in usual if tree.has_folder(folder)]
        if not places:
            raise DataError(f"{tree.place} has neither of the folders {', '.join(usual)}; {hint}")
    pictures: list[Picture] = []
    folders: list[str] = []
    for given in _each(places):
        place = _below(tree, str(given), _base(config))
        listed = place.endswith(".txt") and tree.has(place)
        found = _listed(tree, place, lines) if listed else _found(tree, place, lines)
        if not found:
            raise DataError(f"{tree.full(place)} holds no pictures")
        pictures += found
        folders += _folders(found) if listed else [place]
    _check_labels(tree, part, pictures)
    for folder in folders:
        _check_owners(tree, folder, config)
    return pictures


def _each(places: object) -> list[object]:
    return places if isinstance(places, list) else [places]


def _base(config: dict[str, Any]) -> str:
    """Return the folder from which the places of data.yaml count."""
    base = config.get("path")
    return "." if base is None else str(base)


def _below(tree: Tree, place: str, base: str) -> str:
    """Return a place, of data.yaml or of a list, as a path below the root.

    It counts from the folder `base` or from the root: exporters also write ../train/images for train/images.
    """
    steps = _steps(PurePosixPath(base.replace("\\", "/")) / place.replace("\\", "/"))
    # An absolute path, or one that counts from a folder above, may repeat the way to the root.
    paths = ["/".join(steps[start:]) or "." for start in range(max(len(steps), 1))]
    own = "/".join(_steps(PurePosixPath(place.replace("\\", "/")))) or "."
    return next((path for path in paths if tree.has(path) or tree.has_folder(path)), own)


def _steps(path: PurePosixPath) -> list[str]:
    return [step for step in path.parts if step not in ("..", ".", "/")]


def _listed(tree: Tree, place: str, lines: _Lines) -> list[Picture]:
    """Return the pictures that a text file lists, which count from its folder or from the root."""
    base = str(PurePosixPath(place).parent)
    rows = [(row, line.strip()) for row, line in enumerate(tree.text(place).splitlines(), 1) if line.strip()]
    return [
        _picture(tree, _below(tree, line, base), f"{tree.full(place)}, line {row}", lines, {}) for row, line in rows
    ]


def _found(tree: Tree, place: str, lines: _Lines) -> list[Picture]:
    """Return the pictures below a folder."""
    pictures = []
    for file in tree.below(place):
        folder = PurePosixPath(file).relative_to(place).parent.as_posix()
        attributes = {"folder": folder} if folder != "." else {}
        pictures.append(_picture(tree, file, tree.full(place), lines, attributes))
    return pictures


def _picture(tree: Tree, path: str, where: str, lines: _Lines, attributes: dict[str, str]) -> Picture:
    label = _label_file(path)
    annotated = tree.has(label)
    marks = _marks(tree, label, lines) if annotated else []
    return Picture(path, where, marks, attributes, shares=True, annotated=annotated)


def _label_file(picture: str) -> str:
    path = PurePosixPath(picture)
    parts = [*path.parent.parts, f"{path.stem}.txt"]
    at = next((row for row in range(len(parts) - 1, -1, -1) if parts[row] == "images"), None)
    if at is not None:
        parts[at] = "labels"
    return str(PurePosixPath(*parts))


def _folders(pictures: Sequence[Picture]) -> list[str]:
    """Return the folders in which pictures lie, those within another one left out."""
    tops: list[PurePosixPath] = []
    for folder in sorted({PurePosixPath(picture.path).parent for picture in pictures}):
        if not (tops and folder.is_relative_to(tops[-1])):
            tops.append(folder)
    return [str(folder) for folder in tops]


def _check_labels(tree: Tree, part: str, pictures: Sequence[Picture]) -> None:
    """Raise DataError if no picture has a label file: they lie elsewhere, or are missing.

    That the pictures themselves are missing says more, and is told later.
    """
    if not any(picture.annotated for picture in pictures) and any(tree.has(picture.path) for picture in pictures):
        expected = [_label_file(picture.path) for picture in pictures]
        told = f"{', '.join(expected[:3])}{', ...' if len(expected) > 3 else ''}"
        raise DataError(f"{tree.place}: no picture of part {part!r} has a label file; looked for {told}")


def _check_owners(tree: Tree, folder: str, config: dict[str, Any]) -> None:
    """Raise DataError for a label file whose picture is missing: the labels may be those of other pictures."""
    owned = {_label_file(file) for file in tree.below(folder)}
    labels = str(PurePosixPath(_label_file(f"{folder}/x.png")).parent)
    # Lists of pictures may lie beside label files.
    named = [str(place) for places in config.values() for place in _each(places)]
    lists = {_below(tree, place, _base(config)) for place in named if place.endswith(".txt")}
    files = [
        file
        for file in tree.below(labels, (".txt",))
        if PurePosixPath(file).name.lower() not in _NO_LABELS and file not in lists
    ]
    orphans = [file for file in files if file not in owned]
    if orphans:
        raise DataError(
            f"{len(orphans)} of {len(files)} label files in {tree.full(labels)} have no picture in {folder}: "
            f"{', '.join(orphans[:3])}; are they those of other pictures?"
        )


def _marks(tree: Tree, path: str, lines: _Lines) -> list[Mark]:
    marks, labels = [], lines.labels
    for row, line in enumerate(tree.text(path).splitlines(), 1):
        where = f"{tree.full(path)}, line {row}"
        words = line.split()
        if not words:
            continue
        number = _whole(words[0])
        if number not in labels:
            raise DataError(f"{where}: unknown class {shown(words[0])}; classes are numbered 0..{len(labels) - 1}")
        label = labels[number]
        values = numbers(words[1:], len(words) - 1, where)
        if lines.points and len(values) == 4 + lines.points:
            values = values[:4]
        corners = _corners(values, where)
        if label is not None:
            marks.append(Mark(corners, label, where))
    return marks


def _whole(number: str) -> str:
    """Return a class's number without a fraction of 0: NumPy and other tools write 1.0 or 1.000e+00 for 1."""
    try:
        value = float(number)
    except ValueError:
        return number
    return str(int(value)) if value.is_integer() else number


def _corners(values: Sequence[float], where: str) -> tuple[float, float, float, float]:
    # As far out as Ultralytics takes them; boxes are clipped later. Written so that a NaN fails it.
    if not all(-0.01 <= value <= 1.01 for value in values):
        raise DataError(f"{where}: {list(values)} must be shares of the picture's sides, from 0 to 1")
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) >= 6 and len(values) % 2 == 0:
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    raise DataError(f"{where}: a line is `class x y width height`, got {len(values) + 1} values")
