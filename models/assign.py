"""Which grid point of the detector answers for which box: the one place where targets are assigned.

SimOTA (Ge et al., "YOLOX", 2021, section 2). A point is a candidate for a box when it lies inside the box or at most
RADIUS strides from its centre in x and in y, on any level. What it would cost is

    cost = -log(p) / 2 + IOU_COST x -log(IoU) + (0 if inside and near the centre, else FAR)

with p the predicted score of the box's class (objectness x probability) and IoU that of the predicted box. The box
takes its k cheapest candidates, k the sum of its MOST best IoUs, rounded down, but at least 1. A point that several
boxes take goes to the one for which it is cheapest.

Why this: on generated scenes of 128 x 128 pixels (4 shapes in random colours, 400 images, 375 steps of 16 images, nano
detector with BatchNorm) it gave 0.51 mAP@0.5, the task-aligned assigner (Feng et al., 2021) 0.48, and centre sampling
without a look at the predictions (Tian et al., 2019) 0.44 at best, 0.30 with a range of sizes for each level. One seed
each, two for SimOTA. No ranges are needed: which level sees a box best shows by itself.

Differs from YOLOX: the cost of a class leaves out the other classes, and no visible box is left without a point.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import aligned_iou, area, clip
from .detections import Predictions, Target, check_targets

RADIUS = 2.5  # in strides
IOU_COST = 3.0
FAR = 100.0  # above any sum of the two other terms, which LEAST bounds
MOST = 10  # points for one box
LEAST = 1e-6  # of scores and IoUs under a logarithm


@torch.no_grad()
def assign(predictions: Predictions, targets: Sequence[Target]) -> Tensor:
    """Return int64 [b, p]: for each image and point the index of its box in that image's list, or -1 for background.

    targets: for each of the b images the boxes [m, 4] and labels [m], m >= 0.

    Boxes count by what is visible of them; one outside the image, without area or with NaN gets no point. Every other
    gets at least one as long as the points suffice: a box that was outbid everywhere takes its cheapest candidate, else
    the point nearest to its centre, of those that are free or whose box keeps another. Of equal points and of equal
    boxes the first wins. Nothing here has a gradient. Raises ModelError for targets that do not fit.
    """
    check_targets(targets, len(predictions.classes), predictions.classes.shape[2])
    counts = [len(labels) for _, labels in targets]
    total = sum(counts)
    owner = torch.full(predictions.objectness.shape, -1, dtype=torch.int64, device=predictions.points.device)
    if not total:
        return owner
    image = torch.repeat_interleave(torch.tensor(counts)).to(owner.device)
    labels = torch.cat([labels for _, labels in targets])
    visible = _visible(predictions, torch.cat([boxes for boxes, _ in targets]))
    shown = area(visible) > 0
    candidates, away, near = _candidates(predictions, visible)
    candidates &= shown[:, None]
    cost, takes = _costs(predictions, visible, labels, image, candidates)
    cost += FAR * ~near
    owner = _cheapest(cost, takes, candidates, image, owner)
    held = torch.bincount(owner[owner >= 0], minlength=total)
    for box in (shown & (held == 0)).nonzero().squeeze(1).tolist():
        _rescue(owner[int(image[box])], held, box, torch.where(candidates[box], cost[box], 2 * FAR + away[box]))
    first = torch.tensor([sum(counts[:index]) for index in range(len(counts))], device=owner.device)
    return torch.where(owner >= 0, owner - first[:, None], -1)


def _visible(predictions: Predictions, boxes: Tensor) -> Tensor:
    width, height = (predictions.points + predictions.strides[:, None] / 2).amax(dim=0).tolist()
    return clip(boxes.to(predictions.boxes), height, width)


def _candidates(predictions: Predictions, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three [m, p]: may the point answer for the box, how many pixels from its centre it is, is it a near one.

    Pixels are the larger of those in x and in y; a near point is inside the box and close to its centre.
    """
    points = predictions.points
    inside = ((points > boxes[:, None, :2]) & (points < boxes[:, None, 2:])).all(dim=2)
    away = (points - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]).abs().amax(dim=2)
    close = away < RADIUS * predictions.strides
    return inside | close, away, inside & close


def _costs(
    predictions: Predictions, boxes: Tensor, labels: Tensor, image: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the costs [m, p], infinite where a point is no candidate, and how many points [m] each box takes."""
    box, point = candidates.nonzero(as_tuple=True)
    where = image[box]
    iou = aligned_iou(predictions.boxes[where, point], boxes[box])
    chance = predictions.classes[where, point, labels[box]].sigmoid() * predictions.objectness[where, point].sigmoid()
    price = -chance.clamp(min=LEAST).log() / 2 - IOU_COST * iou.clamp(min=LEAST).log()
    cost = torch.full(candidates.shape, torch.inf, dtype=price.dtype, device=price.device)
    ious = torch.zeros_like(cost)
    cost[box, point], ious[box, point] = price, iou
    most = min(MOST, candidates.shape[1])
    return cost, ious.topk(most, dim=1).values.sum(dim=1).long().clamp(1, most)


def _cheapest(cost: Tensor, takes: Tensor, candidates: Tensor, image: Tensor, owner: Tensor) -> Tensor:
    """Return [b, p]: the box, counted over all images, that takes the point and pays least, or -1."""
    order = cost.argsort(dim=1, stable=True)[:, :MOST]
    taken = torch.zeros_like(candidates)
    taken.scatter_(1, order, torch.arange(order.shape[1], device=order.device) < takes[:, None])
    taken &= candidates
    paid = torch.where(taken, cost, torch.inf)
    rows = image[:, None].expand_as(paid)
    least = paid.new_full(owner.shape, torch.inf).scatter_reduce_(0, rows, paid, "amin")
    winners = taken & (paid == least[image])
    indices = torch.arange(len(cost), device=cost.device)[:, None]
    first = torch.full_like(owner, len(cost))
    first.scatter_reduce_(0, rows, torch.where(winners, indices, len(cost)), "amin")
    return torch.where(first < len(cost), first, -1)


def _rescue(owner: Tensor, held: Tensor, box: int, order: Tensor) -> None:
    """Give the box the point of its image, first in `order` [p], that is free or whose owner keeps another.

    Alters owner [p] and held [m] in place.
    """
    spare = (owner < 0) | (held[owner.clamp(min=0)] > 1)
    if not bool(spare.any()):
        return
    point = int(torch.where(spare, order, torch.inf).argmin())
    if owner[point] >= 0:
        held[owner[point]] -= 1
    owner[point] = box
    held[box] = 1
