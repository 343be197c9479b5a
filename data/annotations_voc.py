"""Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/*.txt.

VOC counts pixels from 1 and a box includes its last pixel, so x1 and y1 shrink by one. Single values of an
annotation beyond VOC's own (weather, town) are attributes.
"""

from collections.abc import Sequence
from pathlib import Path
from re import match, sub
from typing import TYPE_CHECKING, NamedTuple

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
    claimed,
    inside,
    numbers,
    shown,
)
from .arrays import DataError
from .boxes_data import BoxSet
from .folder import SUFFIXES
from .framing import Framing
from .trees import Tree

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_OWN_TAGS = ("folder", "filename", "path", "source", "owner", "size", "segmented", "object")
_FLAGS = {"1": True, "true": True, "0": False, "false": False, "": False, "unspecified": False}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Thing(NamedTuple):
    """One object of an annotation, its corners counted from 0."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    where: str


class _Note(NamedTuple):
    """One annotation file; `file` is the picture it names, `size` the (width, height) it claims."""

    where: str
    stem: str
    file: str
    size: tuple[int, int] | None
    things: list[_Thing]
    attributes: dict[str, str]


def read_voc(
    root: str | Path | None,
    *,
    train: str = "train",
    test: str | None = "val",
    difficult: bool = False,
    size: BoxSize = 256,
    classes: tuple[str, ...] | None = None,
    min_side: MinSide = 0.0,
    limit: Limit = None,
    test_limit: TestLimit = None,
    bad_boxes: BadBoxes = "error",
    cache: CacheFolder = None,
) -> BoxSet:
    """Read Pascal VOC from a folder, a zip archive or a folder with just one.

    train, test: image sets, the names of files in ImageSets/Main; test may be None. difficult: take the
    objects marked so as labels; without it what is found there counts neither way. classes: those to keep,
    in this order; by default all that train has, sorted. The other options are those of `read_coco`.

    Raises DataError that names the file and the line for whatever does not fit.
    """
    layout = "Annotations/, JPEGImages/ and ImageSets/Main/ (Pascal VOC)"
    tree = Tree("voc", root, layout, ("Annotations", "ImageSets"))
    parts = [_image_set(tree, part) for part in (train, test) if part is not None]
    notes = [[_note(tree, name) for name in names] for names in parts]
    known = sorted({thing.name for note in notes[0] for thing in note.things})
    names = chosen_classes(known, classes, tree.full(f"ImageSets/Main/{train}.txt"))
    pictures = [[_picture(tree, note, names, known, difficult) for note in part] for part in notes]
    framing = Framing(size, min_side, bad_boxes, cache)
    data = framing.parts(tree, pictures[0], pictures[1] if test is not None else [], (limit, test_limit))
    return BoxSet("voc", *data, names, MEAN, STD)


def _image_set(tree: Tree, part: str) -> list[str]:
    path = f"ImageSets/Main/{part}.txt"
    if not tree.has(path):
        sets = [Path(file).stem for file in tree.below("ImageSets/Main", (".txt",))]
        told = f"image sets are {', '.join(sets) or 'none'}{tree.astray()}"
        raise DataError(f"{tree.full(path)} does not exist; {told}")
    rows: dict[str, int] = {}
    for row, line in enumerate(tree.text(path).splitlines(), 1):
        # A set for one class has a second column, 1, 0 or -1; names may hold spaces.
        name = sub(r"\s+(1|0|-1)$", "", line.strip())
        if name:
            if name in rows:
                raise DataError(f"{tree.full(path)}, line {row}: {shown(name)} is in line {rows[name]} already")
            rows[name] = row
    return list(rows)


def _note(tree: Tree, stem: str) -> _Note:
    path = inside(f"Annotations/{stem}.xml", tree.full("ImageSets"))
    where = tree.full(path)
    if not tree.has(path):
        raise DataError(f"{where} does not exist, although an image set names it")
    top, lines = _parsed(_text(tree, path), where)
    if top.tag != "annotation":
        raise DataError(f"{where} must hold an <annotation> (Pascal VOC), got <{top.tag}>")
    things = [_thing(element, f"{where}, line {lines[element]}") for element in top.findall("object")]
    sides = top.find("size")
    size = None
    if sides is not None:
        size = claimed([sides.findtext("width"), sides.findtext("height")], f"{where}: size/width, size/height")
    attributes = {
        element.tag: element.text.strip()
        for element in top
        if element.tag not in _OWN_TAGS and len(element) == 0 and element.text and element.text.strip()
    }
    file = (top.findtext("filename") or "").strip()
    return _Note(where, stem, file, size, things, attributes)


def _text(tree: Tree, path: str) -> str:
    """Return an XML file as text: UTF-8, else in the encoding that its first line declares."""
    try:
        return tree.text(path)
    except DataError:
        raw = tree.read(path)
        declared = match(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)", raw)
        if declared is None:
            raise
        try:
            return raw.decode(declared[1].decode())
        except (LookupError, UnicodeError) as error:
            raise DataError(f"{tree.full(path)} is no text in the encoding it declares: {error}") from None


def _parsed(text: str, where: str) -> tuple["Element", dict["Element", int]]:
    """Parse XML to its outermost element and the line of each element, which ElementTree's own parser forgets.

    Raises DataError naming the line where it is no XML.
    """
    from xml.etree.ElementTree import TreeBuilder
    from xml.parsers import expat

    lines: dict[Element, int] = {}
    builder, parser = TreeBuilder(), expat.ParserCreate(namespace_separator="}")

    def begin(tag: str, attributes: dict[str, str]) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    parser.StartElementHandler, parser.EndElementHandler = begin, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise DataError(f"{where}, line {error.lineno}: no valid XML: {error}") from None
    return builder.close(), lines


def _thing(element: "Element", where: str) -> _Thing:
    name = (element.findtext("name") or "").strip()
    box = element.find("bndbox")
    if not name or box is None:
        raise DataError(f"{where}: an object needs a name and a bndbox")
    x1, y1, x2, y2 = (_number(box, corner, where) for corner in _CORNERS)
    flag = (element.findtext("difficult") or "").strip()
    if flag.lower() not in _FLAGS:
        raise DataError(f"{where}: difficult must be 0, 1, true or false, got {shown(flag)}")
    return _Thing(name, (x1 - 1, y1 - 1, x2, y2), _FLAGS[flag.lower()], where)


def _number(element: "Element", tag: str, where: str) -> float:
    return numbers([element.findtext(tag)], 1, f"{where}: {element.tag}/{tag}")[0]


def _picture(tree: Tree, note: _Note, names: Sequence[str], known: Sequence[str], difficult: bool) -> Picture:
    marks = []
    for thing in note.things:
        if thing.name not in known:
            raise DataError(f"{thing.where}: unknown class {shown(thing.name)}; the train set has {', '.join(known)}")
        if thing.name in names:
            ignored = thing.difficult and not difficult
            marks.append(Mark(thing.corners, names.index(thing.name), thing.where, ignored))
    return Picture(_file(tree, note), note.where, marks, note.attributes, note.size)


def _file(tree: Tree, note: _Note) -> str:
    """Return the path of a picture: by the name of its annotation file, which wins, or by the one given there."""
    own = [f"JPEGImages/{note.stem}{suffix}" for lower in SUFFIXES for suffix in (lower, lower.upper())]
    found = next((path for path in own if tree.has(path)), None)
    if found is None and note.file:
        named = inside(f"JPEGImages/{note.file}", note.where)
        found = named if tree.has(named) else None
    return found or f"JPEGImages/{note.stem}.jpg"
