"""Files that cannot be read, in a folder and in an archive, whatever their kind."""

import zipfile
from pathlib import Path

import pytest

from fedbox.data import DataError
from fedbox.data.trees import Tree


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
