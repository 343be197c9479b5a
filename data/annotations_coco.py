"""COCO json: lists of images, annotations and categories; and SODA10M, which comes in that form.

A category may have any id; classes are numbered in the order of the train file's ids, and known by their names in
the test file. In crowds (iscrowd: 1) what is found counts neither way. Single values of an image record beyond
COCO's own (town, weather) are attributes.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from .annotations import (
    MEAN,
    STD,
    BadBoxes,
    BoxSize,
    CacheFolder,
    Key,
    Limit,
    Mark,
    MinSide,
    Picture,
    TestLimit,
    chosen_classes,
    claimed,
    inside,
    key,
    needed,
    numbers,
    plain,
    records,
    shown,
    word,
)
from .arrays import DataError
from .boxes_data import BoxSet
from .coco_layout import IMAGES, TEST, TRAIN, annotations_of, below, folder_of, known_annotations
from .framing import Framing
from .trees import Tree

_OWN_KEYS = ("id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured")
_SODA_PLACES = ("", "labeled/", "SSLAD-2D/labeled/", "labeled_trainval/SSLAD-2D/labeled/")


class _Part(NamedTuple):
    """A COCO file: where its records are, its categories by id, its images, their annotations by image id."""

    where: str
    categories: dict[Key, str]
    images: list[tuple[str, dict[str, Any]]]
    annotations: dict[Key, list[tuple[str, dict[str, Any]]]]


def read_coco(
    root: str | Path | None,
    *,
    train: str = TRAIN,
    test: str | None = TEST,
    images: str | None = None,
    test_images: str | None = None,
    size: BoxSize = 256,
    classes: tuple[str, ...] | None = None,
    min_side: MinSide = 0.0,
    limit: Limit = None,
    test_limit: TestLimit = None,
    bad_boxes: BadBoxes = "error",
    cache: CacheFolder = None,
) -> BoxSet:
    """Read COCO annotation files and their pictures from a folder, a zip archive or a folder with just one.

    train, test: the annotation files; test may be None. images, test_images: the folders of their pictures; file
    names count from there, or else from the root. What is not given is looked for by its usual names, see
    `coco_layout`; test_images also in `images`.
    size: side or [height, width] in pixels, multiples of 32. classes: those to keep, in this order.
    min_side: boxes with a shorter side, in pixels of the new size, are left out. limit, test_limit: read so
    many pictures, the first of a fixed shuffle. bad_boxes: "error", or "drop" to leave them out. cache: a folder
    for the decoded images, from which they are mapped instead of being held in memory; see `image_cache`.

    Raises DataError that names the file and the record or line for whatever does not fit.
    """
    holds = (train, "annotations", images or IMAGES)
    tree = Tree("coco", root, "annotations/*.json and images/ (COCO)", holds)
    with tree.lines():
        given = {"train": train} if test is None else {"train": train, "test": test}
        paths = [annotations_of(tree, option, path) for option, path in given.items()]
        parts = [_read(tree, path) for path in paths]
        names = _names(parts, classes)
        wanted = (("images", images, IMAGES), ("test_images", test_images, images or IMAGES))
        pictures = []
        for part, path, place in zip(parts, paths, wanted, strict=False):
            files = _files(part)
            pictures.append(_pictures(tree, part, files, folder_of(tree, path, files, *place), names))
        framing = Framing(size, min_side, bad_boxes, cache)
        data = framing.parts(tree, pictures[0], pictures[1] if test is not None else [], (limit, test_limit))
        return BoxSet("coco", *data, names, MEAN, STD)


def read_soda10m(
    root: str | Path | None,
    *,
    unlabelled: str | None = None,
    size: BoxSize = (256, 448),
    classes: tuple[str, ...] | None = None,
    min_side: MinSide = 0.0,
    limit: Limit = None,
    test_limit: TestLimit = None,
    bad_boxes: BadBoxes = "error",
    cache: CacheFolder = None,
) -> BoxSet:
    """Read SODA10M: labeled/annotations/instance_{train,val}.json with the pictures in labeled/{train,val}.

    root: the folder `labeled`, or one above it. Attributes are city, location, period and weather, and
    "labels": yes or no. unlabelled: a folder of pictures without annotations, from the root, whose pictures
    join the train part (their city is known by the file name only, so it is left unknown).
    The other options are those of `read_coco`; the validation file is the test part.
    """
    paths = [f"{place}annotations/instance_train.json" for place in _SODA_PLACES]
    holds = ("annotations", "labeled", "SSLAD-2D", "labeled_trainval")
    tree = Tree("soda10m", root, "labeled/ with annotations/, train/ and val/ (SODA10M)", holds)
    with tree.lines():
        found = tree.first(paths, "the annotations of SODA10M")
        base = found.removesuffix("annotations/instance_train.json")
        parts = [_read(tree, f"{base}annotations/instance_{part}.json") for part in ("train", "val")]
        names = _names(parts, classes)
        train, test = (
            _pictures(tree, part, _files(part), f"{base}{place}", names, {"labels": "yes"})
            for part, place in zip(parts, ("train", "val"), strict=True)
        )
        if unlabelled is not None:
            where, bare, attributes = tree.full(unlabelled), tree.below(unlabelled), {"labels": "no"}
            if not bare:
                fault = "holds no pictures" if tree.has_folder(unlabelled) else "does not exist"
                hint = "name the folder of the unlabelled ones with data.options.unlabelled, null for none"
                raise DataError(f"{where} {fault}; {hint}")
            train += [Picture(path, where, attributes=attributes, annotated=False) for path in bare]
        data = Framing(size, min_side, bad_boxes, cache).parts(tree, train, test, (limit, test_limit))
        return BoxSet("soda10m", *data, names, MEAN, STD)


def _names(parts: Sequence[_Part], classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes to keep, of those that the first part has.

    Raises DataError for an annotation of a further part with a class that the first one lacks: left out, it would
    go unmeasured. A category without annotations does not matter.
    """
    first = parts[0]
    known = [first.categories[number] for number in _in_order(first.categories)]
    for part in parts[1:]:
        strange = {number: name for number, name in part.categories.items() if name not in known}
        for place, record in chain.from_iterable(part.annotations.values()):
            if record["category_id"] in strange:
                name = strange[record["category_id"]]
                raise DataError(f"{place}: unknown class {shown(name)}; {first.where} has {', '.join(known) or 'none'}")
    return chosen_classes(known, classes, first.where)


