import math

import pytest
import torch
from torch import Tensor

from fedbox.models.detection_loss import CROWD, Balance, pseudo_loss, supervised_loss
from fedbox.models.detections import Detections, Losses, Predictions
from fedbox.models.errors import ModelError

# Two cells of 32 pixels beside each other, an image of 64 x 32, two classes. The box below lies in the left cell.
POINTS, STRIDES = torch.tensor([[16.0, 16.0], [48.0, 16.0]]).double(), torch.tensor([32.0, 32.0]).double()
BOX, LABEL = [8.0, 8.0, 24.0, 24.0], 1
IOU = 0.5  # of the left prediction with it: 16 x 8 in 16 x 16, with the centre 4 off and another shape
CIOU_LOSS_V = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
CIOU_LOSS = 1 - (IOU - 16 / 512 - CIOU_LOSS_V / (1 - IOU + CIOU_LOSS_V) * CIOU_LOSS_V)
LEFT, RIGHT, ONE, OTHER = 0.4, -1.2, 0.3, -0.7  # logits: objectness of both cells, the left one's two classes


def predict(images: int = 1) -> tuple[Predictions, list[Tensor]]:
    boxes = torch.tensor([[[8.0, 8.0, 24.0, 16.0], [40.0, 8.0, 56.0, 24.0]]]).double().repeat(images, 1, 1)
    objectness = torch.tensor([[LEFT, RIGHT]]).double().repeat(images, 1)
    classes = torch.tensor([[[ONE, OTHER], [0.1, 0.2]]]).double().repeat(images, 1, 1)
    leaves = [value.requires_grad_() for value in (classes, objectness, boxes)]
    return Predictions(classes, objectness, boxes, POINTS, STRIDES), leaves


def label(boxes: list[list[float]], labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(boxes).double().reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)


def detection(score: float, objectness: float) -> Detections:
    boxes, labels = label([BOX], [LABEL])
    return Detections(boxes, torch.tensor([score]).double(), labels, torch.tensor([objectness]).double())


def bce(logit: float, target: float) -> float:
    chance = 1 / (1 + math.exp(-logit))
    return -target * math.log(chance) - (1 - target) * math.log(1 - chance)


def slope(logit: float, target: float) -> float:
    return 1 / (1 + math.exp(-logit)) - target


def check(
    losses: Losses, leaves: list[Tensor], balance: Balance, left: float, boxed: bool, classed: bool, images: int = 1
) -> None:
    """The losses and their gradients when the left cell of the first of the images has the objectness target `left`."""
    objectness = bce(LEFT, left) + bce(RIGHT, 0) + (images - 1) * (bce(LEFT, 0) + bce(RIGHT, 0))
    cells = CROWD * 2 * images
    assert losses.objectness.item() == pytest.approx(objectness / cells)
    assert losses.box.item() == pytest.approx(CIOU_LOSS if boxed else 0)
    assert losses.cls.item() == pytest.approx(bce(ONE, 0) + bce(OTHER, 1) if classed else 0)
    total = balance.box * losses.box + balance.objectness * losses.objectness + balance.cls * losses.cls
    assert losses.total.item() == pytest.approx(total.item())
    classes, scores, boxes = torch.autograd.grad(losses.total, leaves)
    wanted = [slope(LEFT, left), slope(RIGHT, 0)]
    assert scores[0].tolist() == pytest.approx([balance.objectness * value / cells for value in wanted])
    wanted = [slope(ONE, 0), slope(OTHER, 1)] if classed else [0, 0]
    assert classes[0, 0].tolist() == pytest.approx([balance.cls * value for value in wanted])
    assert not classes[0, 1].any()
    assert not boxes[0, 1].any()
    assert bool(boxes[0, 0].any()) == boxed
    if boxed:
        # Moving the lower edge down by h adds 16 h to the shared 128 of 256: the IoU grows by h / 16; the centre nears
        # by h / 2, so 2 x 4 x 1/2 of 512 pixels squared fall away; and alpha v falls with the height, 16 : 8 + h.
        alpha = CIOU_LOSS_V / (1 - IOU + CIOU_LOSS_V)
        shape = alpha * 4 / math.pi**2 * 2 * (math.atan(2) - math.atan(1)) * (-16 / (16**2 + 8**2))
        assert boxes[0, 0, 3].item() == pytest.approx(-balance.box * (1 / 16 + 4 / 512 - shape))


@pytest.mark.parametrize("balance", [Balance(), Balance(1, 2, 4)])
@pytest.mark.parametrize("images", [1, 3])
def test_labels_by_hand(balance: Balance, images: int) -> None:
    predictions, leaves = predict(images)
    targets = [label([BOX], [LABEL]), *[label([], [])] * (images - 1)]
    check(supervised_loss(predictions, targets, balance), leaves, balance, IOU, boxed=True, classed=True, images=images)


