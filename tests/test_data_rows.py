from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbox.data.boxes_data import BoxData
from fedbox.data.rows import Rows

IMAGES = np.random.default_rng(0).integers(256, size=(7, 3, 4, 5), dtype=np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "images.npy"
    np.save(path, IMAGES)
    return path


def _places(count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(-count, count - 1), max_size=9) if count else st.just([])


@settings(deadline=None)
@given(st.data())
def test_rows_of_a_file_are_those_of_the_array(file: Path, data: st.DataObject) -> None:
    rows, array = Rows.open(file), IMAGES
    for _ in range(data.draw(st.integers(0, 3))):
        places = np.array(data.draw(_places(len(array))), np.int64)
        rows, array = rows.take(places), array[places]
    assert (rows.shape, len(rows)) == (array.shape, len(array))
    for key in (data.draw(st.slices(len(array))), np.array(data.draw(_places(len(array))), np.int64)):
        np.testing.assert_array_equal(rows[key], array[key])
    for place in range(len(array)):
        np.testing.assert_array_equal(rows[place], array[place])


def test_what_is_read_is_a_copy_and_what_is_taken_is_not(file: Path) -> None:
    rows = Rows.open(file).take(np.array([4, 2]))
    assert rows.take(np.array([1])).mapped is rows.mapped
    read = rows[np.array([0, 1])]
    assert not np.shares_memory(read, rows.mapped)
    read[:] = 0
    np.testing.assert_array_equal(rows[0], IMAGES[4])


def test_an_image_that_is_not_there(file: Path) -> None:
    with pytest.raises(IndexError):
        Rows.open(file)[7]
    with pytest.raises(IndexError):
        Rows.open(file).take(np.array([7]))


@pytest.mark.parametrize("values", [IMAGES.astype(np.float32), IMAGES[0]])
def test_another_array_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=r"wanted uint8 \[n, c, h, w\]"):
        Rows.open(tmp_path / "x.npy")


def test_a_part_of_box_data_leaves_the_images_in_their_file(file: Path) -> None:
    boxes = np.array([[0, 0, row + 1, 2] for row in range(4)], np.float32)
    offsets = np.array([0, 1, 1, 2, 2, 3, 3, 4])
    mapped, held = (
        BoxData(images, boxes, np.arange(4), offsets, {"town": np.arange(7)}) for images in (Rows.open(file), IMAGES)
    )
    places = np.array([6, 0, 6])
    part, wanted = mapped.take(places), held.take(places)
    assert isinstance(part.images, Rows)
    assert part.images.mapped is mapped.images.mapped
    np.testing.assert_array_equal(part.images[:], wanted.images)
    for name in ("boxes", "box_labels", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(part, name), getattr(wanted, name))