def _in_order(ids: Iterable[Key]) -> list[Key]:
    """Sort ids, numbers before texts: a file that mixes them has an order, too."""
    return sorted(ids, key=lambda given: (isinstance(given, str), given))


def _read(tree: Tree, path: str) -> _Part:
    if not tree.has(path):
        known = ", ".join(known_annotations(tree)) or "none"
        raise DataError(f"{tree.full(path)} does not exist; annotation files are {known}")
    where, content = tree.full(path), tree.json(path)
    if not isinstance(content, dict):
        raise DataError(f"{where} must hold an object with images, annotations and categories (COCO)")
    categories = _categories(content, where)
    images = list(records(needed(content, "images", where), "images", where))
    annotations: dict[Key, list[tuple[str, dict[str, Any]]]] = {}
    for place, record in images:
        number = _id(record, "id", place)
        if number in annotations:
            raise DataError(f"{place}: image id {number} is there twice")
        annotations[number] = []
    ids: dict[Key, str] = {}
    for place, record in records(needed(content, "annotations", where), "annotations", where):
        image, category = _id(record, "image_id", place), _id(record, "category_id", place)
        if image not in annotations:
            known = shown(list(annotations))
            raise DataError(f"{place} belongs to image_id {shown(image)}, which no image record has; ids are {known}")
        if category not in categories:
            known = shown(_in_order(categories))
            raise DataError(f"{place} has the unknown category_id {shown(category)}; known are {known}")
        if "id" in record:
            other = ids.setdefault(_id(record, "id", place), place)
            if other != place:
                raise DataError(f"{place}: annotation id {record['id']} is there twice, first in {other}")
        annotations[image].append((place, record))
    return _Part(where, categories, images, annotations)


def _categories(content: dict[str, Any], where: str) -> dict[Key, str]:
    categories: dict[Key, str] = {}
    for place, record in records(needed(content, "categories", where), "categories", where):
        name, number = word(needed(record, "name", place), f"{place}: name"), _id(record, "id", place)
        if name in categories.values() or number in categories:
            raise DataError(f"{place}: category {name!r} (id {number}) is there twice")
        categories[number] = name
    return categories


def _id(record: dict[str, Any], name: str, where: str) -> Key:
    return key(needed(record, name, where), f"{where}: {name}")


def _pictures(
    tree: Tree,
    part: _Part,
    files: Sequence[str],
    folder: str,
    names: Sequence[str],
    more: dict[str, str] | None = None,
) -> list[Picture]:
    number = {name: index for index, name in enumerate(names)}
    kept = {key: number[name] for key, name in part.categories.items() if name in number}
    pictures = []
    for (where, record), file in zip(part.images, files, strict=True):
        path = below(folder, file)
        marks = [
            _mark(place, annotation, kept[annotation["category_id"]])
            for place, annotation in part.annotations[record["id"]]
            if annotation["category_id"] in kept
        ]
        attributes = {**plain(record, _OWN_KEYS), **(more or {})}
        size = claimed([record.get("width"), record.get("height")], f"{where}: width, height")
        pictures.append(Picture(path if tree.has(path) or not tree.has(file) else file, where, marks, attributes, size))
    return pictures


def _files(part: _Part) -> list[str]:
    return [inside(word(needed(record, "file_name", at), f"{at}: file_name"), at) for at, record in part.images]


def _crowd(annotation: dict[str, Any], where: str) -> bool:
    value = annotation.get("iscrowd", 0)
    if value not in (0, 1):
        raise DataError(f"{where}: iscrowd must be 0, 1, true or false, got {shown(value)}")
    return bool(value)


def _mark(where: str, annotation: dict[str, Any], label: int) -> Mark:
    x, y, width, height = numbers(needed(annotation, "bbox", where), 4, f"{where}: bbox")
    told = f"{where} (id {annotation.get('id')})"
    return Mark((x, y, x + width, y + height), label, told, _crowd(annotation, where))
