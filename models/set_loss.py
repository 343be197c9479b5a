"""What a detector that predicts a set of boxes is trained on: bipartite matching, labels or a teacher's pseudo-labels.

Every query of every decoder layer, and of the encoder's selection before them, tells the classes and a box; no query
has a place of its own. In each layer the objects of an image are matched with queries, one to one, at the least sum of

    cost = 2 x focal class cost + 5 x L1 + 2 x -GIoU                               (DETR, Carion et al., 2020, 3.1)

Matched queries learn their object's class and box, all others that there is nothing. The class loss is varifocal
(Zhang et al., 2021, equation 2): the target is the IoU of the predicted box with the object, taken as a constant, so
that a score tells how well its box fits. Costs and weights are RT-DETR's (Zhao et al., 2024, as in its published code).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .boxes import aligned_iou, area, clip, convert
from .detections import Detections, Losses, Target, check_pseudo, check_targets

CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
COST_ALPHA, COST_GAMMA = 0.25, 2.0  # of the focal class cost
ALPHA, GAMMA = 0.75, 2.0  # of the varifocal loss: weight of what is not there
LEAST = 1e-8  # of probabilities under a logarithm
FAR = 1e9  # the cost of a prediction that is not finite: matched only when nothing else is left


class SetPredictions(NamedTuple):
    """What the detector tells of b images of height x width pixels, in l layers of q queries; the last layer counts.

    classes: logits [l, b, q, classes]; boxes: [l, b, q, 4] centre, width and height as shares of the image's sides.
    """

    classes: Tensor
    boxes: Tensor
    height: int
    width: int


class SetBalance(NamedTuple):
    """The weights of the class loss and of the two parts of the box loss; those of RT-DETR."""

    cls: float = 1.0
    l1: float = 5.0
    giou: float = 2.0


BALANCE = SetBalance()


def supervised_loss(predictions: SetPredictions, targets: Sequence[Target], balance: SetBalance = BALANCE) -> Losses:
    """Return the Losses against the labels: (boxes [m, 4], labels [m]) for each of the b images, m >= 0.

    Each term is a sum over the layers and over the boxes of the batch, divided by the number of boxes, at least 1.
    box: l1 x |difference| of centre and sides, as shares of the image, + giou x (1 - GIoU), weights included.
    cls: varifocal loss of all queries and classes. objectness: 0, there is none.

    All terms are finite, and classes have a gradient, when no image has a box. Boxes outside the image, without area
    or with NaN are left out. Raises ModelError for a target that does not fit.
    """
    _, images, _, classes = predictions.classes.shape
    check_targets(targets, images, classes)
    labels = torch.cat([each[1] for each in targets])
    trusted = torch.ones_like(labels, dtype=torch.bool)
    wanted = _wanted(predictions, targets, trusted, trusted, trusted.float())
    return _losses(predictions, wanted, balance)


def pseudo_loss(
    predictions: SetPredictions,
    pseudo: Sequence[Detections],
    low: float = 0.1,
    high: float = 0.6,
    *,
    sure: float = 0.99,
    balance: SetBalance = BALANCE,
) -> Losses:
    """Return the Losses of a student's predictions against a teacher's detections, one for each of the b images.

    score >= high: the detection counts like a label (box and class).
    low <= score < high: the query that is matched with it has the teacher's score as the target of its class, not the
    IoU; it has a box term only when the detection's objectness is at least `sure`.
    score < low, as everywhere else: nothing is there.

    This carries the soft band of Efficient Teacher (Xu et al., 2023), which is one of objectness, over to detectors
    whose classes tell as well whether there is an object at all. The class loss is divided by the number of labels, to
    which a detection of the band adds only its score: what is hardly believed hardly counts, and does not thin out what
    is believed. Boxes are divided by the number of those that have a box term. Otherwise like `supervised_loss`.
    Raises ModelError for detections that do not fit and unless 0 <= low <= high.
    """
    _, images, _, classes = predictions.classes.shape
    check_pseudo(pseudo, low, high, images, classes)
    kept = [Detections(*(value[each.scores >= low] for value in each)) for each in pseudo]
    scores, objectness = (torch.cat([each[index] for each in kept]) for index in (1, 3))
    reliable = scores >= high
    targets = [(each.boxes, each.labels) for each in kept]
    wanted = _wanted(predictions, targets, reliable, reliable | (objectness >= sure), scores)
    return _losses(predictions, wanted, balance)


class _Wanted(NamedTuple):
    """The m objects of a batch and what each asks of the query that is matched with it."""

    image: Tensor  # int64 [m]
    boxes: Tensor  # [m, 4] xyxy in pixels, within the image
    labels: Tensor  # int64 [m]
    reliable: Tensor  # bool [m]: the IoU is the target of its class
    placed: Tensor  # bool [m]: box term
    soft: Tensor  # [m]: the target of its class when not reliable


def _wanted(
    predictions: SetPredictions, targets: Sequence[Target], reliable: Tensor, placed: Tensor, soft: Tensor
) -> _Wanted:
    counts = torch.tensor([len(labels) for _, labels in targets])
    labels = torch.cat([labels for _, labels in targets])
    image = torch.repeat_interleave(counts).to(labels.device)
    given = torch.cat([boxes for boxes, _ in targets]).to(predictions.boxes)
    boxes = clip(given, predictions.height, predictions.width)
    seen = area(boxes) > 0
    return _Wanted(*(value[seen] for value in (image, boxes, labels, reliable, placed, soft.to(boxes))))


def _losses(predictions: SetPredictions, wanted: _Wanted, balance: SetBalance) -> Losses:
    layer, query, which = match(predictions, wanted.image, wanted.boxes, wanted.labels)
    image, labels, placed = wanted.image[which], wanted.labels[which], wanted.placed[which]
    shares, truth = predictions.boxes[layer, image, query], wanted.boxes[which]
    pixels = pixels_of(predictions, shares)

    fit = torch.where(wanted.reliable[which], aligned_iou(pixels.detach(), truth), wanted.soft[which])
    target = torch.zeros_like(predictions.classes)
    target[layer, image, query, labels] = fit
    weight = ALPHA * predictions.classes.detach().sigmoid().pow(GAMMA)
    weight[layer, image, query, labels] = fit
    count = torch.where(wanted.reliable, 1, wanted.soft).sum().clamp(min=1)
    cls = F.binary_cross_entropy_with_logits(predictions.classes, target, weight, reduction="sum") / count

    boxes = wanted.placed.sum().clamp(min=1)
    l1 = (shares - _shares_of(predictions, truth))[placed].abs().sum() / boxes
    giou = (1 - aligned_iou(pixels[placed], truth[placed], "giou")).sum() / boxes
    place = balance.l1 * l1 + balance.giou * giou
    return Losses(place + balance.cls * cls, place, torch.zeros_like(cls), cls)


@torch.no_grad()
def match(predictions: SetPredictions, image: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three int64 [n]: in which layer which query of its image answers for which of m objects.

    image [m] (int64, ascending), boxes [m, 4] (xyxy, pixels), labels [m]. In each layer every object has one query and
    every query at most one object; of more objects than queries, the costliest go without. Nothing has a gradient.
    """
    from scipy.optimize import linear_sum_assignment

    costs = torch.stack([_cost(predictions, layer, image, boxes, labels) for layer in range(len(predictions.boxes))])
    table = costs.nan_to_num(nan=FAR, posinf=FAR, neginf=FAR).cpu().numpy()  # one copy for all layers and images
    ends = torch.bincount(image, minlength=predictions.boxes.shape[1]).cumsum(0).tolist()
    found: list[tuple[int, int, int]] = []
    for layer, rows in enumerate(table):
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            pairs = zip(*linear_sum_assignment(rows[start:end]), strict=True)
            found += [(layer, int(query), start + int(each)) for each, query in pairs]
    layers, queries, which = torch.tensor(found, dtype=torch.int64).reshape(-1, 3).to(boxes.device).unbind(1)
    return layers, queries, which


