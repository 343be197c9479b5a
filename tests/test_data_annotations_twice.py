"""A picture is in one part, once: whatever gives it twice is told, with both places."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from trees_for_tests import FORMATS, coco_file, make_bdd, make_coco, make_soda, make_voc, make_yolo, picture, write

from fedbox.data import DataError
from fedbox.data.annotations_coco import read_coco, read_soda10m


def _coco(root: Path) -> None:
    make_coco(root)
    write(root / "annotations" / "train.json", coco_file(["a.png", "a.png"]))


def _bdd(root: Path) -> None:
    make_bdd(root)
    path = root / "labels" / "det_20" / "det_train.json"
    frames = json.loads(path.read_text())
    write(path, [*frames, frames[0]])


def _yolo(root: Path) -> None:
    make_yolo(root)
    write(root / "train.txt", "images/train/rainy/a.png\n./images/train/rainy/a.png\n")
    write(root / "data.yaml", "train: train.txt\nval: images/val\nnames: [person, car]\n")


def _yolo_whole(root: Path) -> None:
    make_yolo(root)
    write(root / "data.yaml", "train: ''\nval: images/val\nnames: [person, car]\n")


def _voc(root: Path) -> None:
    make_voc(root)
    write(root / "ImageSets" / "Main" / "train.txt", "000005\n\n000005  1\n")


def _voc_both(root: Path) -> None:
    make_voc(root)
    write(root / "ImageSets" / "Main" / "val.txt", "000005\n")


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("coco", _coco, r"1 picture\(s\) .*'images/a.png' \(train: .*: images\[0\]; train: .*: images\[1\]\)"),
        ("bdd100k", _bdd, r"'images/100k/train/.*' \(train: .*: frames\[0\].*; train: .*: frames\[2\]"),
        ("yolo", _yolo, r"a.png' \(train: .*train.txt, line 1; train: .*train.txt, line 2\)"),
        ("yolo", _yolo_whole, r"'images/val/rainy/b.png' \(train: .*; test: .*images/val\)"),
        ("voc", _voc, r"train.txt, line 3: '000005' is in line 1 already"),
        ("voc", _voc_both, r"'JPEGImages/000005.jpg' \(train: .*000005.xml; test: .*000005.xml\)"),
    ],
)
def test_a_picture_given_twice_is_told(tmp_path: Path, kind: str, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        FORMATS[kind][1](tmp_path)


def test_train_and_test_may_not_share_pictures(tmp_path: Path) -> None:
    names = [f"{row}.png" for row in range(8)]
    make_coco(tmp_path)
    for name in names:
        picture(tmp_path / "images" / name)
    write(tmp_path / "annotations" / "train.json", coco_file(names))
    with pytest.raises(DataError, match=r"8 picture\(s\) of .* are given twice; .*'images/4.png' .*; and 3 more"):
        read_coco(tmp_path, test="annotations/train.json", limit=1, test_limit=1)
    with pytest.raises(DataError, match=r"8 picture\(s\) .* are given twice"):
        read_coco(tmp_path, test="annotations/train.json", test_images=str(tmp_path / "annotations" / ".." / "images"))


@pytest.mark.parametrize(("folder", "count"), [(".", 2), ("", 2), ("SSLAD-2D/labeled/val", 1)])
def test_pictures_with_labels_are_none_without(tmp_path: Path, folder: str, count: int) -> None:
    make_soda(tmp_path)
    picture(tmp_path / "unlabeled" / "u.jpg")
    with pytest.raises(DataError, match=rf"{count} picture\(s\) of .*HT_VAL_000001_SH_001.jpg"):
        read_soda10m(tmp_path, unlabelled=folder)
