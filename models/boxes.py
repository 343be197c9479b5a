"""Boxes on images: geometry, overlaps with gradients, and non-maximum suppression.

A box is (x1, y1, x2, y2) in pixels, x to the right and y downward, as a row of a floating-point tensor [n, 4]. It is
the continuous region between its corners: its width is x2 - x1, with no pixel added. A box with x2 <= x1 or y2 <= y1
is degenerate: it has the area 0 and overlaps nothing.
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ModelError, did_you_mean

Layout = Literal["xyxy", "xywh", "cxcywh"]
Overlap = Literal["iou", "giou", "diou", "ciou"]
TINY = 1e-7  # square pixels or pixels: keeps the quotients of degenerate boxes, and their gradients, finite
BLOCK = 512  # boxes whose overlaps `nms` works out at once: bounds its memory


def area(boxes: Tensor) -> Tensor:
    """Return the areas [n] of boxes [n, 4], in square pixels; 0 for a degenerate box."""
    width, height = _sides(_checked(boxes))
    return width * height


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """Return boxes [n, 4] cut off at the borders of an image; one outside of it becomes degenerate."""
    _checked(boxes)
    limits = boxes.new_tensor((width, height, width, height))
    return torch.minimum(boxes.clamp(min=0), limits)


def convert(boxes: Tensor, source: Layout, target: Layout) -> Tensor:
    """Return boxes [n, 4] of the layout `source` in the layout `target`.

    xyxy: two corners; xywh: upper left corner, width, height; cxcywh: centre, width, height. Raises ModelError for an
    unknown layout.
    """
    for layout in (source, target):
        if layout not in get_args(Layout):
            raise ModelError(f"box layout is {layout!r}.{did_you_mean(str(layout), get_args(Layout))}")
    first, second = _checked(boxes)[:, :2], boxes[:, 2:]
    if source == target:
        return boxes.clone()
    corner, size = first, second
    if source == "xyxy":
        size = second - first
    elif source == "cxcywh":
        corner = first - second / 2
    if target == "xyxy":
        return torch.cat((corner, corner + size), dim=1)
    return torch.cat((corner if target == "xywh" else corner + size / 2, size), dim=1)


def pairwise_iou(one: Tensor, two: Tensor) -> Tensor:
    """Return the overlap |A and B| / |A or B| of each box of [n, 4] with each of [m, 4] as [n, m], within 0 and 1."""
    areas = area(one)[:, None] + area(two)[None]
    corner = torch.maximum(one[:, None, :2], two[None, :, :2])
    shared = (torch.minimum(one[:, None, 2:], two[None, :, 2:]) - corner).clamp(min=0).prod(dim=2)
    return shared / (areas - shared).clamp(min=TINY)


def aligned_iou(one: Tensor, two: Tensor, kind: Overlap = "iou") -> Tensor:
    """Return the likeness of box i of `one` [n, 4] and box i of `two` [n, 4] as [n]; 1 - likeness is the loss.

    iou:  |A and B| / |A or B|, within 0 and 1;
    giou: iou - (|C| - |A or B|) / |C|, C the smallest box around both, within -1 and 1 (Rezatofighi et al., 2019);
    diou: iou - (distance of the centres)^2 / (diagonal of C)^2 (Zheng et al., 2020, equation 7);
    ciou: diou - alpha v, with v = 4 / pi^2 (atan(w / h) - atan(w' / h'))^2 and alpha = v / (1 - iou + v) taken as a
          constant: no gradient flows through it (Zheng et al., 2020, equations 8, 9 and 11).

    Values and gradients are finite for any finite boxes. Boxes that share nothing have no gradient in iou, but a
    helpful one in the others. Raises ModelError for an unknown kind and for shapes that differ.
    """
    if kind not in get_args(Overlap):
        raise ModelError(f"overlap kind is {kind!r}.{did_you_mean(str(kind), get_args(Overlap))}")
    if _checked(one).shape != _checked(two).shape:
        raise ModelError(f"boxes are {list(one.shape)} and {list(two.shape)}; wanted two tensors of one shape [n, 4].")
    corner = torch.maximum(one[:, :2], two[:, :2])
    shared = (torch.minimum(one[:, 2:], two[:, 2:]) - corner).clamp(min=0).prod(dim=1)
    union = area(one) + area(two) - shared
    iou = shared / union.clamp(min=TINY)
    if kind == "iou":
        return iou
    # Of all corners, so that a box with x2 < x1 lies within it as well: the bounds hold for any boxes.
    corners = torch.stack((one[:, :2], one[:, 2:], two[:, :2], two[:, 2:]))
    hull = corners.amax(dim=0) - corners.amin(dim=0)
    if kind == "giou":
        around = hull.prod(dim=1)
        return iou - (around - union).clamp(min=0) / around.clamp(min=TINY)
    offset = (one[:, :2] + one[:, 2:] - two[:, :2] - two[:, 2:]) / 2
    diou = iou - offset.square().sum(dim=1) / hull.square().sum(dim=1).clamp(min=TINY)
    return diou if kind == "diou" else diou - _shape_penalty(one, two, iou)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the indices [k] (int64) of the boxes [n, 4] that stand, highest of the scores [n] first.

    Greedy non-maximum suppression: in falling order of score, of equal scores the lower index first, a box stands
    unless its IoU with one that stands is above `threshold`. Raises ModelError for other shapes and NaN scores.
    """
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), threshold)


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Like `nms`, where a box [n, 4] can only be suppressed by one with the same label [n]; all in one ranking."""
    count = len(_checked(boxes))
    if scores.shape != (count,) or labels.shape != (count,):
        raise ModelError(
            f"scores are {list(scores.shape)} and labels {list(labels.shape)}; wanted [{count}], as many as boxes."
        )
    if bool(scores.isnan().any()):
        raise ModelError("scores hold NaN, which has no place in a ranking. Drop those boxes first.")
    order = torch.argsort(scores, descending=True, stable=True)
    ranked, kinds = boxes.detach()[order], labels[order]
    alive = torch.ones(count, dtype=torch.bool, device=boxes.device)
    # Block by block: first the fate of a block's own boxes, then what those that stand do to all after the block.
    for start in range(0, count, BLOCK):
        block = start + alive[start : start + BLOCK].nonzero().squeeze(1)
        standing = block[_stand(_clashes(ranked, kinds, block, block, threshold))]
        alive[block] = False
        alive[standing] = True
        rest = start + BLOCK + alive[start + BLOCK :].nonzero().squeeze(1)
        alive[rest] = ~_clashes(ranked, kinds, standing, rest, threshold).any(dim=0)
    return order[alive]


def _clashes(boxes: Tensor, labels: Tensor, one: Tensor, two: Tensor, threshold: float) -> Tensor:
    above = pairwise_iou(boxes[one], boxes[two]) > threshold
    return above & (labels[one][:, None] == labels[two][None])


def _stand(clashes: Tensor) -> Tensor:
    """Return which rows of a ranked, symmetric matrix [n, n] stand, as bool [n] on its device."""
    rows: NDArray[np.bool_] = (
        clashes.fill_diagonal_(False).cpu().numpy()
    )  # one copy, then steps that cost a microsecond
    alive: NDArray[np.bool_] = np.any(rows, axis=1)
    stands = ~alive  # in nobody's way
    for index in np.flatnonzero(alive):
        if alive[index]:
            alive &= ~rows[index]
            stands[index] = True
    return torch.from_numpy(stands).to(clashes.device)


def _shape_penalty(one: Tensor, two: Tensor, iou: Tensor) -> Tensor:
    angles = [torch.atan(w.clamp(min=TINY) / h.clamp(min=TINY)) for w, h in (_sides(one), _sides(two))]
    v = (4 / math.pi**2) * (angles[0] - angles[1]).square()
    alpha = (v / (1 - iou + v).clamp(min=TINY)).detach()
    return alpha * v


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).unbind(dim=1)
    return width, height


def _checked(boxes: Tensor) -> Tensor:
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ModelError(f"boxes are {boxes.dtype} {list(boxes.shape)}; wanted floating-point [n, 4].")
    return boxes
