"""Driving scenes as they are published: BDD100K's detection json and Cityscapes' polygons."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

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
    inside,
    mapping,
    needed,
    numbers,
    plain,
    records,
    shown,
    word,
)
from .arrays import DataError
from .boxes_data import BoxSet
from .framing import Framing
from .trees import Tree

FEDSTO_CLASSES = ("person", "car", "bus", "truck", "traffic sign")
_BDD_CLASSES = (
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
    "other vehicle",
    "other person",
    "trailer",
)
# The release of 2018 and that of 2020 differ in these; the left ones are read as the right ones.
_BDD_SYNONYMS = {"pedestrian": "person", "motor": "motorcycle", "bike": "bicycle"}
_BDD_WEATHERS = {"partly cloudy": "cloudy"}
_BDD_PLACES = ("", "bdd100k/")
_BDD_FILES = ("labels/det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json", "labels/100k/{}/")

_Labels = Iterator[tuple[str, dict[str, Any]]]

CITYSCAPES_CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
# What else Cityscapes labels. Things in a group, hard to tell apart, have the label of one and "group" behind it.
_CITY_REST = (
    "unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, sidewalk, parking, "
    "rail track, building, wall, fence, guard rail, bridge, tunnel, pole, traffic light, traffic sign, vegetation, "
    "terrain, sky, caravan, trailer, license plate"
)
_CITY_LABELS = (*CITYSCAPES_CLASSES, *_CITY_REST.split(", "))


def read_bdd100k(
    root: str | Path | None,
    *,
    weathers: tuple[str, ...] | None = None,
    classes: tuple[str, ...] | None = FEDSTO_CLASSES,
    size: BoxSize = (192, 320),
    min_side: MinSide = 0.0,
    limit: Limit = None,
    test_limit: TestLimit = None,
    bad_boxes: BadBoxes = "error",
    cache: CacheFolder = None,
) -> BoxSet:
    """Read BDD100K: images/100k/{train,val} and labels/det_20/det_{train,val}.json, or the files of 2018.

    Those are a list of all pictures or, in labels/100k/{train,val}, a file for each.
    root: the folder that holds images/ and labels/, one above it, or a zip archive. weathers: keep only
    pictures of these (cloudy, which BDD100K calls partly cloudy, clear, overcast, rainy, snowy, foggy,
    undefined). classes: those to keep, None for all; the names are those of 2020 but person for pedestrian.
    Attributes are weather, scene and timeofday. The validation part is the test part. Labels without box2d
    (lanes, drivable areas) are left out. The other options are those of `read_coco`.

    Raises DataError that names the file and the record for whatever does not fit.
    """
    tree = Tree("bdd100k", root, "images/100k and labels (BDD100K)", ("images", "labels", "bdd100k"))
    with tree.lines():
        names = chosen_classes(_BDD_CLASSES, classes, "BDD100K")
        parts = []
        for part in ("train", "val"):
            places = {f"{place}{file.format(part)}": place for place in _BDD_PLACES for file in _BDD_FILES}
            path = tree.first(list(places), f"BDD100K's labels of {part}")
            parts.append(_bdd_pictures(tree, path, f"{places[path]}images/100k/{part}", names, weathers))
        data = Framing(size, min_side, bad_boxes, cache).parts(tree, parts[0], parts[1], (limit, test_limit))
        return BoxSet("bdd100k", *data, names, MEAN, STD)


def _bdd_pictures(
    tree: Tree, path: str, images: str, names: Sequence[str], weathers: Sequence[str] | None
) -> list[Picture]:
    number = {name: index for index, name in enumerate(names)}
    pictures, seen = [], set()
    for where, record, labels in _bdd_frames(tree, path):
        given = record.get("attributes")
        attributes = {} if given is None else plain(mapping(given, f"{where}: attributes"))
        if "weather" in attributes:
            attributes["weather"] = _BDD_WEATHERS.get(attributes["weather"], attributes["weather"])
        seen |= {attributes["weather"]} if "weather" in attributes else set()
        if weathers is not None and attributes.get("weather") not in weathers:
            continue
        file = inside(word(needed(record, "name", where), f"{where}: name"), where)
        marks = _bdd_marks(labels, number, file)
        pictures.append(Picture(f"{images}/{file}", where, marks, attributes))
    unknown = sorted(set(weathers or ()) - seen)
    if unknown:
        known = ", ".join(sorted(seen)) or "no weather at all"
        raise DataError(f"{tree.full(path)} has no picture with weather {', '.join(unknown)}; it has {known}")
    return pictures


def _bdd_frames(tree: Tree, path: str) -> Iterator[tuple[str, dict[str, Any], _Labels]]:
    """Yield (where, record, labels) of each picture, from a file for all or a folder of files for one each."""
    if not path.endswith("/"):
        content = tree.json(path)
        # Scalabel, with which BDD100K is labelled, writes the list into an object beside its own settings.
        frames = content["frames"] if isinstance(content, dict) and "frames" in content else content
        for where, record in records(frames, "frames", tree.full(path)):
            yield where, record, _bdd_labels(record, "labels", where)
        return
    for file in tree.below(path.rstrip("/"), (".json",)):
        where = tree.full(file)
        record = mapping(tree.json(file), where)
        frames = list(records(needed(record, "frames", where), "frames", where))
        if len(frames) != 1:
            raise DataError(f"{where} must hold one frame, as it is of one picture; got {len(frames)}")
        place, frame = frames[0]
        name = word(needed(record, "name", where), f"{where}: name")
        named = {**record, "name": name if name.endswith(".jpg") else f"{name}.jpg"}
        yield where, named, _bdd_labels(frame, "objects", place)


def _bdd_labels(record: dict[str, Any], name: str, where: str) -> _Labels:
    """Yield (where, label) of the list of that name; pictures without any have null or no list."""
    labels = record.get(name)
    return records([] if labels is None else labels, name, where)


def _bdd_marks(labels: _Labels, number: dict[str, int], picture: str) -> list[Mark]:
    marks = []
    for place, label in labels:
        if label.get("box2d") is None:
            continue
        given = word(needed(label, "category", place), f"{place}: category")
        category = _BDD_SYNONYMS.get(given, given)
        if category not in _BDD_CLASSES:
            raise DataError(f"{place} has the unknown category {shown(given)}; known are {', '.join(_BDD_CLASSES)}")
        if category in number:
            box = mapping(label["box2d"], f"{place}: box2d")
            values = [needed(box, key, f"{place}: box2d") for key in ("x1", "y1", "x2", "y2")]
            x1, y1, x2, y2 = numbers(values, 4, f"{place}: box2d")
            marks.append(Mark((x1, y1, x2, y2), number[category], f"{place} of {picture}"))
    return marks


def read_cityscapes(
    root: str | Path | None,
    *,
    annotations: Literal["gtFine", "gtCoarse"] = "gtFine",
    classes: tuple[str, ...] | None = None,
    size: BoxSize = (256, 512),
    min_side: MinSide = 0.0,
    limit: Limit = None,
    test_limit: TestLimit = None,
    bad_boxes: BadBoxes = "error",
    cache: CacheFolder = None,
) -> BoxSet:
    """Read Cityscapes: leftImg8bit/{train,val}/<city>/ and gtFine/{train,val}/<city>/*_polygons.json.

    A box spans the vertices of an object's polygon; in groups (labels like cargroup) what is found counts
    neither way, and areas (road, sky) are left out. classes: those to keep, None for the eight with
    instances. The attribute is city. The validation part is the test part. The other options are those of
    `read_coco`.

    Raises DataError that names the file and the object for whatever does not fit.
    """
    layout = f"leftImg8bit and {annotations} (Cityscapes)"
    tree = Tree("cityscapes", root, layout, ("leftImg8bit", annotations))
    with tree.lines():
        names = chosen_classes(CITYSCAPES_CLASSES, classes, "Cityscapes")
        train, test = (_city_pictures(tree, annotations, part, names) for part in ("train", "val"))
        data = Framing(size, min_side, bad_boxes, cache).parts(tree, train, test, (limit, test_limit))
        return BoxSet("cityscapes", *data, names, MEAN, STD)


def _city_pictures(tree: Tree, annotations: str, part: str, names: Sequence[str]) -> list[Picture]:
    ending = f"_{annotations}_polygons.json"
    files = tree.below(f"{annotations}/{part}", (ending.lower(),))
    if not files:
        raise DataError(f"{tree.full(annotations)}/{part} holds no <city>/*{ending}{tree.astray()}")
    pictures = []
    for file in files:
        path = f"leftImg8bit{file.removeprefix(annotations).removesuffix(ending)}_leftImg8bit.png"
        where, content = tree.full(file), tree.json(file)
        if not isinstance(content, dict):
            raise DataError(f"{where} must hold an object with imgWidth, imgHeight and objects (Cityscapes)")
        claim = [needed(content, side, where) for side in ("imgWidth", "imgHeight")]
        size = extent(claim, f"{where}: imgWidth, imgHeight")
        marks = _city_marks(needed(content, "objects", where), names, where)
        pictures.append(Picture(path, where, marks, {"city": file.split("/")[-2]}, size))
    return pictures


def _city_marks(objects: object, names: Sequence[str], where: str) -> list[Mark]:
    marks = []
    for place, record in records(objects, "objects", where):
        label = word(needed(record, "label", place), f"{place}: label")
        if record.get("deleted"):
            continue
        name = label.removesuffix("group")
        if name not in _CITY_LABELS:
            known = ", ".join(_CITY_LABELS)
            raise DataError(f"{place} has the unknown label {shown(label)}; known are {known}, and each with 'group'")
        if name in names:
            marks.append(Mark(_span(record, place), names.index(name), place, ignored=name != label))
    return marks


def _span(record: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    polygon = needed(record, "polygon", where)
    if not isinstance(polygon, list) or not polygon:
        raise DataError(f"{where}: polygon must be a list of points, got {shown(polygon)}")
    points = [numbers(point, 2, f"{where}: polygon") for point in polygon]
    # NumPy's minimum is NaN where a point is, so that the box is told as bad; Python's would pass over it.
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