def _cost(predictions: SetPredictions, layer: int, image: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the costs [m, q] of each object with each query of its image."""
    chance = predictions.classes[layer].sigmoid()[image, :, labels]
    there = COST_ALPHA * (1 - chance).pow(COST_GAMMA) * -(chance + LEAST).log()
    nothing = (1 - COST_ALPHA) * chance.pow(COST_GAMMA) * -(1 - chance + LEAST).log()
    shares = predictions.boxes[layer][image]
    far = (shares - _shares_of(predictions, boxes)[:, None]).abs().sum(dim=2)
    pairs = boxes[:, None].expand_as(shares).flatten(0, 1)
    giou = aligned_iou(pixels_of(predictions, shares.flatten(0, 1)), pairs, "giou").view_as(far)
    return CLASS_COST * (there - nothing) + L1_COST * far - GIOU_COST * giou


def pixels_of(predictions: SetPredictions, shares: Tensor) -> Tensor:
    """Return boxes [n, 4], centre, width and height as shares of the image, as xyxy in pixels."""
    width, height = predictions.width, predictions.height
    return convert(shares, "cxcywh", "xyxy") * shares.new_tensor((width, height, width, height))


def _shares_of(predictions: SetPredictions, boxes: Tensor) -> Tensor:
    width, height = predictions.width, predictions.height
    return convert(boxes / boxes.new_tensor((width, height, width, height)), "xyxy", "cxcywh")
