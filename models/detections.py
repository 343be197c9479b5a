"""What every object detector speaks: its raw predictions, its detections, its losses, and what it can be asked.

A detector of any make is an `nn.Module` with the parts `backbone`, `neck` and `head` that satisfies `ObjectDetector`.
Strategies know nothing else of it, so the compact detector and an adapter to another library can be exchanged.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import ModelError

Target = tuple[Tensor, Tensor]  # the boxes [m, 4] (xyxy, pixels) and labels [m] (int64) of one image


class Predictions(NamedTuple):
    """What the detector tells of b images at p points.

    classes: logits [b, p, classes]; objectness: logits [b, p]; boxes: [b, p, 4] xyxy in pixels, not clipped;
    points: [p, 2] centres of the cells in pixels; strides: [p] sides of the cells in pixels.
    """

    classes: Tensor
    objectness: Tensor
    boxes: Tensor
    points: Tensor
    strides: Tensor


class Detections(NamedTuple):
    """The objects found in one image, best first; also the pseudo-labels that a teacher gives to a student.

    boxes: [n, 4] xyxy in pixels; scores: [n], objectness x probability of the class, within 0 and 1;
    labels: [n] int64; objectness: [n] within 0 and 1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    objectness: Tensor


class Losses(NamedTuple):
    """Scalars: `total`, the weighted sum to train on, and its terms before weighting.

    box: of the places of boxes; objectness: of whether there is an object at all; cls: of its class. What each is
    exactly, the detector's module says; a detector without objectness has 0 there.
    """

    total: Tensor
    box: Tensor
    objectness: Tensor
    cls: Tensor


@runtime_checkable
class ObjectDetector(Protocol):
    """What strategies ask of a detector; it maps images [b, channels, h, w] to raw predictions of its own type."""

    def loss(self, predictions: Any, targets: Sequence[Target]) -> Losses:
        """Return the losses against labels, boxes in any number for each of the b images."""

    def pseudo_loss(
        self, predictions: Any, pseudo: Sequence[Detections], low: float, high: float, *, boxes: bool = True
    ) -> Losses:
        """Return the losses against a teacher's detections: labels from score `high` on, none below `low`.

        Between the two a detection says only how likely an object is there, not where exactly and of which class.
        Without `boxes` no box term is part of the total.
        """

    def detect(self, x: Tensor, confidence: float, iou: float = 0.65, most: int = 100) -> list[Detections]:
        """Return the objects found in each image, best first, boxes in pixels and clipped to the image.

        Runs without gradients in evaluation mode, and leaves the modes of all modules as they were.
        """


def check_targets(targets: Sequence[Target], images: int, classes: int) -> None:
    """Raise ModelError unless there is a target of the right shapes, types and labels for each image."""
    if len(targets) != images:
        raise ModelError(f"there are targets for {len(targets)} images; the predictions are for {images}.")
    for index, (boxes, labels) in enumerate(targets):
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise ModelError(
                f"the boxes of image {index} are {boxes.dtype} {list(boxes.shape)}; wanted floating-point [m, 4]."
            )
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise ModelError(
                f"the labels of image {index} are {labels.dtype} {list(labels.shape)}; wanted int64 [{len(boxes)}]."
            )
    every = torch.cat([labels for _, labels in targets])
    if len(every) and not 0 <= int(every.min()) <= int(every.max()) < classes:
        raise ModelError(
            f"labels go from {int(every.min())} to {int(every.max())}; the detector has the classes 0 to {classes - 1}."
        )


def check_pseudo(pseudo: Sequence[Detections], low: float, high: float, images: int, classes: int) -> None:
    """Raise ModelError unless 0 <= low <= high, and the detections are targets with scores and objectness."""
    if not 0 <= low <= high:
        raise ModelError(
            f"pseudo-label thresholds are {low!r} and {high!r}; wanted 0 <= low <= high, such as 0.1, 0.6."
        )
    check_targets([(each.boxes, each.labels) for each in pseudo], images, classes)
    for index, each in enumerate(pseudo):
        if not each.scores.shape == each.objectness.shape == each.labels.shape:
            raise ModelError(
                f"image {index} has scores {list(each.scores.shape)} and objectness {list(each.objectness.shape)} for "
                f"{len(each.labels)} boxes; wanted one of each for every box."
            )