@pytest.mark.parametrize(
    ("score", "objectness", "left", "boxed", "classed"),
    [
        (0.8, 0.9, IOU, True, True),  # reliable: as a label
        (0.6, 0.9, IOU, True, True),  # at the upper threshold
        (0.59, 0.7, 0.7, False, False),  # uncertain: the teacher's objectness alone
        (0.1, 0.98, 0.98, False, False),  # at the lower threshold
        (0.3, 0.99, 0.99, True, False),  # uncertain of the class, sure of the object: its box as well
        (0.09, 0.999, 0.0, False, False),  # background
    ],
)
def test_each_branch_of_the_soft_band_by_hand(
    score: float, objectness: float, left: float, boxed: bool, classed: bool
) -> None:
    predictions, leaves = predict()
    losses = pseudo_loss(predictions, [detection(score, objectness)])
    check(losses, leaves, Balance(), left, boxed, classed)


def test_thresholds_and_balance_are_settings() -> None:
    predictions, leaves = predict()
    balance = Balance(1, 2, 4)
    losses = pseudo_loss(predictions, [detection(0.3, 0.8)], 0.05, 0.25, balance=balance)
    check(losses, leaves, balance, IOU, boxed=True, classed=True)
    predictions, leaves = predict()
    losses = pseudo_loss(predictions, [detection(0.3, 0.8)], sure=0.75, balance=balance)
    check(losses, leaves, balance, 0.8, boxed=True, classed=False)


def test_box_and_class_are_means_over_their_own_points() -> None:
    # The right cell has a certain box that fits, the left one an uncertain one: the means are over the right alone.
    predictions, _ = predict()
    pseudo = Detections(
        torch.tensor([BOX, [40.0, 8.0, 56.0, 24.0]]).double(),
        torch.tensor([0.3, 0.9]).double(),
        torch.tensor([1, 0]),
        torch.tensor([0.5, 0.95]).double(),
    )
    losses = pseudo_loss(predictions, [pseudo])
    assert losses.box.item() == pytest.approx(0, abs=1e-12)
    assert losses.cls.item() == pytest.approx(bce(0.1, 1) + bce(0.2, 0))
    assert losses.objectness.item() == pytest.approx((bce(LEFT, 0.5) + bce(RIGHT, 1)) / (2 * CROWD))


def test_reliable_pseudo_labels_are_labels() -> None:
    predictions, leaves = predict(2)
    targets = [label([BOX, [30.0, 2.0, 60.0, 30.0]], [1, 0]), label([[1.0, 1.0, 63.0, 31.0]], [0])]
    pseudo = [Detections(b, torch.full((len(b),), 0.9), y, torch.full((len(b),), 0.95)) for b, y in targets]
    one, two = supervised_loss(predictions, targets), pseudo_loss(predictions, pseudo)
    assert one == two
    for a, b in zip(*(torch.autograd.grad(each.total, leaves) for each in (one, two)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_without_any_box_objectness_alone_is_trained(gamma: float) -> None:
    predictions, leaves = predict(2)
    empty = label([], [])
    for losses in (
        supervised_loss(predictions, [empty, empty], gamma=gamma),
        pseudo_loss(predictions, [Detections(empty[0], torch.zeros(0), empty[1], torch.zeros(0))] * 2, gamma=gamma),
    ):
        assert all(value.isfinite() for value in losses)
        assert losses.box == losses.cls == 0
        classes, objectness, boxes = torch.autograd.grad(losses.total, leaves)
        assert not classes.any()
        assert not boxes.any()
        assert (objectness > 0).all()
        assert objectness.isfinite().all()


def test_focal_loss_by_hand() -> None:
    predictions, _ = predict()
    losses = supervised_loss(predictions, [label([BOX], [LABEL])], gamma=2)
    focal = [bce(x, t) * slope(x, t) ** 2 for x, t in ((LEFT, IOU), (RIGHT, 0), (ONE, 0), (OTHER, 1))]
    assert losses.objectness.item() == pytest.approx((focal[0] + focal[1]) / (2 * CROWD))
    assert losses.cls.item() == pytest.approx(focal[2] + focal[3])
    assert losses.box.item() == pytest.approx(CIOU_LOSS)


def test_bad_input_is_told() -> None:
    predictions, _ = predict()
    good = detection(0.5, 0.5)
    for low, high in ((0.6, 0.1), (-0.1, 0.5), (math.nan, 0.5)):
        with pytest.raises(ModelError, match="0 <= low <= high"):
            pseudo_loss(predictions, [good], low, high)
    with pytest.raises(ModelError, match=r"scores \[2\] and objectness \[1\] for 1 boxes"):
        pseudo_loss(predictions, [good._replace(scores=torch.ones(2))])
    with pytest.raises(ModelError, match="for 2 images; the predictions are for 1"):
        pseudo_loss(predictions, [good, good])
    with pytest.raises(ModelError, match="labels go from 2 to 2"):
        supervised_loss(predictions, [label([BOX], [2])])
