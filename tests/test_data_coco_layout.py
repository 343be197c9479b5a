"""COCO as its publishers, and the tools around it, lay out its files: found without options, refused where unclear."""

from pathlib import Path

import pytest
from trees_for_tests import SIZE, coco_file, picture, write, zipped_tree

from fedbox.data import DataError
from fedbox.data.annotations_coco import read_coco

TRAIN, VAL = ["000000000009.png", "000000000025.png"], ["000000000139.png"]


def _lay(root: Path, train: str, val: str, places: tuple[str, str]) -> Path:
    for name, files, place in ((train, TRAIN, places[0]), (val, VAL, places[1])):
        write(root / "annotations" / name, coco_file(files))
        for file in files:
            picture(root / place / file)
    return root


OFFICIAL = "instances_train2017.json", "instances_val2017.json"


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (OFFICIAL, ("train2017", "val2017")),
        (OFFICIAL, ("images/train2017", "images/val2017")),
        (OFFICIAL, ("images/train", "images/val")),
        (OFFICIAL, ("train", "val")),
        (OFFICIAL, ("images", "images")),
        (("instances_train.json", "instances_val.json"), ("images/train", "images/val")),
        (("train.json", "val.json"), ("train", "val")),
        (("train.json", "test.json"), ("images/train", "images/test")),
    ],
)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_the_usual_layouts_need_no_options(
    tmp_path: Path, names: tuple[str, str], places: tuple[str, str], zipped: bool
) -> None:
    root = _lay(tmp_path / "coco", *names, places)
    for more in ("captions_train2017.json", "person_keypoints_val2017.json", "image_info_test2017.json"):
        write(root / "annotations" / more, {})
    data = read_coco(zipped_tree(root) if zipped else root, size=SIZE)
    assert data.train.names.tolist() == [f"{places[0]}/{name}" for name in TRAIN]
    assert data.test.names.tolist() == [f"{places[1]}/{name}" for name in VAL]


def test_an_archive_beside_the_annotations_is_not_taken_for_them(tmp_path: Path) -> None:
    root = _lay(tmp_path / "coco", *OFFICIAL, ("train2017", "val2017"))
    (root / "train2017.zip").write_bytes(b"PK")
    assert len(read_coco(root, size=SIZE).train) == 2


def test_same_names_in_both_parts_stay_apart(tmp_path: Path) -> None:
    """The folder comes from the annotation file's name: test pictures are never those of the train part."""
    root = _lay(tmp_path, *OFFICIAL, ("images/train2017", "images/val2017"))
    write(root / "annotations" / OFFICIAL[1], coco_file([TRAIN[0]]))
    picture(root / "images" / "val2017" / TRAIN[0])
    assert read_coco(root, size=SIZE).test.names.tolist() == [f"images/val2017/{TRAIN[0]}"]


def test_roboflows_exports_have_their_annotations_among_the_pictures(tmp_path: Path) -> None:
    """In parts whose pictures may have the same names."""
    for part in ("train", "valid", "test"):
        write(tmp_path / part / "_annotations.coco.json", coco_file(["a.png"]))
        picture(tmp_path / part / "a.png")
    data = read_coco(tmp_path, size=SIZE)
    assert (data.train.names.tolist(), data.test.names.tolist()) == (["train/a.png"], ["valid/a.png"])
    data = read_coco(tmp_path, size=SIZE, train="test/_annotations.coco.json", test=None)
    assert data.train.names.tolist() == ["test/a.png"]


def test_what_is_not_unique_or_not_there_is_told_with_the_option(tmp_path: Path) -> None:
    root = _lay(tmp_path, *OFFICIAL, ("mine/a", "mine/b"))
    looked = "images/, the root, train2017/, images/train2017/, train/, images/train/, annotations/"
    with pytest.raises(DataError, match=f"none of the 2 pictures .*'{TRAIN[0]}' in {looked}; .* data.options.images"):
        read_coco(root)
    with pytest.raises(DataError, match=rf"val2017.json .*'{VAL[0]}' in mine/a/, .*data\.options\.test_images"):
        read_coco(root, images="mine/a")
    with pytest.raises(DataError, match=r"'000000000139.png' in mine/c/, the root; "):
        read_coco(root, images="mine/a", test_images="mine/c")
    assert len(read_coco(root, size=SIZE, images="mine/a", test_images="mine/b").test) == 1
    write(root / "annotations" / "instances_train2014.json", coco_file(TRAIN))
    both = "instances_train2014.json, annotations/instances_train2017.json; name one with data.options.train"
    with pytest.raises(DataError, match=f"annotations/train.json does not exist; in its place there are .*{both}"):
        read_coco(root)
    (root / "annotations" / OFFICIAL[1]).unlink()
    with pytest.raises(
        DataError, match=r"test.json does not exist; .*data\.options\.test, or data\.options\.test=null"
    ):
        read_coco(root, train="annotations/instances_train2017.json")
