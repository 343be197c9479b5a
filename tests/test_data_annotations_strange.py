"""Annotations whose values are of a kind that nobody expects: each is told with its file and its record or line."""

import json
from pathlib import Path
from typing import Any

import pytest
from trees_for_tests import (
    FORMATS,
    SIZE,
    make_cityscapes,
    make_coco,
    make_soda,
    make_voc,
    make_yolo,
    picture,
    voc_xml,
    write,
)

from fedbox.data import DataError
from fedbox.data.annotations_coco import read_coco, read_soda10m
from fedbox.data.annotations_driving import CITYSCAPES_CLASSES, read_cityscapes
from fedbox.data.annotations_voc import read_voc
from fedbox.data.annotations_yolo import read_yolo

NAN, INF, HUGE = float("nan"), float("inf"), 10**400
FILES = {
    "coco": "annotations/train.json",
    "bdd100k": "labels/det_20/det_train.json",
    "cityscapes": "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json",
}


def edit(path: Path, steps: tuple[str | int, ...], value: Any) -> None:
    """Put a value into a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    place = content
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    write(path, content)


@pytest.mark.parametrize(
    ("kind", "steps", "value", "message"),
    [
        ("coco", ("categories", 0, "id"), [7], r"categories\[0\]: id must be a number or a text, got \[7\]"),
        ("coco", ("categories", 0, "id"), None, r"categories\[0\]: id must be a number or a text, got None"),
        ("coco", ("categories", 0, "id"), NAN, r"categories\[0\]: id must be a number or a text, got nan"),
        ("coco", ("categories", 0, "id"), "x", r"annotations\[0\] has the unknown category_id 7; known are \[3, 'x'\]"),
        ("coco", ("images", 1, "id"), {}, r"images\[1\]: id must be a number or a text, got \{\}"),
        ("coco", ("annotations", 0, "image_id"), [7], r"annotations\[0\]: image_id must be a number or a text"),
        ("coco", ("annotations", 1, "category_id"), True, r"annotations\[1\]: category_id must be .*, got True"),
        ("coco", ("categories", 1, "name"), None, r"categories\[1\]: name must be a number or a text, got None"),
        ("coco", ("categories", 1, "name"), " ", r"categories\[1\]: name must not be empty"),
        ("coco", ("images", 0, "file_name"), None, r"images\[0\]: file_name must be a number or a text, got None"),
        ("coco", ("annotations", 1, "id"), 1, r"s\[1\]: annotation id 1 is there twice, first in .*annotations\[0\]"),
        ("coco", ("annotations", 1, "id"), [], r"annotations\[1\]: id must be a number or a text, got \[\]"),
        ("coco", ("annotations", 0, "bbox"), [HUGE, 0, 1, 1], r"annotations\[0\]: bbox: 4 numbers are .*, got \[1000"),
        ("coco", ("images", 0, "width"), HUGE, r"images\[0\]: width, height: 2 numbers are needed, got \[1000"),
        ("coco", ("images", 0, "width"), NAN, r"width, height: whole numbers of pixels are needed, got \[nan, 40\]"),
        ("coco", ("images", 0, "height"), INF, r"width, height: whole numbers of pixels are needed, got \[80, inf\]"),
        ("coco", ("images", 0, "height"), 40.5, r"width, height: whole numbers of pixels are needed, got \[80, 40.5\]"),
        ("coco", ("images", 0, "file_name"), "x" * 300, r"1 of 3 pictures are not in .*images\[0\]: 'images/xx"),
        ("coco", ("annotations", 1, "iscrowd"), "0", r"s\[1\]: iscrowd must be 0, 1, true or false, got '0'"),
        ("coco", ("annotations", 1, "iscrowd"), [], r"annotations\[1\]: iscrowd must be 0, 1, true or false, got \[\]"),
        ("cityscapes", ("imgWidth",), NAN, r"imgWidth, imgHeight: whole numbers of pixels are needed, got \[nan, 40\]"),
        ("cityscapes", ("objects", 1, "label"), "caar", r"objects\[1\] has the unknown label 'caar'; known are person"),
        ("cityscapes", ("objects", 1, "label"), None, r"objects\[1\]: label must be a number or a text, got None"),
        ("cityscapes", ("objects", 1, "polygon"), [[1, 2], [9, NAN], [5, 6]], r"s\[1\]: box \[1.0, nan, 9.0, nan"),
        ("bdd100k", (0, "attributes"), ["rainy"], r"frames\[0\]: attributes must be an object, got \['rainy'\]"),
        ("bdd100k", (0, "attributes"), "rainy", r"frames\[0\]: attributes must be an object, got 'rainy'"),
        ("bdd100k", (0, "labels", 0, "box2d"), 5, r"labels\[0\]: box2d must be an object, got 5"),
        ("bdd100k", (0, "labels", 0, "box2d"), "x1y1x2y2", r"labels\[0\]: box2d must be an object, got 'x1y1x2y2'"),
    ],
)
def test_json_values_of_a_wrong_kind_are_told(
    tmp_path: Path, kind: str, steps: tuple[str | int, ...], value: Any, message: str
) -> None:
    make, read, _, _ = FORMATS[kind]
    make(tmp_path)
    edit(tmp_path / FILES[kind], steps, value)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert FILES[kind] in str(caught.value)
    assert len(str(caught.value)) < 800


def test_other_labels_of_cityscapes_are_known(tmp_path: Path) -> None:
    """Each with its polygon: areas, things in groups, and a label that someone took back."""
    make_cityscapes(tmp_path)
    path = tmp_path / FILES["cityscapes"]
    square = [[0, 0], [5, 0], [5, 5]]
    labels = ["ego vehicle", "license plate", "rail track", "polegroup", "bicyclegroup", "caravan"]
    objects = [{"label": label, "polygon": square} for label in labels]
    edit(path, ("objects",), [*objects, {"label": "caar", "polygon": square, "deleted": 1}])
    train = read_cityscapes(tmp_path, size=SIZE).train
    assert len(train.boxes) == 0
    assert train.ignored is not None
    assert train.ignored.labels.tolist() == [CITYSCAPES_CLASSES.index("bicycle")]  # of the classes, the group alone


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "train.json: no valid JSON: it is nested too deeply"),
        (f'{{"images": {"9" * 5000}}}', "train.json: no valid JSON: Exceeds the limit"),
    ],
    ids=["deep", "long"],
)
def test_json_that_the_parser_gives_up_is_told(tmp_path: Path, text: str, message: str) -> None:
    make_coco(tmp_path)
    write(tmp_path / FILES["coco"], text)
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: a, x: b}", r"names must be a list of classes, or number each from 0; got \{0: 'a', 'x': 'b'\}"),
        ("names: [a, null]", r"data.yaml: names\[1\] must be a number or a text, got None"),
        ("names: [a, yes]", r"data.yaml: names\[1\] must be a number or a text, got True"),
        ("names: [a]\nval: \x01", r"data.yaml, line 2: no valid YAML: .* not allowed, got '\\x01'"),
        ("names: [a]\ndate: 2024-99-99", r"data.yaml: no valid YAML: month must be in 1..12"),
        ("[" * 5_000, r"data.yaml: no valid YAML: it is nested too deeply"),
    ],
    ids=["keys", "null", "yes", "control", "date", "deep"],
)
def test_a_strange_data_yaml_is_told(tmp_path: Path, text: str, message: str) -> None:
    make_yolo(tmp_path)
    write(tmp_path / "data.yaml", text)
    with pytest.raises(DataError, match=message):
        read_yolo(tmp_path)


def test_a_list_that_names_a_folder_is_told(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    write(tmp_path / "train.txt", "images/train/rainy/a.png\n../\n")
    write(tmp_path / "data.yaml", "train: train.txt\nval: images/val\nnames: [person, car]\n")
    with pytest.raises(DataError, match=r"1 of 3 pictures are not in .*train.txt, line 2: '.'"):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("9" * 5000 + " 0.5 0.5 0.1 0.1", r"a.txt, line 1: unknown class '999.*9'; classes are numbered 0..1"),
        ("1 0.1 0.1 nan 0.5 0.4 0.6", r"a.txt, line 1: \[0.1, 0.1, nan, .* must be shares of the picture's sides"),
    ],
    ids=["class", "nan"],
)
def test_strange_numbers_of_a_label_file_are_told(tmp_path: Path, line: str, message: str) -> None:
    make_yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "rainy" / "a.txt", line)
    with pytest.raises(DataError, match=message):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<width>80", "<width>nan", r"size/width, size/height: whole numbers of pixels are .* got \['nan', '40'\]"),
        ("<width>80", "<width>inf", r"size/width, size/height: whole numbers of pixels"),
        ("<width>80", "<width>-80", r"size/width, size/height: whole numbers of pixels"),
        ("annotation>", "note>", r"must hold an <annotation> \(Pascal VOC\), got <note>"),
    ],
)
def test_strange_xml_is_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    make_voc(tmp_path)
    write(tmp_path / "Annotations" / "000007.xml", voc_xml("000007").replace(old, new))
    with pytest.raises(DataError, match=r"000007.xml:? .*" + message):
        read_voc(tmp_path)


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "gb18030"])
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path: Path, encoding: str) -> None:
    make_voc(tmp_path)
    for name in ("000005", "000007"):
        text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + voc_xml(name).replace(">car<", ">café<")
        (tmp_path / "Annotations" / f"{name}.xml").write_bytes(text.encode(encoding))
    assert read_voc(tmp_path).classes == ("café", "person")
    path = tmp_path / "Annotations" / "000005.xml"
    for declared, told in (("ebcdic-9", "unknown encoding: ebcdic-9"), ("ascii", "'ascii' codec can't decode")):
        path.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>é'.encode("latin-1"))
        with pytest.raises(DataError, match=f"000005.xml is no text in the encoding it declares: {told}"):
            read_voc(tmp_path)
    path.write_bytes("<annotation>é</annotation>".encode("latin-1"))
    with pytest.raises(DataError, match=r"000005.xml is no UTF-8 text"):
        read_voc(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(None, None), (0, 0), (0, 40), ("", "40"), (80, None)])
def test_a_size_that_a_tool_left_out_claims_nothing(tmp_path: Path, width: Any, height: Any) -> None:
    make_coco(tmp_path)
    for side, value in (("width", width), ("height", height)):
        edit(tmp_path / FILES["coco"], ("images", 0, side), value)
    assert len(read_coco(tmp_path, size=SIZE).train.boxes) == 2
    make_voc(tmp_path)
    told = "".join(
        f"<{side}>{value}</{side}>" if value is not None else ""
        for side, value in (("width", width), ("height", height))
    )
    whole = voc_xml("000005")
    cut = whole[whole.index("<size>") : whole.index("</size>")]
    write(tmp_path / "Annotations" / "000005.xml", whole.replace(cut, f"<size>{told}"))
    assert len(read_voc(tmp_path, size=SIZE).train.boxes) == 1


def test_annotations_without_any_class_are_told(tmp_path: Path) -> None:
    """Not by the model, which could only say that it was asked to tell 0 classes apart."""
    make_coco(tmp_path)
    for part in ("train", "test"):
        path = tmp_path / "annotations" / f"{part}.json"
        write(path, {**json.loads(path.read_text()), "annotations": [], "categories": []})
    with pytest.raises(DataError, match=r"train.json has no class, and so nothing to detect"):
        read_coco(tmp_path)


@pytest.mark.parametrize("box", [[20, 10, 0, 5], [90, 10, 5, 5]], ids=["empty", "outside"])
def test_bad_boxes_are_told_before_any_picture_is_decoded(tmp_path: Path, box: list[int]) -> None:
    """In the test part, too: decoding BDD100K takes a quarter of an hour, and was for nothing."""
    make_coco(tmp_path)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    path = tmp_path / "annotations" / "test.json"
    write(path, {**json.loads(path.read_text()), "annotations": [{"image_id": 10, "category_id": 7, "bbox": box}]})
    with pytest.raises(DataError, match=r"1 bad box\(es\); set bad_boxes: drop to leave them out: .*test.json"):
        read_coco(tmp_path)
    with pytest.raises(DataError, match=r"a.png does not decode"):
        read_coco(tmp_path, bad_boxes="drop")


def test_boxes_without_area_are_told_before_where_no_size_is_claimed(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    (tmp_path / "images" / "train" / "rainy" / "a.png").write_bytes(b"no picture")
    write(tmp_path / "labels" / "val" / "rainy" / "b.txt", "1 .5 .5 0 .1")
    with pytest.raises(DataError, match=r"b.txt, line 1: box \[0.5, 0.45, 0.5, 0.55\] has no area"):
        read_yolo(tmp_path)


def test_ids_of_another_kind_are_told_apart(tmp_path: Path) -> None:
    make_coco(tmp_path)
    for row, number in enumerate(("10", "11")):
        edit(tmp_path / FILES["coco"], ("images", row, "id"), number)
    with pytest.raises(DataError, match=r"belongs to image_id 10, which no image record has; ids are \['10', '11'\]"):
        read_coco(tmp_path)


def test_a_picture_beside_its_xml_need_not_be_named_there(tmp_path: Path) -> None:
    """Tools write where the picture was when it was marked, and cameras write .JPG."""
    make_voc(tmp_path)
    path = tmp_path / "Annotations" / "000005.xml"
    write(path, voc_xml("000005").replace("<filename>", "<filename>../pictures/"))
    assert read_voc(tmp_path, size=SIZE).train.names.tolist() == ["JPEGImages/000005.jpg"]
    (tmp_path / "JPEGImages" / "000005.jpg").rename(tmp_path / "JPEGImages" / "000005.JPG")
    assert read_voc(tmp_path, size=SIZE).train.names.tolist() == ["JPEGImages/000005.JPG"]
    (tmp_path / "JPEGImages" / "000005.JPG").unlink()
    with pytest.raises(
        DataError, match=r"000005.xml: picture '.*/../pictures/000005.jpg' must be a path below the root"
    ):
        read_voc(tmp_path)


def test_unlabelled_pictures_elsewhere_are_refused(tmp_path: Path) -> None:
    make_soda(tmp_path / "data")
    picture(tmp_path / "elsewhere" / "u.jpg")
    with pytest.raises(DataError, match=r"elsewhere must be a folder below the root, .*data"):
        read_soda10m(tmp_path / "data", unlabelled=str(tmp_path / "elsewhere"))
