import contextlib
import io
import math

import numpy as np
import pytest
import torch

from fedbox.data import DataError
from fedbox.data.coco_map import coco_metrics, match_quality, overlap

CLASSES = ("car", "bus", "person")
NONE = (np.empty((0, 4)), np.empty(0, int))
NOTHING = (np.empty((0, 4)), np.empty(0), np.empty(0, int))


def invented(images: int, found: int, seed: int = 0, classes: int = 3):
    """Truths, and detections most of which lie near one."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(images):
        count = int(rng.integers(1, 9))
        low = rng.uniform(0, 90, (count, 2))
        boxes, labels = (
            np.concatenate((low, low + rng.uniform(5, 60, (count, 2))), 1),
            rng.integers(classes, size=count),
        )
        chosen = rng.integers(count, size=found)
        near = boxes[chosen] + rng.normal(0, 4, (found, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        kinds = np.where(rng.random(found) < 0.8, labels[chosen], rng.integers(classes, size=found))
        truths.append((boxes, labels))
        detections.append((near, rng.random(found), kinds))
    return truths, detections


def test_a_hand_worked_example():
    """Three cars; detections by score: right, wrong, right (IoU 0.6), and one bus never found.

    Precision is 1 up to recall 1/3 and 2/3 up to recall 2/3. Of the 101 levels 0, 0.01 ... 1 there are 34 up to
    1/3 and 33 more up to 2/3, so AP50 of cars is (34 + 33 * 2/3) / 101 = 56 / 101. At 0.75 the third detection
    is wrong: 34 / 101. At IoU 0.5, 0.55 and 0.6 the first value holds, at the seven others the second.
    """
    truths = [
        (np.array([[0, 0, 10, 10], [20, 20, 30, 30]]), [0, 0]),
        (np.array([[0, 0, 10, 10], [5, 5, 9, 9]]), [0, 1]),
    ]
    detections = [
        (np.array([[0, 0, 10, 10], [50, 50, 60, 60]]), [0.9, 0.8], [0, 0]),
        (np.array([[0, 0, 10, 6.0001]]), [0.7], [0]),
    ]
    result = coco_metrics(truths, detections, CLASSES)
    assert (result["map50_by_class.car"], result["map50_by_class.bus"]) == (pytest.approx(56 / 101), 0)
    assert (result["map75_by_class.car"], result["map75_by_class.bus"]) == (pytest.approx(34 / 101), 0)
    assert result["map_by_class.car"] == pytest.approx((3 * 56 + 7 * 34) / 10 / 101)
    assert result["map50"] == pytest.approx(28 / 101)
    assert result["map75"] == pytest.approx(17 / 101)
    assert result["map"] == pytest.approx((3 * 56 + 7 * 34) / 10 / 101 / 2)


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_gives_the_same(seed):
    pycocotools = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    truths, detections = invented(40, 30, seed)
    images = [{"id": image} for image in range(40)]
    true, found = pycocotools.COCO(), pycocotools.COCO()
    for coco, entries in ((true, truths), (found, detections)):
        records = []
        for image, entry in enumerate(entries):
            for box, *score, label in zip(*entry, strict=True):
                sides = box[2:] - box[:2]
                record = {"id": len(records) + 1, "image_id": image, "category_id": int(label), "iscrowd": 0}
                record |= {"bbox": [*box[:2], *sides], "area": sides.prod(), "score": score[0] if score else 1}
                records.append(record)
        coco.dataset = {"images": images, "annotations": records, "categories": [{"id": i} for i in range(3)]}
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    reference = COCOeval(true, found, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    ours = coco_metrics(truths, detections, CLASSES)
    np.testing.assert_allclose([ours["map"], ours["map50"], ours["map75"]], reference.stats[:3], atol=1e-12)
    for label, name in enumerate(CLASSES):
        expected = reference.eval["precision"][:, :, label, 0, -1].mean(1)
        found = [ours[f"{kind}_by_class.{name}"] for kind in ("map50", "map75", "map")]
        assert found == pytest.approx([expected[0], expected[5], expected.mean()], abs=1e-12)


def test_perfect_detections_score_one_and_tensors_do():
    truths, _ = invented(10, 5)
    detections = [(torch.tensor(boxes), torch.ones(len(boxes)), torch.tensor(labels)) for boxes, labels in truths]
    result = coco_metrics(
        [(torch.tensor(boxes), torch.tensor(labels)) for boxes, labels in truths], detections, CLASSES
    )
    assert (result["map50"], result["map75"], result["map"]) == (1, 1, 1)
    assert {f"map50_by_class.{name}" for name in CLASSES} < set(result)


def test_nothing_true_and_nothing_found_are_defined():
    truths, detections = invented(4, 5)
    assert coco_metrics([], [], CLASSES) == {}
    assert coco_metrics([NONE] * 4, detections, CLASSES) == {}
    assert coco_metrics([NONE] * 4, [NOTHING] * 4, CLASSES) == {}
    unfound = coco_metrics(truths, [NOTHING] * 4, CLASSES)
    assert (unfound["map50"], unfound["map75"], unfound["map"]) == (0, 0, 0)
    assert {value for name, value in unfound.items() if "_by_class." in name} == {0.0}


def test_what_is_found_in_a_crowd_counts_neither_way():
    """By hand: one true box, found second; the best detection lies inside a crowd of its class, the last beside all."""
    truth = [(np.array([[0, 0, 10, 10]]), np.array([0]))]
    crowd = [(np.array([[50, 50, 100, 100]]), np.array([0]))]
    boxes = np.array([[60, 60, 70, 70], [0, 0, 10, 10], [30, 30, 40, 40]])
    detections = [(boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 0]))]
    assert coco_metrics(truth, detections, CLASSES)["map50"] == pytest.approx(0.5)
    assert coco_metrics(truth, detections, CLASSES, crowd)["map50"] == 1.0
    other = [(crowd[0][0], np.array([1]))]  # a crowd of another class hides nothing
    assert coco_metrics(truth, detections, CLASSES, other)["map50"] == pytest.approx(0.5)
    kinds = {name for name in coco_metrics(truth, detections, CLASSES, other) if name.startswith("map50_by_class.")}
    assert kinds == {"map50_by_class.car"}
    assert coco_metrics([NONE], detections, CLASSES, crowd) == {}


def test_a_class_without_truth_counts_in_no_mean():
    box = np.array([[0, 0, 10, 10]])
    result = coco_metrics([(box, [0])], [(np.repeat(box, 2, 0), [0.9, 0.8], [0, 1])], CLASSES)
    means = ("map50", "map75", "map")
    assert result == dict.fromkeys([*means, *(f"{kind}_by_class.car" for kind in means)], 1.0)


def test_it_is_silent(capfd, caplog):
    truths, detections = invented(20, 60)
    caplog.set_level("INFO")
    coco_metrics(truths, detections, CLASSES)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(
    ("truths", "detections", "message"),
    [
        ([NONE], [], "1 images with truths but 0 with detections"),
        ([(np.zeros((1, 4)), [3])], [NOTHING], r"image 0 has labels \[3\]; 3 classes are named"),
        ([(np.zeros((2, 4)), [1])], [NOTHING], "image 0 has 2 boxes, 1 labels"),
        ([(np.zeros((2, 5)), [1, 1])], [NOTHING], r"boxes must be \[k, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused(truths, detections, message):
    with pytest.raises(DataError, match=message):
        coco_metrics(truths, detections, CLASSES)


def test_overlap_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], float)
    others = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [0, 0, 0, 0]], float)
    np.testing.assert_allclose(overlap(boxes, others), [[1 / 3, 1, 0], [0, 0, 0]])


def test_the_quality_of_pseudo_boxes_by_hand():
    cars_and_bus = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    truth = [(cars_and_bus, [0, 0, 1]), NONE, (np.array([[0, 0, 4, 4]]), [2])]
    pseudo = [
        # Right; a second one on the same car; one on the bus but called a car; one with too little overlap.
        (np.array([[0, 0, 10, 9], [0, 0, 10, 10], [40, 0, 50, 10], [26, 0, 36, 10]]), [0, 0, 0, 0]),
        (np.array([[0, 0, 5, 5]]), [1]),
        NONE,
    ]
    assert match_quality(pseudo, truth) == (1 / 5, 1 / 4)
    assert match_quality(pseudo, truth, iou=0.2) == (2 / 5, 2 / 4)
    assert all(map(math.isnan, match_quality([NONE], [NONE])))
    precision, recall = match_quality([NONE] * 3, truth)
    assert math.isnan(precision)
    assert recall == 0


def test_pseudo_boxes_in_a_crowd_of_their_class_count_neither_way():
    truth, crowd = [(np.array([[0, 0, 10, 10]]), [0])], [(np.array([[20, 0, 60, 20], [0, 0, 10, 10]]), [0, 0])]
    # Right, though in a crowd as well; in the crowd; half in it; a third in it; in it, but of another class.
    boxes = np.array([[0, 0, 10, 10], [25, 5, 30, 10], [15, 0, 25, 10], [14, 0, 23, 10], [25, 5, 30, 10]])
    pseudo = [(boxes, [0, 0, 0, 0, 1])]
    assert match_quality(pseudo, truth) == (1 / 5, 1)
    assert match_quality(pseudo, truth, ignored=crowd) == (1 / 3, 1)


def test_better_scores_choose_first():
    truth = [(np.array([[0, 0, 10, 10], [4, 0, 14, 10]]), [0, 0])]
    boxes, labels = np.array([[2.5, 0, 12.5, 10], [4, 0, 14, 10]]), [0, 0]
    # The first box overlaps the second object most: choosing first it takes that one, choosing last it gets the other.
    assert match_quality([(boxes, labels, [0.9, 0.8])], truth, 0.59) == (0.5, 0.5)
    assert match_quality([(boxes, labels, [0.8, 0.9])], truth, 0.59) == (1, 1)


def test_wrong_arguments_of_match_quality():
    with pytest.raises(DataError, match="1 images with pseudo-boxes but 0"):
        match_quality([NONE], [])
    with pytest.raises(DataError, match="iou must lie"):
        match_quality([], [], iou=0)
