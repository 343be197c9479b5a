"""Files that cannot be read, in a folder and in an archive, whatever their kind."""

import zipfile
from pathlib import Path

import pytest
from trees_for_tests import FORMATS, SIZE, make_yolo, picture

from fedbox.data import DataError
from fedbox.data.annotations_yolo import read_yolo
from fedbox.data.trees import Tree
from fedbox.simulations.picture_files import listed


def _damaged(path: Path, compression: int, keep: int) -> None:
    """Write an archive with one member, whose compressed bytes but for the first `keep` are then overwritten."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.bin", bytes(range(256)) * 40)
        info = archive.getinfo("a.bin")
    raw = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len("a.bin")
    for place in range(start + keep, start + info.compress_size):
        raw[place] = 0xFF
    path.write_bytes(raw)


@pytest.mark.parametrize(("compression", "keep"), [(zipfile.ZIP_DEFLATED, 0), (zipfile.ZIP_LZMA, 12)])
def test_a_damaged_member_of_an_archive_is_named(tmp_path: Path, compression: int, keep: int) -> None:
    path = tmp_path / "a.zip"
    _damaged(path, compression, keep)
    with pytest.raises(DataError, match=r"a.zip/a.bin cannot be read"):
        Tree("coco", path, "", ()).read("a.bin")


def test_a_name_that_no_file_can_have_is_not_there(tmp_path: Path) -> None:
    tree = Tree("coco", tmp_path, "", ("x" * 300,))
    for name in ("x" * 300, "a\0b"):
        assert not tree.has(name)
        assert not tree.has_folder(name)
        assert tree.below(name) == []


@pytest.mark.parametrize("around", ["my data/", "outer/inner/"])
@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "cityscapes"])
def test_an_archive_of_one_folder_stands_for_it(tmp_path: Path, kind: str, around: str) -> None:
    make, read, _, _ = FORMATS[kind]
    make(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in sorted((tmp_path / "data").rglob("*.*")):
            archive.write(file, around + file.relative_to(tmp_path / "data").as_posix())
        for name in (".DS_Store", f"{around}.DS_Store", f"__MACOSX/{around}images/train/rainy/._a.png"):
            archive.writestr(name, b"no picture")
    plain, packed = (read(tmp_path / name) for name in ("data", "packed.zip"))
    assert packed.train.names.tolist() == plain.train.names.tolist()
    assert (packed.train.images == plain.train.images).all()
    tree = Tree(kind, tmp_path / "packed.zip", "", ("annotations", "data.yaml", "Annotations", "gtFine"))
    assert tree.full("x") == f"{tmp_path}/packed.zip/{around}x"


def test_a_folder_that_is_asked_for_is_not_passed_over(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("images/x.png", b"")
    assert Tree("coco", tmp_path, "", ("annotations", "images")).below("") == ["images/x.png"]
    assert Tree("coco", tmp_path, "", ("annotations",)).below("") == ["x.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("readme.txt", b"")
    assert Tree("coco", tmp_path, "", ("annotations",)).below("") == ["images/x.png"]


@pytest.mark.parametrize("around", ["data", "my/data"])
@pytest.mark.parametrize("kind", [*FORMATS])
def test_a_root_too_high_is_told_the_right_one(tmp_path: Path, kind: str, around: str) -> None:
    """As where Pascal VOC's own archive unpacks to VOCdevkit/VOC2012."""
    make, read, _, _ = FORMATS[kind]
    make(tmp_path / "top" / around)
    with pytest.raises(DataError, match=rf"; {tmp_path}/top/{around} looks like the root: name it as data\.root$"):
        read(tmp_path / "top")


@pytest.mark.parametrize("kind", [*FORMATS])
def test_a_root_without_anything_is_told_what_it_should_hold(tmp_path: Path, kind: str) -> None:
    read = FORMATS[kind][1]
    tail = r"; the root should hold .*, or a zip archive of them; it holds "
    with pytest.raises(DataError, match=f"{tail}nothing$"):
        read(tmp_path)
    for name in "ab":
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("other/x.txt", b"")
    with pytest.raises(DataError, match=rf"{tail}a\.zip, b\.zip; unpack what is packed$"):
        read(tmp_path)
    with pytest.raises(DataError, match=f"{tail}x.txt$"):
        read(tmp_path / "a.zip")


def test_folders_that_are_links_are_followed_once(tmp_path: Path) -> None:
    """Their pictures were left out without a word."""
    root, far = tmp_path / "data", tmp_path / "far"
    make_yolo(root)
    for kind in ("images", "labels"):
        (far / kind).mkdir(parents=True)
        (root / kind / "train" / "cam").symlink_to(far / kind)
    picture(far / "images" / "x.png")
    (far / "labels" / "x.txt").write_text("0 .5 .5 .2 .2")
    (far / "images" / "again").symlink_to(root / "images" / "train")  # a loop
    names = ["images/train/cam/x.png", "images/train/rainy/a.png"]
    assert Tree("yolo", root, "", ("images",)).below("images/train") == names
    assert read_yolo(root, size=SIZE).train.names.tolist() == names
    assert list(listed([root / "images" / "train"])) == [root / name for name in names]


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    """Such as macOS puts beside each picture on a disk of another system, and which do not decode."""
    picture(tmp_path / "a.png")
    for name in ("._a.png", ".trash/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    assert list(listed([tmp_path])) == [tmp_path / "a.png"]
    assert list(listed([tmp_path / "._a.png"])) == [tmp_path / "._a.png"]  # named by itself, it is meant


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "shut" / "a.png")

    def refuse(place: Path) -> None:
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=r"shut cannot be read: Permission denied"):
        Tree("yolo", tmp_path, "", ()).below("shut")
