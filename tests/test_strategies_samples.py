"""Samples whose images lie in a file: the same tensors as from memory, whatever part of them a participant holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbox.data import BoxData
from fedbox.data.rows import Rows
from fedbox.models.detections import Detections
from fedbox.strategies.box_samples import BoxSamples
from fedbox.strategies.samples import Samples

CONSTANTS: dict[str, Any] = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "device": torch.device("cpu")}
COUNTS = [2, 0, 1, 3, 0]


def box_data(folder: Path) -> tuple[BoxData, BoxData]:
    """Give the same data from a file and from memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(len(COUNTS), 3, 32, 64), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    low = rng.uniform(0, 20, (sum(COUNTS), 2))
    boxes = np.concatenate((low, low + rng.uniform(1, 10, low.shape)), 1).astype(np.float32)
    rest = boxes, rng.integers(3, size=len(boxes)), np.concatenate(([0], np.cumsum(COUNTS)))
    return BoxData(Rows.open(folder / "images.npy"), *rest), BoxData(images, *rest)


@pytest.mark.parametrize("limit", [0, 10**9], ids=["bytes", "floats kept"])
def test_a_mapped_part_gives_the_same_tensors(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedbox.strategies.samples._CACHED_VALUES", limit)
    places = np.array([3, 0, 4, 2])
    mapped, held = (BoxSamples(data.take(places), classes=["a", "b", "c"], **CONSTANTS) for data in box_data(tmp_path))
    assert len(mapped) == len(held) == 4
    for _ in range(2):
        for index in (torch.tensor([2, 0, 2]), torch.tensor([], dtype=torch.int64), torch.arange(4)):
            assert torch.equal(mapped.images(index), held.images(index))
            assert torch.equal(mapped.x(index), held.x(index))
            assert torch.equal(mapped.batch(index).x, held.batch(index).x)
        assert torch.equal(mapped.x(slice(1, 3)), held.x(slice(1, 3)))
    view = mapped.views(True, 0.5).strong
    ours, theirs = (part.viewed(torch.arange(4), view, torch.Generator().manual_seed(1)) for part in (mapped, held))
    assert torch.equal(ours.x, theirs.x)
    mapped.images(torch.arange(4)).zero_()  # what is handed out is the caller's
    assert torch.equal(mapped.images(torch.arange(4)), held.images(torch.arange(4)))


def test_boxes_stay_with_their_images(tmp_path: Path) -> None:
    data = box_data(tmp_path)[0]
    for labelled in (True, False):
        samples = BoxSamples(data, classes=["a", "b", "c"], labelled=labelled, **CONSTANTS)
        for number, (boxes, labels) in enumerate(samples.truths):
            wanted = data.of(number)
            np.testing.assert_array_equal(boxes.numpy(), wanted[0])
            np.testing.assert_array_equal(labels.numpy(), wanted[1])
        assert [len(labels) for _, labels in samples.targets] == (COUNTS if labelled else [0] * 5)
    assert len(BoxSamples(data.take(np.array([], np.int64)), classes=["a"], **CONSTANTS).truths) == 0


class _Finder(torch.nn.Module):
    """Finds one object, of class 0, in every image."""

    def detect(self, x: Tensor, confidence: float) -> list[Detections]:
        one = Detections(
            torch.tensor([[1.0, 1, 5, 5]]), torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1)
        )
        return [one] * len(x)


def test_where_there_is_no_object_there_is_no_average_precision(tmp_path: Path) -> None:
    """COCO leaves it undefined; a zero would pull down the mean over clients and weathers."""
    data, finder = box_data(tmp_path)[1], _Finder()  # the second and the last image have no object
    names: Any = {"classes": ["a", "b", "c"], **CONSTANTS}
    found = BoxSamples(data, domains=["sun", "night", "sun", "sun", "night"], **names).evaluate(finder, 2)
    assert {"map50", "map50_by_domain.sun"} <= set(found)
    assert "map50_by_domain.night" not in found
    assert BoxSamples(data.take(np.array([1, 4])), domains=["night"] * 2, **names).evaluate(finder, 2) == {}


def test_images_with_classes_take_mapped_ones_too(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(256, size=(6, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    labels = np.arange(6)
    rows = Rows.open(tmp_path / "images.npy").take(np.array([5, 1]))
    ours = Samples(rows, labels[[5, 1]], **CONSTANTS)
    theirs = Samples(images[[5, 1]], labels[[5, 1]], **CONSTANTS)
    index: Tensor = torch.tensor([1, 1, 0])
    assert torch.equal(ours.batch(index).x, theirs.batch(index).x)
    assert ours.batch(index).y.tolist() == [1, 1, 5]


def test_images_of_its_own_are_not_copied_and_shared_memory_is() -> None:
    own, labels = np.ones((3, 1, 2, 2), np.uint8), np.zeros(3, np.int64)
    frozen = own.copy()
    frozen.flags.writeable = False
    for images, same in ((own, True), (own[1:], False), (frozen, False)):
        samples = Samples(images, labels[: len(images)], **CONSTANTS)
        assert (samples._bytes.data_ptr() == images.ctypes.data) is same
