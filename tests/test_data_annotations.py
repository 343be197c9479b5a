"""Small data sets in each real format, written as their publishers write them."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from trees_for_tests import (
    FORMATS,
    MOVED,
    SIZE,
    WIDTH,
    coco_file,
    make_bdd,
    make_cityscapes,
    make_coco,
    make_soda,
    make_voc,
    picture,
    voc_xml,
    write,
    zipped_tree,
)

from fedbox.data import DataError
from fedbox.data.annotations_coco import read_coco, read_soda10m
from fedbox.data.annotations_driving import read_bdd100k, read_cityscapes
from fedbox.data.annotations_voc import read_voc
from fedbox.data.annotations_yolo import read_yolo


@pytest.fixture
def coco(tmp_path) -> Path:
    make_coco(tmp_path)
    return tmp_path


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_same_box(tmp_path, kind, zipped):
    make, read, attributes, name = FORMATS[kind]
    make(tmp_path / "data")
    root = tmp_path / "data"
    if zipped:
        root = zipped_tree(root)
    data = read(root, size=SIZE)
    assert data.shape == (3, *SIZE)
    for part in (data.train, data.test):
        boxes, labels = part.of(0)
        np.testing.assert_allclose(boxes, [MOVED], atol=1e-5)
        assert [data.classes[label] for label in labels] == [name]
        bright = part.images[0].mean(0) > 128
        assert np.argwhere(bright).min(0).tolist() == [8, 16]
        assert (np.argwhere(bright).max(0) + 1).tolist() == [24, 40]
    assert {key: data.train.attributes[key][0] for key in attributes} == attributes


def test_coco_numbers_classes_by_their_ids_and_keeps_attributes(coco):
    data = read_coco(coco, size=SIZE)
    assert data.classes == ("person", "car")
    assert (len(data.train), len(data.test)) == (2, 1)
    np.testing.assert_allclose(data.train.boxes, [MOVED] * 2, atol=1e-5)
    assert data.train.box_labels.tolist() == [1, 1]
    assert set(data.train.attributes) == {"weather"}
    assert data.train.names.tolist() == ["images/a.png", "images/b.png"]
    np.testing.assert_allclose(read_coco(coco, size=64).train.boxes[0], [16, 24, 40, 40], atol=1e-5)


def test_the_margins_of_a_fitted_picture_are_grey_and_hold_no_box(coco):
    image = read_coco(coco, size=64).train.images[0]
    assert (image[:, :16] == 114).all()
    assert (image[:, 48:] == 114).all()
    assert set(np.unique(image[:, 16:48])) >= {0, 255}


def test_classes_are_chosen_and_boxes_of_others_left_out(coco):
    content = coco_file(["a.png", "b.png"])
    content["annotations"].append({"id": 9, "image_id": 10, "category_id": 3, "bbox": [0, 0, 8, 8]})
    content["annotations"].append({"id": 10, "image_id": 10, "category_id": 7, "bbox": [0, 0, 8, 8], "iscrowd": True})
    write(coco / "annotations" / "train.json", content)
    train = read_coco(coco, size=SIZE).train
    assert len(train.boxes) == 3
    for found, offsets in ((train, [0, 1, 1]), (train.take(np.array([1, 0])), [0, 0, 1])):
        regions = found.ignored
        assert (regions.offsets.tolist(), regions.labels.tolist()) == (offsets, [1])
        np.testing.assert_allclose(regions.boxes, [[0, 0, 6.4, 6.4]], atol=1e-5)
    data = read_coco(coco, size=SIZE, classes=("car",), test=None)
    assert data.classes == ("car",)
    assert data.train.box_labels.tolist() == [0, 0]
    assert len(data.test) == 0
    assert len(read_coco(coco, size=SIZE, min_side=6.5).train.boxes) == 2
    with pytest.raises(DataError, match=r"has no class bus; it has person, car"):
        read_coco(coco, classes=("bus",))


def test_a_limit_is_a_fixed_choice(coco):
    names = [f"{row}.png" for row in range(20)]
    for name in names:
        picture(coco / "images" / name)
    write(coco / "annotations" / "train.json", coco_file(names))
    five, nine = (read_coco(coco, size=SIZE, limit=limit).train.names.tolist() for limit in (5, 9))
    assert len(five) == 5
    assert set(five) < set(nine)
    assert len(read_coco(coco, size=SIZE, test_limit=0).test) == 0


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([20, 10, 0, 5], r"train.json: annotations\[0\] \(id 1\): box \[20.0, 10.0, 20.0, 15.0\] has no area"),
        ([20, 10, -4, 5], "has no area"),
        ([40, 20, 1e-7, 5], r"box \[40.0, 20.0, 40.0, 25.0\] is too thin to have an area in images of 64 x 32"),
        ([90, 10, 5, 5], r"\(id 1\): box .* lies outside its picture of 80 x 40"),
        ([float("nan"), 10, 5, 5], "has no area"),
    ],
)
def test_bad_boxes_are_told_or_dropped(coco, caplog, box, message):
    write(coco / "annotations" / "train.json", coco_file(["a.png", "b.png"], [box, [0, 0, 10, 10]]))
    with pytest.raises(DataError, match=r"1 bad box\(es\); set bad_boxes: drop.*" + message):
        read_coco(coco, size=SIZE)
    data = read_coco(coco, size=SIZE, bad_boxes="drop")
    assert data.train.counts.tolist() == [0, 1]
    assert "1 bad box(es) left out" in caplog.text


def test_a_box_that_reaches_out_is_clipped(coco):
    write(coco / "annotations" / "train.json", coco_file(["a.png", "b.png"], [[-10, -10, 30, 20], [60, 30, 40, 40]]))
    np.testing.assert_allclose(read_coco(coco, size=SIZE).train.boxes, [[0, 0, 16, 8], [48, 24, 64, 32]], atol=1e-5)


def change(path: tuple, value):
    def apply(content: dict) -> dict:
        place = content
        for step in path[:-1]:
            place = place[step]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return content

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(("annotations", 0, "image_id"), 99), r"annotations\[0\] belongs to image_id 99, which no image"),
        (change(("annotations", 1, "category_id"), 1), r"annotations\[1\] has the unknown category_id 1; known"),
        (
            change(("annotations", 0, "bbox"), [1, 2, 3]),
            r"annotations\[0\]: bbox: 4 numbers are needed, got \[1, 2, 3\]",
        ),
        (change(("annotations", 0, "bbox"), [1, 2, 3, "x"]), r"4 numbers are needed"),
        (change(("annotations", 0, "bbox"), None), r"annotations\[0\] lacks 'bbox'; it has id"),
        (change(("images", 1, "id"), 10), r"images\[1\]: image id 10 is there twice"),
        (change(("images", 1, "file_name"), "z.png"), r"1 of 3 pictures are not in .*images\[1\]: 'images/z.png'"),
        (change(("images", 1, "file_name"), "../z.png"), r"'../z.png' must be a path below the root"),
        (change(("images", 0, "width"), 640), r"images/a.png is 80 x 40 .* the annotations say 640 x 40; are they"),
        (change(("images", 0, "height"), "tall"), r"images\[0\]: width, height: 2 numbers"),
        (change(("categories", 1, "id"), 7), r"category 'person' \(id 7\) is there twice"),
        (change(("categories",), None), r"train.json lacks 'categories'; it has images, annotations"),
        (change(("images",), {}), r"images must be a list, got dict"),
        (change(("images", 0), 5), r"images\[0\] must be an object, got 5"),
    ],
)
def test_coco_faults_name_file_and_record(coco, edit, message):
    write(coco / "annotations" / "train.json", edit(coco_file(["a.png", "b.png"])))
    with pytest.raises(DataError, match=message):
        read_coco(coco)


@pytest.mark.parametrize("classes", [None, ("car",)])
def test_a_class_that_only_the_test_file_has_is_told(tmp_path, classes):
    make_coco(tmp_path)
    content = coco_file(["c.png"])
    content["categories"].append({"id": 9, "name": "Car"})
    write(tmp_path / "annotations" / "test.json", content)
    assert len(read_coco(tmp_path, size=SIZE, classes=classes).test.boxes) == 1
    content["annotations"][0]["category_id"] = 9
    write(tmp_path / "annotations" / "test.json", content)
    with pytest.raises(DataError, match=r"test.json: annotations\[0\]: unknown class 'Car'; .*n.json has person, car"):
        read_coco(tmp_path, classes=classes)
    make_soda(tmp_path)
    path = tmp_path / "SSLAD-2D" / "labeled" / "annotations" / "instance_val.json"
    path.write_text(path.read_text().replace('"car"', '"Car"'))
    with pytest.raises(DataError, match=r"instance_val.json: annotations\[0\]: unknown class 'Car'"):
        read_soda10m(tmp_path / "SSLAD-2D" / "labeled")


def test_annotations_of_other_pictures_are_recognised(coco):
    for part in ("train", "test"):
        write(coco / "annotations" / f"{part}.json", coco_file([f"other_{part}.png"]))
    with pytest.raises(
        DataError, match=r"none of the 1 pictures of .*train.json .* the annotations of other pictures?"
    ):
        read_coco(coco)


def test_broken_json_and_pictures_are_named(coco):
    (coco / "images" / "b.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"images/b.png does not decode"):
        read_coco(coco)
    write(coco / "annotations" / "train.json", '{"images": [],\n\n "annotations": [}')
    with pytest.raises(DataError, match=r"train.json, line 3: no valid JSON"):
        read_coco(coco)
    with pytest.raises(DataError, match=r"annotations/nix.json does not exist; annotation files are .*train.json"):
        read_coco(coco, train="annotations/nix.json")
    with pytest.raises(DataError, match="needs root: a folder with annotations"):
        read_coco(None)
    (coco / "broken.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"broken.zip is no readable zip archive"):
        read_coco(coco / "broken.zip")


def test_soda10m_adds_pictures_without_labels(tmp_path):
    make_soda(tmp_path)
    picture(tmp_path / "unlabeled" / "UNLABEL_01_BJ_000_00000000072719.jpg")
    data = read_soda10m(tmp_path, size=SIZE, unlabelled="unlabeled")
    assert data.train.attributes["labels"].tolist() == ["yes", "no"]
    assert data.train.attributes["city"].tolist() == ["Shanghai", "unknown"]
    assert data.train.counts.tolist() == [1, 0]
    assert data.train.annotated.tolist() == [True, False]
    assert data.train.take(np.array([1])).annotated.tolist() == [False]
    hint = "; name the folder of the unlabelled ones with data.options.unlabelled, null for none"
    with pytest.raises(DataError, match=f"nowhere does not exist{hint}"):
        read_soda10m(tmp_path, size=SIZE, unlabelled="nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=f"bare holds no pictures{hint}"):
        read_soda10m(tmp_path, size=SIZE, unlabelled="bare")


def test_voc_keeps_difficult_objects_on_demand(tmp_path):
    make_voc(tmp_path)
    assert read_voc(tmp_path, size=SIZE).classes == ("car", "person")
    without, data = (read_voc(tmp_path, size=SIZE, difficult=kept) for kept in (False, True))
    assert data.train.ignored is None
    np.testing.assert_allclose(without.train.ignored.boxes, [[0, 0, 4, 7.2]], atol=1e-5)
    assert len(without.train.boxes) == len(data.train.boxes) - 1
    np.testing.assert_allclose(data.train.boxes[1], [0, 0, 4, 7.2], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            voc_xml("000007", "\n  <object><name>emu</name></object>"),
            r"000007.xml, line 15: .* needs a name and a bndbox",
        ),
        (
            voc_xml("000007").replace("person", "emu"),
            r"000007.xml, line 11: unknown class 'emu'; the train set has car",
        ),
        (voc_xml("000007").replace("<xmin>21</xmin>", ""), r"line 7: bndbox/xmin: 1 numbers are needed"),
        (voc_xml("000007").replace(">50<", ">10<"), r"line 7: box \[20.0, 10.0, 10.0, 30.0\] has no area"),
        (
            voc_xml("000007", "\n<!-- <object>\n -->\n<part><object/></part>\n<object/>"),
            r"000007.xml, line 18: .* needs a name and a bndbox",
        ),
        (voc_xml("000007").replace("</object>", "", 1), r"000007.xml, line 15: no valid XML"),
        (voc_xml("000007").replace(f"<width>{WIDTH}", "<width>500"), r"say 500 x 40; are they those of other pictures"),
    ],
)
def test_voc_faults_name_file_and_line(tmp_path, text, message):
    make_voc(tmp_path)
    write(tmp_path / "Annotations" / "000007.xml", text)
    with pytest.raises(DataError, match=message):
        read_voc(tmp_path)


def test_voc_names_may_hold_spaces(tmp_path):
    make_voc(tmp_path)
    for folder, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (tmp_path / folder / f"000005.{suffix}").rename(tmp_path / folder / f"my car 1.5.{suffix}")
    for line in ("my car 1.5", " my car 1.5  -1 "):
        write(tmp_path / "ImageSets" / "Main" / "train.txt", f"{line}\n\n")
        assert read_voc(tmp_path, size=SIZE).train.names.tolist() == ["JPEGImages/my car 1.5.jpg"]


def test_voc_flags_are_words_too(tmp_path):
    make_voc(tmp_path)
    path = tmp_path / "Annotations" / "000005.xml"
    whole = path.read_text()
    write(path, whole.replace("<difficult>1<", "<difficult>True<"))
    assert read_voc(tmp_path, size=SIZE).train.ignored is not None
    write(path, whole.replace("<difficult>1<", "<difficult>2<"))
    with pytest.raises(DataError, match=r"000005.xml, line 11: difficult must be 0, 1, true or false, got '2'"):
        read_voc(tmp_path)


def test_a_voc_set_without_objects_is_told(tmp_path):
    make_voc(tmp_path)
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "")
    with pytest.raises(DataError, match=r"Main/train.txt has no class, and so nothing to detect"):
        read_voc(tmp_path)


def test_missing_voc_files_are_named(tmp_path):
    make_voc(tmp_path)
    with pytest.raises(DataError, match=r"trainval.txt does not exist; image sets are train, val"):
        read_voc(tmp_path, train="trainval")
    (tmp_path / "Annotations" / "000005.xml").unlink()
    with pytest.raises(DataError, match=r"000005.xml does not exist, although an image set names it"):
        read_voc(tmp_path)


def test_bdd100k_knows_both_releases_and_chooses_weathers(tmp_path):
    make_bdd(tmp_path)
    data = read_bdd100k(tmp_path, size=SIZE)
    assert data.classes == ("person", "car", "bus", "truck", "traffic sign")
    assert data.train.attributes["weather"].tolist() == ["rainy", "cloudy"]
    cloudy = read_bdd100k(tmp_path, size=SIZE, weathers=("cloudy",), classes=None)
    assert cloudy.train.attributes["weather"].tolist() == ["cloudy"]
    assert [cloudy.classes[label] for label in cloudy.train.box_labels] == ["person", "traffic light"]
    with pytest.raises(DataError, match=r"no picture with weather snowy; it has cloudy, rainy$"):
        read_bdd100k(tmp_path, weathers=("snowy",))
    for part in ("train", "val"):
        old = tmp_path / "labels" / "det_20" / f"det_{part}.json"
        old.rename(tmp_path / "labels" / f"bdd100k_labels_images_{part}.json")
    assert len(read_bdd100k(tmp_path, size=SIZE).train.boxes) == 2


def test_bdd100k_reads_the_frames_of_scalabel(tmp_path):
    make_bdd(tmp_path)
    for part in ("train", "val"):
        path = tmp_path / "labels" / "det_20" / f"det_{part}.json"
        write(path, {"config": {"categories": []}, "frames": json.loads(path.read_text())})
    assert len(read_bdd100k(tmp_path, size=SIZE).train.boxes) == 2


def test_bdd100k_faults_name_the_label(tmp_path):
    make_bdd(tmp_path)
    path = tmp_path / "labels" / "det_20" / "det_train.json"
    text = path.read_text()
    path.write_text(text.replace("traffic light", "tractor", 1))
    with pytest.raises(DataError, match=r"frames\[0\]: labels\[1\] has the unknown category 'tractor'"):
        read_bdd100k(tmp_path)
    path.write_text(text.replace('"x1"', '"x"', 1))
    with pytest.raises(DataError, match=r"labels\[0\]: box2d lacks 'x1'; it has x, y1"):
        read_bdd100k(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"lacks BDD100K's labels of train: looked for labels/det_20/det_train.json"):
        read_bdd100k(tmp_path)


def test_cityscapes_faults_name_the_object(tmp_path):
    make_cityscapes(tmp_path)
    path = next(tmp_path.rglob("aachen*_polygons.json"))
    text = path.read_text()
    path.write_text(text.replace('"polygon": [[20', '"polygon": [["x"'))
    with pytest.raises(DataError, match=r"aachen_000000_000019_gtFine_polygons.json: objects\[1\]: polygon: 2 numbers"):
        read_cityscapes(tmp_path)
    path.write_text(text)
    next(tmp_path.rglob("aachen*.png")).unlink()
    with pytest.raises(DataError, match=r"1 of 2 pictures are not in .*leftImg8bit/train/aachen/aachen"):
        read_cityscapes(tmp_path)
    with pytest.raises(DataError, match=r"gtCoarse/train holds no <city>"):
        read_cityscapes(tmp_path, annotations="gtCoarse")


def test_the_real_foreign_objects(shared_data):
    data = read_coco(shared_data / "foda_det", size=64, limit=60, test_limit=20)
    assert len(data.classes) == 12
    assert data.classes[0] == "Pliers"
    assert (len(data.train), len(data.test)) == (60, 20)
    assert set(data.train.attributes) == {"condition", "weather", "light"}
    assert set(data.train.attributes["condition"]) <= {"dry_bright", "dry_dim", "dry_dark", "wet_dim"}


def test_the_real_streets(shared_data):
    data = read_coco(shared_data / "carla_det" / "carla_det.zip", size=(160, 256), test="annotations/val.json")
    assert data.classes == ("vehicle", "bike", "motobike", "traffic_light", "traffic_sign")
    assert (len(data.train), len(data.test)) == (623, 156)
    assert len(data.train.boxes) == 2062
    towns = dict(zip(*np.unique(data.train.attributes["town"], return_counts=True), strict=True))
    assert towns == {"Town01": 160, "Town02": 145, "Town03": 268, "Town04": 50}
    counts = np.bincount(data.train.box_labels).tolist()
    assert counts == [933, 123, 65, 863, 78]
    few = read_coco(shared_data / "carla_det", size=(160, 256), min_side=8, limit=50, test_limit=1)
    sides = few.train.boxes[:, 2:] - few.train.boxes[:, :2]
    assert len(sides)
    assert sides.min() >= 8


@pytest.mark.parametrize("read", [read_coco, read_soda10m, read_yolo, read_voc, read_bdd100k, read_cityscapes])
def test_readers_share_their_options(read):
    shared = {"size", "classes", "min_side", "limit", "test_limit", "bad_boxes", "cache"}
    assert shared <= set(inspect.signature(read).parameters)
