import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import RTDetrV2Config
from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

from fedbox.models.boxes import convert
from fedbox.models.detections import Detections
from fedbox.models.errors import ModelError
from fedbox.models.set_loss import SetBalance, SetPredictions, match, pseudo_loss, supervised_loss

Target = tuple[Tensor, Tensor]


def draw(
    seed: int, layers: int, counts: list[int], queries: int, classes: int, height: int, width: int
) -> tuple[SetPredictions, list[Target]]:
    """Predictions at random places of the image, and as many boxes in each image as told, all in its inside."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(layers, len(counts), queries, classes, generator=generator)
    boxes = 0.05 + 0.9 * torch.rand(layers, len(counts), queries, 4, generator=generator)
    targets = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator) * 0.7
        sides = 0.02 + 0.28 * torch.rand(count, 2, generator=generator)
        shares = torch.cat((corners, corners + sides), dim=1)
        labels = torch.randint(classes, (count,), generator=generator)
        targets.append((shares * torch.tensor([width, height, width, height]), labels))
    return SetPredictions(logits.requires_grad_(), boxes.requires_grad_(), height, width), targets


def library_loss(predictions: SetPredictions, targets: list[Target]) -> tuple[Tensor, dict[str, Tensor]]:
    """The library's loss; it takes the encoder's selection, here layer 0, apart from the decoder's layers."""
    side = torch.tensor([predictions.width, predictions.height, predictions.width, predictions.height])
    labels = [{"class_labels": y, "boxes": convert(boxes / side, "xyxy", "cxcywh")} for boxes, y in targets]
    config = RTDetrV2Config(num_labels=predictions.classes.shape[3])
    total, terms, _ = RTDetrForObjectDetectionLoss(
        predictions.classes[-1],
        labels,
        torch.device("cpu"),
        predictions.boxes[-1],
        config,
        predictions.classes[1:].transpose(0, 1),
        predictions.boxes[1:].transpose(0, 1),
        enc_topk_logits=predictions.classes[0],
        enc_topk_bboxes=predictions.boxes[0],
    )
    return total, terms


@given(
    seed=st.integers(0, 2**31),
    layers=st.integers(2, 4),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    queries=st.integers(6, 12),
    classes=st.integers(1, 4),
    height=st.sampled_from([32, 96, 640]),
)
@settings(max_examples=40, deadline=None)
def test_labels_give_the_library_s_loss(
    seed: int, layers: int, counts: list[int], queries: int, classes: int, height: int
) -> None:
    predictions, targets = draw(seed, layers, counts, queries, classes, height, 64)
    losses = supervised_loss(predictions, targets)
    total, terms = library_loss(predictions, targets)
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert losses.cls.item() == pytest.approx(sum(v.item() for k, v in terms.items() if "vfl" in k), rel=1e-5)
    boxes = sum(v.item() for k, v in terms.items() if "bbox" in k or "giou" in k)
    assert losses.box.item() == pytest.approx(boxes, rel=1e-5, abs=1e-6)
    assert losses.objectness == 0
    leaves = [predictions.classes, predictions.boxes]
    for mine, theirs in zip(
        torch.autograd.grad(losses.total, leaves), torch.autograd.grad(total, leaves, allow_unused=True), strict=True
    ):
        wanted = torch.zeros_like(mine) if theirs is None else theirs
        assert torch.allclose(mine, wanted, rtol=1e-4, atol=1e-5)


# An image of 100 x 50 pixels, two classes, one layer of three queries. The box [20, 10, 40, 30] has label 1. The first
# query's box is its upper half, so the IoU is 1/2, and so is the GIoU; the two others lie far away.
BOX, LABEL, IOU = [20.0, 10.0, 40.0, 30.0], 1, 0.5
SHARES = [[0.3, 0.3, 0.2, 0.2], [0.8, 0.5, 0.1, 0.2], [0.9, 0.9, 0.1, 0.1]]
LOGITS = [[-0.7, 0.4], [-1.2, 0.1], [0.3, -2.0]]
L1 = (0.4 - 0.3) + (0.4 - 0.2)  # the centre is 5 of 50 pixels too high, the height 10 of 50 too small


