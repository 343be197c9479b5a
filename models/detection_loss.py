"""What a detector is trained on: labels, or a teacher's pseudo-labels with a band of uncertainty.

All points of an image count for objectness; those that assign.py matches with a box also count for box and class.
The target of objectness at a point with a trusted box is the IoU of the predicted box with it, taken as a constant,
so that the score of a detection tells how well its box fits (YOLOv5, on which FedSTO and Efficient Teacher build).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .assign import assign
from .boxes import aligned_iou
from .detections import Detections, Losses, Predictions, Target, check_pseudo, check_targets

CROWD = 0.05  # share of the points; about as many answer for a box, so each of these weighs about 1 over their number


class Balance(NamedTuple):
    """The weights of the three terms in the total loss; those of objectness and class are the FedSTO paper's."""

    box: float = 3.0
    objectness: float = 0.7
    cls: float = 0.3


BALANCE = Balance()


def supervised_loss(
    predictions: Predictions, targets: Sequence[Target], balance: Balance = BALANCE, gamma: float = 0.0
) -> Losses:
    """Return the Losses against the labels: (boxes [m, 4], labels [m]) for each of the b images, m >= 0.

    box: mean of 1 - CIoU over the points with a box term. cls: cross-entropy, summed over the classes, mean over the
    points with a class term. objectness: the sum of the cross-entropies of all points over CROWD of their number, so
    that images without a box weigh as much as others.

    gamma: 0 is plain cross-entropy, above 0 focal loss on objectness and classes, with which semi-supervised training
    collapsed in the FedSTO paper. All terms are finite, and objectness has a gradient, when no image has a box. Raises
    ModelError for a target that does not fit.
    """
    check_targets(targets, len(predictions.classes), predictions.classes.shape[2])
    labels = torch.cat([each[1] for each in targets])
    trusted = torch.ones_like(labels, dtype=torch.bool)
    soft = predictions.objectness.new_zeros(len(labels))
    return _losses(predictions, targets, _Tasks(labels, trusted, trusted, soft), balance, gamma)


def pseudo_loss(
    predictions: Predictions,
    pseudo: Sequence[Detections],
    low: float = 0.1,
    high: float = 0.6,
    *,
    sure: float = 0.99,
    balance: Balance = BALANCE,
    gamma: float = 0.0,
) -> Losses:
    """Return the Losses of a student's predictions against a teacher's detections, one for each of the b images.

    score >= high: the detection counts like a label (box, class, objectness).
    low <= score < high: its points have the teacher's objectness as their target; they have a box term only when that
    objectness is at least `sure`, and no class term.
    score < low, as everywhere else: background, objectness has the target 0.

    This is the soft band of Efficient Teacher (Xu et al., 2023), on which FedSTO builds. The boxes are in the pixels
    of the student's view. Otherwise like `supervised_loss`. Raises ModelError for detections that do not fit and
    unless 0 <= low <= high.
    """
    check_pseudo(pseudo, low, high, len(predictions.classes), predictions.classes.shape[2])
    kept = [Detections(*(value[each.scores >= low] for value in each)) for each in pseudo]
    labels, scores, objectness = (torch.cat([each[index] for each in kept]) for index in (2, 1, 3))
    reliable = scores >= high
    tasks = _Tasks(labels, reliable, reliable | (objectness >= sure), objectness)
    return _losses(predictions, [(each.boxes, each.labels) for each in kept], tasks, balance, gamma)


class _Tasks(NamedTuple):
    """What each of the m boxes of a batch asks of its points."""

    labels: Tensor  # int64 [m]
    reliable: Tensor  # bool [m]: class term, and the IoU as target of objectness
    placed: Tensor  # bool [m]: box term
    soft: Tensor  # [m]: target of objectness when not reliable


def _losses(
    predictions: Predictions, targets: Sequence[Target], tasks: _Tasks, balance: Balance, gamma: float
) -> Losses:
    owner = assign(predictions, targets)
    image, point = (owner >= 0).nonzero(as_tuple=True)
    counts = [len(boxes) for boxes, _ in targets]
    first = torch.tensor([sum(counts[:index]) for index in range(len(counts))], device=owner.device)
    box = owner[image, point] + first[image]
    truth = torch.cat([boxes for boxes, _ in targets]).to(predictions.boxes)[box]
    predicted = predictions.boxes[image, point]
    reliable, placed = tasks.reliable[box], tasks.placed[box]

    fit = aligned_iou(predicted.detach(), truth).clamp(min=0)
    target = torch.zeros_like(predictions.objectness)
    target[image, point] = torch.where(reliable, fit, tasks.soft.to(fit)[box])
    objectness = _cross_entropy(predictions.objectness, target, gamma).sum() / (CROWD * target.numel())

    place = (1 - aligned_iou(predicted[placed], truth[placed], "ciou")).sum() / max(int(placed.sum()), 1)

    logits = predictions.classes[image, point][reliable]
    kinds = F.one_hot(tasks.labels[box][reliable], logits.shape[1]).to(logits)
    cls = _cross_entropy(logits, kinds, gamma).sum() / max(len(logits), 1)

    total = balance.box * place + balance.objectness * objectness + balance.cls * cls
    return Losses(total, place, objectness, cls)


def _cross_entropy(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return the binary cross-entropies, times |target - probability|^gamma (focal loss, also for soft targets)."""
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if not gamma:
        return plain
    return plain * (targets - logits.sigmoid()).abs().pow(gamma)
