"""How good detections are: COCO's mean average precision, and the precision and recall of pseudo-labels.

The average precision is computed by faster-coco-eval, a port of the reference code that gives the same
figures. It is defined as in Lin et al., "Microsoft COCO" (2014): 101 recall levels, at most 100 detections an
image, objects of every size.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from .arrays import DataError

if TYPE_CHECKING:
    from torch import Tensor

    Array: TypeAlias = Union["Tensor", NDArray[Any]]  # noqa: UP007

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_NOTHING = (np.empty((0, 4)), np.empty(0, np.int64))

MOST_DETECTIONS = 100  # an image
KINDS = ("map50", "map75", "map")
"""The means of average precision: at an IoU of 0.5, of 0.75, and over 0.5 to 0.95."""


class MatchQuality(NamedTuple):
    """Of the pseudo-boxes the share that are right; of the true boxes the share that were found."""

    precision: float
    recall: float


def coco_metrics(
    truths: Sequence[tuple["Array", "Array"]],
    detections: Sequence[tuple["Array", "Array", "Array"]],
    classes: Sequence[str],
    ignored: Sequence[tuple["Array", "Array"]] | None = None,
) -> dict[str, float]:
    """Return map50 (IoU at least 0.5), map75 and map (mean of IoU 0.5, 0.55 ... 0.95), and each by class.

    truths: for each image its boxes [k, 4] (x1, y1, x2, y2 in pixels) and their labels [k].
    detections: for each image, in the same order, its boxes [k, 4], scores [k] and labels [k]. Arrays or CPU
    tensors. classes: the name of each label. ignored: for each image the boxes and labels of regions, such as
    crowds, inside which a detection counts neither way (COCO's iscrowd).

    Values lie in 0..1; those of a class are named `map50_by_class.NAME`. A class without a true box counts in no
    mean and is left out. With no true box at all there is nothing to find and no mean: nothing is returned.
    Raises DataError if lengths or labels do not fit.
    """
    if len(truths) != len(detections):
        raise DataError(f"{len(truths)} images with truths but {len(detections)} with detections")
    truth = [_records(image, boxes, None, labels, classes) for image, (boxes, labels) in enumerate(truths)]
    found = [_records(image, *detected, classes) for image, detected in enumerate(detections)]
    if not any(truth):
        return {}
    for image, (boxes, labels) in enumerate(ignored or ()):
        truth[image] += _records(image, boxes, None, labels, classes, iscrowd=1)
    precision = _precision(truth, found, len(classes))  # [IoU, recall, class]
    # -1 marks a class without a true box.
    present = np.flatnonzero((precision > -1).all((0, 1)))
    by_class = precision[:, :, present].mean(1)  # [IoU, class]
    kinds = dict(zip(KINDS, (by_class[0], by_class[5], by_class.mean(0)), strict=True))
    means = {kind: float(values.mean()) for kind, values in kinds.items()}
    return means | {
        f"{kind}_by_class.{classes[label]}": value
        for kind, values in kinds.items()
        for label, value in zip(present.tolist(), values.tolist(), strict=True)
    }


def _records(
    image: int, boxes: "Array", scores: "Array | None", labels: "Array", classes: Sequence[str], iscrowd: int = 0
) -> list[dict[str, Any]]:
    """Return the boxes of one image as COCO writes them; ids are given later."""
    corners, kinds = _boxes(boxes), np.asarray(labels).reshape(-1)
    values = np.ones(len(corners)) if scores is None else np.asarray(scores, np.float64).reshape(-1)
    if not len(corners) == len(kinds) == len(values):
        raise DataError(f"image {image} has {len(corners)} boxes, {len(kinds)} labels and {len(values)} scores")
    if len(kinds) and not (kinds.min() >= 0 and kinds.max() < len(classes)):
        raise DataError(f"image {image} has labels {sorted(set(kinds.tolist()))}; {len(classes)} classes are named")
    sides = corners[:, 2:] - corners[:, :2]
    extents = np.concatenate((corners[:, :2], sides), 1).tolist()
    rows = zip(extents, sides.prod(1).tolist(), values.tolist(), kinds.tolist(), strict=True)
    return [
        {"image_id": image, "category_id": int(kind), "bbox": box, "area": area, "iscrowd": iscrowd, "score": score}
        for box, area, score, kind in rows
    ]


def _precision(truth: list[list[dict[str, Any]]], found: list[list[dict[str, Any]]], classes: int) -> FloatArray:
    from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]

    frame = {"images": [{"id": image} for image in range(len(truth))], "categories": _categories(classes)}
    boxes = [COCO({**frame, "annotations": _numbered(part)}) for part in (truth, found)]
    evaluation = COCOeval_faster(*boxes, "bbox", print_function=_silent)
    # The reference also divides objects by their size in pixels; that is three more rounds of matching.
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [MOST_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: FloatArray = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    return precision


def _categories(classes: int) -> list[dict[str, Any]]:
    return [{"id": label, "name": str(label)} for label in range(classes)]


def _numbered(images: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    annotations = [record for image in images for record in image]
    for number, record in enumerate(annotations, 1):  # 0 would mean "not matched"
        record["id"] = number
    return annotations


def _silent(*_: object) -> None:
    """Take the place of print."""


def match_quality(
    pseudo: Sequence[tuple["Array", "Array"] | tuple["Array", "Array", "Array"]],
    truth: Sequence[tuple["Array", "Array"]],
    iou: float = 0.5,
    ignored: Sequence[tuple["Array", "Array"]] | None = None,
) -> MatchQuality:
    """Return precision and recall of pseudo-boxes, over all images.

    pseudo: for each image boxes [k, 4], labels [k] and, if known, scores [k] last; truth: boxes and labels.
    A pseudo-box is right if it overlaps a true box of its class, in its image, by at least `iou`. A true box
    counts once; best scores choose first (without scores, the first ones), each the true box it overlaps most.
    ignored: boxes and labels of regions, such as crowds: a pseudo-box that is not right and of which a share of at
    least `iou` lies in one of its class counts neither way, as in `coco_metrics`. The precision is NaN where no
    pseudo-box counts, the recall where there is no true box.

    Raises DataError if the numbers of images differ or iou is not in 0..1.
    """
    if len(pseudo) != len(truth):
        raise DataError(f"{len(pseudo)} images with pseudo-boxes but {len(truth)} with truths")
    if not 0 < iou <= 1:
        raise DataError(f"iou must lie in 0..1, above 0; got {iou}")
    right, given = 0, 0
    asides = [_NOTHING] * len(truth) if ignored is None else ignored
    for entry, true, aside in zip(pseudo, truth, asides, strict=True):
        boxes, labels = _labelled(entry)
        hits = _right(boxes, labels, entry[2] if len(entry) > 2 else None, true, iou)
        right += int(hits.sum())
        given += len(hits) - int((~hits & _inside(boxes, labels, aside, iou)).sum())
    wanted = sum(len(entry[0]) for entry in truth)
    return MatchQuality(right / given if given else math.nan, right / wanted if wanted else math.nan)


def _labelled(entry: Sequence["Array"]) -> tuple[FloatArray, NDArray[Any]]:
    return _boxes(entry[0]), np.asarray(entry[1]).reshape(-1)


def _right(
    boxes: FloatArray, labels: NDArray[Any], scores: "Array | None", truth: Sequence["Array"], iou: float
) -> BoolArray:
    """Say of each pseudo-box of an image, [k], whether it is right."""
    true, kinds = _labelled(truth)
    right: BoolArray = np.zeros(len(boxes), bool)
    if not len(boxes) or not len(true):
        return right
    overlaps = np.where(labels[:, None] == kinds, overlap(boxes, true), 0)
    order = range(len(boxes))
    if scores is not None:
        order = np.argsort(-np.asarray(scores, np.float64).reshape(-1), kind="stable").tolist()
    for row in order:
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= iou:
            right[row] = True
            overlaps[:, best] = 0
    return right


def _inside(boxes: FloatArray, labels: NDArray[Any], regions: Sequence["Array"], share: float) -> BoolArray:
    """Say of each pseudo-box of an image, [k], whether such a share of it lies in one region of its class."""
    places, kinds = _labelled(regions)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
    within = (_common(boxes, places) >= share * areas) & (labels[:, None] == kinds)
    found: BoolArray = within.any(1)
    return found


def _common(boxes: FloatArray, others: FloatArray) -> FloatArray:
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    areas: FloatArray = (high - low).clip(0).prod(2)
    return areas


def overlap(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Return the intersection over union of boxes [n, 4] and others [m, 4]: [n, m]; 0 where both are empty."""
    common = _common(boxes, others)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] + (others[:, 2:] - others[:, :2]).prod(1) - common
    shares: FloatArray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


def _boxes(values: "Array") -> FloatArray:
    corners = np.asarray(values, np.float64)
    if corners.size == 0:
        return np.empty((0, 4))
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise DataError(f"boxes must be [k, 4] (x1, y1, x2, y2), got {corners.shape}")
    return corners