def predict() -> tuple[SetPredictions, list[Tensor]]:
    leaves = [torch.tensor([[each]], dtype=torch.float64).requires_grad_() for each in (LOGITS, SHARES)]
    return SetPredictions(leaves[0], leaves[1], 50, 100), leaves


def detection(score: float, objectness: float | None = None) -> Detections:
    told = torch.tensor([[score], [score if objectness is None else objectness]], dtype=torch.float64)
    return Detections(torch.tensor([BOX]).double(), told[0], torch.tensor([LABEL]), told[1])


def chance(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def background(logit: float) -> float:
    return -0.75 * chance(logit) ** 2 * math.log(1 - chance(logit))


NOTHING = sum(background(logit) for row in LOGITS for logit in row)


@pytest.mark.parametrize(
    ("score", "objectness", "target", "boxed"),
    [
        (0.8, 0.8, IOU, True),  # reliable: as a label
        (0.6, 0.6, IOU, True),  # at the upper threshold
        (0.59, 0.59, 0.59, False),  # uncertain: the teacher's score alone; half an object is divided by 1
        (0.1, 0.1, 0.1, False),  # at the lower threshold
        (0.3, 0.99, 0.3, True),  # uncertain of the class, sure of the object: its box as well
        (0.09, 0.999, None, False),  # nothing
    ],
)
def test_each_branch_of_the_soft_band_by_hand(
    score: float, objectness: float, target: float | None, boxed: bool
) -> None:
    predictions, leaves = predict()
    losses = pseudo_loss(predictions, [detection(score, objectness)])
    cls = NOTHING
    slope = 0.75 * chance(0.4) ** 3  # of the constant weight 0.75 p^2 times -log(1 - p), whose slope is p
    if target is not None:
        found = chance(0.4)
        cross = -target * math.log(found) - (1 - target) * math.log(1 - found)
        cls += target * cross - background(0.4)  # the weight of what is there is its target
        slope = target * (found - target)
    box = 5 * L1 + 2 * (1 - IOU) if boxed else 0
    assert losses.cls.item() == pytest.approx(cls)
    assert losses.box.item() == pytest.approx(box)
    assert losses.total.item() == pytest.approx(cls + box)
    classes, places = torch.autograd.grad(losses.total, leaves)
    assert classes[0, 0, 0, LABEL].item() == pytest.approx(slope)
    assert classes[0, 0, 1, 0].item() == pytest.approx(0.75 * chance(-1.2) ** 3)
    assert bool(places[0, 0, 0].any()) == boxed
    assert not places[0, 0, 1:].any()


def test_the_band_counts_as_much_as_it_is_believed() -> None:
    # Two labels' worth of certain boxes and one of 0.3: the classes are divided by 2.3, the boxes by 2.
    predictions, _ = predict()
    boxes = convert(torch.tensor(SHARES, dtype=torch.float64), "cxcywh", "xyxy") * torch.tensor([100, 50, 100, 50])
    scores = torch.tensor([0.3, 0.9, 0.7], dtype=torch.float64)
    losses = pseudo_loss(predictions, [Detections(boxes, scores, torch.tensor([1, 1, 0]), scores)])
    cls = NOTHING
    for logit, target in ((0.4, 0.3), (0.1, 1.0), (0.3, 1.0)):
        found = chance(logit)
        cls += -target * (target * math.log(found) + (1 - target) * math.log(1 - found)) - background(logit)
    assert losses.cls.item() == pytest.approx(cls / 2.3)
    assert losses.box.item() == pytest.approx(0, abs=1e-9)


def test_thresholds_and_balance_are_settings() -> None:
    predictions, _ = predict()
    plain = pseudo_loss(predictions, [detection(0.3)], 0.05, 0.25)
    assert plain.box.item() == pytest.approx(5 * L1 + 2 * (1 - IOU))
    losses = pseudo_loss(predictions, [detection(0.3)], sure=0.3, balance=SetBalance(3, 1, 10))
    assert losses.box.item() == pytest.approx(L1 + 10 * (1 - IOU))
    assert losses.total.item() == pytest.approx((losses.box + 3 * losses.cls).item())


@given(st.integers(0, 2**31), st.lists(st.integers(0, 5), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_reliable_pseudo_labels_are_labels(seed: int, counts: list[int]) -> None:
    predictions, targets = draw(seed, 3, counts, 8, 3, 64, 96)
    sure = [torch.full((len(labels),), 0.9) for _, labels in targets]
    pseudo = [Detections(b, score, y, score) for (b, y), score in zip(targets, sure, strict=True)]
    one, two = supervised_loss(predictions, targets), pseudo_loss(predictions, pseudo)
    assert one == two
    leaves = [predictions.classes, predictions.boxes]
    for a, b in zip(*(torch.autograd.grad(each.total, leaves) for each in (one, two)), strict=True):
        assert torch.equal(a, b)


def test_without_any_box_classes_alone_are_trained() -> None:
    predictions, _ = draw(0, 3, [0, 0], 8, 3, 64, 64)
    empty = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    none = Detections(empty[0], torch.zeros(0), empty[1], torch.zeros(0))
    for losses in (supervised_loss(predictions, [empty] * 2), pseudo_loss(predictions, [none] * 2)):
        assert all(value.isfinite() for value in losses)
        assert losses.box == 0
        classes, boxes = torch.autograd.grad(losses.total, [predictions.classes, predictions.boxes])
        assert (classes > 0).all()
        assert not boxes.any()


def test_boxes_that_cannot_be_seen_are_left_out() -> None:
    predictions, targets = draw(3, 2, [2, 1], 6, 3, 64, 64)
    unseen = torch.tensor([[70.0, 0, 90, 9], [5, 5, 5, 9], [9, 9, 3, 12], [math.nan, 0, 9, 9]])
    boxes, labels = targets[1]
    more = (torch.cat((unseen, boxes)), torch.cat((torch.tensor([0, 1, 2, 0]), labels)))
    assert supervised_loss(predictions, [targets[0], more]) == supervised_loss(predictions, targets)


def test_matching_takes_the_least_sum_and_not_the_nearest() -> None:
    # Query 0 is the best for both objects. To give it to object 0, whom it suits best, would cost object 1 more.
    shares = torch.tensor([[[[0.30, 0.5, 0.2, 0.4], [0.26, 0.5, 0.2, 0.4], [0.9, 0.1, 0.1, 0.1]]]])
    predictions = SetPredictions(torch.zeros(1, 1, 3, 1), shares, 50, 100)
    objects = torch.tensor([[0.29, 0.5, 0.2, 0.4], [0.40, 0.5, 0.2, 0.4]])
    boxes = convert(objects, "cxcywh", "xyxy") * torch.tensor([100, 50, 100, 50])
    _, query, which = match(predictions, torch.zeros(2, dtype=torch.int64), boxes, torch.zeros(2, dtype=torch.int64))
    assert dict(zip(which.tolist(), query.tolist(), strict=True)) == {0: 1, 1: 0}


def test_more_objects_than_queries_and_predictions_that_are_not_finite() -> None:
    predictions, targets = draw(1, 2, [5], 3, 2, 64, 64)
    boxes, labels = targets[0]
    image = torch.zeros(5, dtype=torch.int64)
    layer, query, which = match(predictions, image, boxes, labels)
    assert sorted(zip(layer.tolist(), query.tolist(), strict=True)) == [(i, q) for i in range(2) for q in range(3)]
    assert len(set(which[:3].tolist())) == 3
    assert supervised_loss(predictions, targets).total.isfinite()

    broken = predictions.boxes.detach().clone()
    broken[0, 0, 1] = math.nan
    layer, query, _ = match(predictions._replace(boxes=broken), image[:2], boxes[:2], labels[:2])
    assert 1 not in query[layer == 0].tolist()


def test_bad_input_is_told() -> None:
    predictions, _ = predict()
    good = detection(0.5)
    for low, high in ((0.6, 0.1), (-0.1, 0.5), (math.nan, 0.5)):
        with pytest.raises(ModelError, match="0 <= low <= high"):
            pseudo_loss(predictions, [good], low, high)
    with pytest.raises(ModelError, match=r"scores \[2\] and objectness \[1\] for 1 boxes"):
        pseudo_loss(predictions, [good._replace(scores=torch.ones(2))])
    with pytest.raises(ModelError, match="for 2 images; the predictions are for 1"):
        pseudo_loss(predictions, [good, good])
    with pytest.raises(ModelError, match="labels go from 2 to 2"):
        supervised_loss(predictions, [(torch.tensor([BOX]), torch.tensor([2]))])
