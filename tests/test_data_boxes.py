import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbox.data import DataError, partition
from fedbox.data.boxes_data import BoxData, BoxSet


def boxes_of(counts: list[int], classes: int = 3, seed: int = 0) -> BoxData:
    rng = np.random.default_rng(seed)
    total = sum(counts)
    low = rng.uniform(0, 20, (total, 2))
    boxes = np.concatenate((low, low + rng.uniform(1, 12, (total, 2))), 1).astype(np.float32)
    return BoxData(
        rng.integers(256, size=(len(counts), 3, 32, 64), dtype=np.uint8),
        boxes,
        rng.integers(classes, size=total),
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        {"weather": np.array(["rainy", "snowy"])[np.arange(len(counts)) % 2]},
        np.array([f"{row}.png" for row in range(len(counts))]),
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_take_keeps_each_image_with_its_own_boxes(counts, data):
    whole = boxes_of(counts)
    rows = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10)), np.int64)
    part = whole.take(rows)
    assert len(part) == len(rows)
    for new, old in enumerate(rows):
        for ours, theirs in zip(part.of(new), whole.of(int(old)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(part.images[new], whole.images[old])
    np.testing.assert_array_equal(part.attributes["weather"], whole.attributes["weather"][rows])
    assert part.names.tolist() == [f"{row}.png" for row in rows]


def test_owners_counts_and_the_class_of_an_image():
    data = boxes_of([2, 0, 3])
    assert data.counts.tolist() == [2, 0, 3]
    assert data.owners.tolist() == [0, 0, 2, 2, 2]
    labels = np.array([2, 1, 0, 2, 2])
    voted = BoxData(data.images, data.boxes, labels, data.offsets)
    # A tie of 1 and 2 goes to the lower, an image without a box counts as 0, the last has more of 2.
    assert voted.labels.tolist() == [1, 0, 2]


def test_a_partition_by_weather_works_on_it():
    data = boxes_of([1] * 10)
    parts = partition(data.labels, data.attributes, kind="natural", key="weather", seed=0)
    assert parts.keys == ("rainy", "snowy")
    assert (data.take(parts.indices(1)).attributes["weather"] == "snowy").all()


GOOD = {
    "images": np.zeros((2, 3, 32, 64), np.uint8),
    "boxes": np.array([[0, 0, 64, 32], [1, 2, 3, 4], [5, 5, 6, 7]], np.float32),
    "box_labels": np.array([0, 1, 0]),
    "offsets": np.array([0, 2, 3]),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 3, 32, 64))}, "images must be a uint8 array with 4 axes, got float64"),
        ({"boxes": np.zeros((3, 5), np.float32)}, r"boxes must be \[m, 4\]"),
        ({"box_labels": np.array([0, 1])}, "3 boxes but 2 labels"),
        ({"offsets": np.array([0, 3])}, "2 images need 3 offsets, got 2"),
        ({"offsets": np.array([0, 2, 2])}, "offsets must rise from 0 to the 3 boxes"),
        ({"offsets": np.array([0, 4, 3])}, "offsets must rise"),
        ({"box_labels": np.array([0, -1, 0])}, "label -1 of box 1 is negative"),
        ({"boxes": np.array([[0, 0, 1, 1]] * 2 + [[0, 0, 1, 33]], np.float32)}, r"box 2 \(of image 1\) .*y2 <= 32"),
        ({"boxes": np.array([[0, 0, 1, 1], [3, 0, 3, 1], [0, 0, 1, 1]], np.float32)}, r"box 1 \(of image 0\)"),
        ({"boxes": np.array([[0, 0, 1, np.nan]] * 3, np.float32)}, r"box 0 .*nan"),
        ({"attributes": {"town": np.array(["a"])}}, r"attribute 'town' has shape \(1,\)"),
        ({"names": np.array(["a"])}, "names has shape"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    BoxData(**GOOD)
    with pytest.raises(DataError, match=message):
        BoxData(**{**GOOD, **change})


def test_an_image_that_is_not_there():
    with pytest.raises(DataError, match=r"image 2 does not exist; there are images 0..1"):
        BoxData(**GOOD).of(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("car",)}, "label 1 of train box 1 is out of range; 1 classes"),
        ({"classes": ("car", "car")}, "class names must differ"),
        ({"mean": (0.5,)}, "need one value for each channel"),
        ({"std": (0.5, 0.5, 0.0)}, "above 0"),
    ],
)
def test_a_set_is_checked(change, message):
    part = BoxData(**GOOD)
    good = {"name": "x", "train": part, "test": part, "classes": ("car", "bus"), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    assert BoxSet(**good).shape == (3, 32, 64)
    with pytest.raises(DataError, match=message):
        BoxSet(**{**good, **change})


def test_parts_of_different_size_are_refused():
    one, other = BoxData(**GOOD), BoxData(**{**GOOD, "images": np.zeros((2, 3, 64, 64), np.uint8)})
    with pytest.raises(DataError, match=r"train images are \(3, 32, 64\)"):
        BoxSet("x", one, other, ("car", "bus"), (0.5,) * 3, (0.2,) * 3)
