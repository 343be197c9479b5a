"""Pseudo-labels with boxes: how good they are, where the truth is known."""

from torch import Tensor

from ..data.box_views import Targets
from ..data.coco_map import match_quality
from ..models.detections import Detections
from .samples import Metrics


class Quality:
    """Counts how many pseudo-labels of a round are right, where the truth is known; for the records alone."""

    def __init__(self) -> None:
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._truth: list[tuple[Tensor, Tensor]] = []

    def add(self, found: list[Detections], truth: Targets, high: float) -> None:
        """Take note of the detections that count as labels, and of the true boxes of the same view."""
        for number, each in enumerate(found):
            kept = each.scores >= high
            self._found.append((each.boxes[kept].cpu(), each.labels[kept].cpu(), each.scores[kept].cpu()))
            part = truth.image(number)
            self._truth.append((part.boxes.cpu(), part.labels.cpu()))

    def metrics(self) -> Metrics:
        """Give precision and recall at IoU 0.5, and the pseudo-labels an image."""
        if not self._found:
            return {}
        precision, recall = match_quality(self._found, self._truth)
        count = sum(len(boxes) for boxes, _, _ in self._found) / len(self._found)
        return {"pseudo_precision": precision, "pseudo_recall": recall, "pseudo_per_image": count}
