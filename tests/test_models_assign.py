import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedbox.models.assign import assign
from fedbox.models.boxes import aligned_iou
from fedbox.models.detections import Predictions
from fedbox.models.detector import grid
from fedbox.models.errors import ModelError

SIDE, CLASSES = 64, 2
POINTS, STRIDES = grid(SIDE, SIDE, torch.zeros(0, dtype=torch.float64))
COUNT = len(POINTS)  # 64 + 16 + 4

number = st.integers(-20, 84)
boxes_of_an_image = st.lists(st.tuples(number, number, number, number), max_size=7)
# Boxes as scenes have them: in the image, with area, some of them equal.
usual = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40), st.integers(1, 40)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], SIDE), min(b[1] + b[3], SIDE))
)


def predictions(images: int, seed: int = 0, constant: bool = False) -> Predictions:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(images, COUNT, *shape, generator=draw, dtype=torch.float64) * (0 if constant else 1)

    centre = POINTS + STRIDES[:, None] * normal(2)
    half = STRIDES[:, None] * 1.5 * normal(2).exp()
    return Predictions(normal(CLASSES), normal(), torch.cat((centre - half, centre + half), dim=2), POINTS, STRIDES)


def target(rows: Any) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    return boxes, torch.arange(len(boxes)) % CLASSES


def plain_assign(given: Predictions, image: int, boxes: list[list[float]], labels: list[int]) -> list[int]:
    """The rules of the docstrings, one box and one point at a time."""
    cut = [[min(max(value, 0), SIDE) for value in box] for box in boxes]
    shown = [c[2] > c[0] and c[3] > c[1] for c in cut]
    centre = [((c[0] + c[2]) / 2, (c[1] + c[3]) / 2) for c in cut]
    cost: list[dict[int, float]] = []
    away = [[max(abs(x - centre[j][0]), abs(y - centre[j][1])) for x, y in POINTS.tolist()] for j in range(len(boxes))]
    claims: list[dict[int, float]] = [{} for _ in range(COUNT)]
    for j, c in enumerate(cut):
        cost.append({})
        overlaps = []
        for p, (x, y) in enumerate(POINTS.tolist()):
            inside = c[0] < x < c[2] and c[1] < y < c[3]
            close = away[j][p] < 2.5 * STRIDES[p].item()
            if not shown[j] or not (inside or close):
                continue
            iou = aligned_iou(given.boxes[image, p : p + 1], torch.tensor([c], dtype=torch.float64)).item()
            score = (given.objectness[image, p].sigmoid() * given.classes[image, p, labels[j]].sigmoid()).item()
            price = -math.log(max(score, 1e-6)) / 2 - 3 * math.log(max(iou, 1e-6))
            cost[j][p] = price + (0 if inside and close else 100)
            overlaps.append(iou)
        k = max(1, math.floor(sum(sorted(overlaps)[-10:])))
        for price, p in sorted((price, p) for p, price in cost[j].items())[:k]:
            claims[p][j] = price
    owner = [min(claim, key=lambda j: (claim[j], j), default=-1) for claim in claims]
    for j in range(len(boxes)):
        if shown[j] and j not in owner:
            spare = [p for p in range(COUNT) if owner[p] < 0 or owner.count(owner[p]) > 1]
            ranked = sorted((cost[j].get(p, 200 + away[j][p]), p) for p in spare)
            if ranked:
                owner[ranked[0][1]] = j
    return owner


@given(st.lists(boxes_of_an_image | st.lists(usual, max_size=7), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_equals_the_plain_one(images: Any, seed: int) -> None:
    given_, targets = predictions(len(images), seed), [target(rows) for rows in images]
    found = assign(given_, targets)
    assert found.shape == (len(images), COUNT)
    assert found.dtype == torch.int64
    for image, (boxes, labels) in enumerate(targets):
        assert found[image].tolist() == plain_assign(given_, image, boxes.tolist(), labels.tolist())


@given(boxes_of_an_image | st.lists(usual, max_size=40), st.booleans(), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_every_visible_box_has_a_point_and_no_other_has(rows: Any, constant: bool, seed: int) -> None:
    found = assign(predictions(1, seed, constant), [target(rows)])[0].tolist()
    visible = {j for j, (a, b, c, d) in enumerate(rows) if max(a, 0) < min(c, SIDE) and max(b, 0) < min(d, SIDE)}
    assert set(found) - {-1} == visible


def test_points_suffice_for_as_many_boxes_and_no_more() -> None:
    found = assign(predictions(1), [target([(20, 20, 40, 40)] * COUNT)])[0]
    assert sorted(found.tolist()) == list(range(COUNT))
    found = assign(predictions(1), [target([(20, 20, 40, 40)] * (COUNT + 5))])[0]
    assert len(set(found.tolist())) == COUNT


def test_a_point_that_predicts_a_box_well_answers_for_it() -> None:
    given_ = predictions(1, constant=True)
    point = 3 * 8 + 4  # of stride 8, at x = 36, y = 28
    given_.boxes[0, point] = torch.tensor([30, 20, 44, 38], dtype=torch.float64)
    found = assign(given_, [target([(30, 20, 44, 38)])])[0]
    assert found[point] == 0
    assert (found >= 0).sum() <= 10


def test_images_do_not_know_of_each_other() -> None:
    given_ = predictions(3)
    targets = [target([(3, 4, 30, 40), (20, 20, 60, 50)]), target([]), target([(5, 5, 9, 9)])]
    together = assign(given_, targets)
    for image in range(3):
        classes, objectness, each = (value[image : image + 1] for value in given_[:3])
        alone = Predictions(classes, objectness, each, POINTS, STRIDES)
        assert torch.equal(assign(alone, targets[image : image + 1])[0], together[image])
    assert not (together[1] >= 0).any()


def test_boxes_with_nan_get_nothing_and_predictions_with_nan_do_no_harm() -> None:
    found = assign(predictions(1), [target([(math.nan, 1, 9, 9), (8, 8, 30, 30)])])[0]
    assert set(found.tolist()) == {-1, 1}
    broken = predictions(1)._replace(boxes=torch.full((1, COUNT, 4), torch.nan, dtype=torch.float64))
    assert 0 in assign(broken, [target([(8, 8, 30, 30)])])[0]


def test_bad_targets_are_told() -> None:
    given_, (boxes, labels) = predictions(1), target([(0, 0, 9, 9)])
    for targets, words in (
        ([], "for 0 images; the predictions are for 1"),
        ([(boxes.long(), labels)], "boxes of image 0 are torch.int64"),
        ([(boxes, labels.float())], r"labels of image 0 are torch.float32 \[1\]; wanted int64"),
        ([(boxes, labels[:0])], r"wanted int64 \[1\]"),
        ([(boxes, labels + CLASSES)], "labels go from 2 to 2; the detector has the classes 0 to 1"),
    ):
        with pytest.raises(ModelError, match=words):
            assign(given_, targets)
