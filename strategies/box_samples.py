"""Images with boxes as a strategy sees them: the detection task's loss and its measure, COCO's average precision."""

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.box_views import Targets
from ..data.boxes_data import BoxData
from ..data.coco_map import KINDS, coco_metrics
from ..models.detections import ObjectDetector, Target
from .samples import Batch, Metrics, Samples

# A detection needs a score above this to be counted; low, since average precision ranks all of them.
_CONFIDENCE = 0.01


class BoxSamples(Samples):
    """Images with any number of boxes each.

    `targets` holds (boxes [k, 4] in pixels, labels int64 [k]) for each image; empty for unlabelled images, whose true
    boxes stand in `truths` for diagnostics only, and are known where `annotated` is true. `domains` names the domain of
    each image where one is known. What is found in `ignored`, boxes and labels of each image, counts neither way.
    """

    def __init__(
        self,
        data: BoxData,
        *,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        labelled: bool = True,
        domains: Sequence[str] | None = None,
    ) -> None:
        super().__init__(data.images, data.labels, mean=mean, std=std, device=device, labelled=labelled)
        self.classes, self.domains = tuple(classes), domains
        self.annotated = [True] * len(data) if data.annotated is None else data.annotated.tolist()
        self.truths = _by_image(data.boxes, data.box_labels, data.offsets, device)
        nothing = (torch.zeros(0, 4, device=device), torch.zeros(0, dtype=torch.int64, device=device))
        self.targets = self.truths if labelled else [nothing] * len(data)
        self.ignored = [nothing] * len(data)
        if data.ignored is not None:
            self.ignored = _by_image(data.ignored.boxes, data.ignored.labels, data.ignored.offsets, device)

    def batch(self, index: Tensor) -> Batch:
        """Give the images at `index` with their boxes, without a view."""
        return Batch(self.x(index), [self.targets[number] for number in index.tolist()], index)

    def viewed(self, index: Tensor, view: Callable[..., Any], generator: torch.Generator) -> Batch:
        """Give the images at `index` through a view that moves their boxes along (`BoxViews.weak` or `.strong`)."""
        targets = Targets.of([self.targets[number] for number in index.tolist()])
        seen = view(self.images(index), targets, generator)
        parts = [seen.targets.image(number) for number in range(len(index))]
        return Batch(self.normalize(seen.images), [(part.boxes, part.labels) for part in parts], index)

    def take(self, index: Tensor) -> Self:
        """Give the images at `index`, int64 [m], in that order, with their boxes."""
        part, places = super().take(index), index.tolist()
        part.truths, part.targets = [self.truths[i] for i in places], [self.targets[i] for i in places]
        part.annotated, part.ignored = [self.annotated[i] for i in places], [self.ignored[i] for i in places]
        part.domains = None if self.domains is None else [self.domains[i] for i in places]
        return part

    @staticmethod
    def views(flip: bool, strength: float) -> Any:
        """Give the views that move boxes along; `strength` is that of the strong view's colours."""
        from ..data.box_views import BoxViews

        return BoxViews(flip=flip, colour=strength)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give the supervised loss: CIoU of boxes, cross-entropy of classes and objectness (FedSTO, section 4)."""
        return cast(ObjectDetector, model).loss(model(batch.x), batch.y).total

    @torch.no_grad()
    def difficulty(self, model: nn.Module, batch_size: int, measure: str = "loss") -> Tensor:
        """Give each image's loss, float32 [n], one image at a time: the loss of a batch is a mean over its boxes.

        Raises ValueError for the measure `error`: a detection is not simply right or wrong.
        """
        if measure != "loss":
            raise ValueError(f"clients.order.measure={measure} needs one class an image; images with boxes have: loss")
        places = torch.split(torch.arange(len(self), device=self.truth.device), 1)
        return torch.stack([self.loss(model, self.batch(place)).float() for place in places])

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch_size: int) -> Metrics:
        """Give map50, map75 and map, and each by domain (`map50_by_domain.NAME`) and class (`map50_by_class.NAME`).

        Images, a domain's or all, in which there is no object have no average precision: its names are left out.
        """
        found = []
        for index in torch.split(torch.arange(len(self)), batch_size):
            found += model.detect(self.x(index.to(self.truth.device)), confidence=_CONFIDENCE)  # type: ignore[operator]
        detections = [tuple(part.cpu() for part in (each.boxes, each.scores, each.labels)) for each in found]
        truths = [(boxes.cpu(), labels.cpu()) for boxes, labels in self.truths]
        ignored = [(boxes.cpu(), labels.cpu()) for boxes, labels in self.ignored]
        metrics: Metrics = {**coco_metrics(truths, detections, self.classes, ignored)}
        for domain in sorted(set(self.domains or ())):
            rows = [number for number, name in enumerate(self.domains or ()) if name == domain]
            truth, detected, aside = ([each[row] for row in rows] for each in (truths, detections, ignored))
            part = coco_metrics(truth, detected, self.classes, aside)
            metrics |= {f"{kind}_by_domain.{domain}": part[kind] for kind in KINDS if kind in part}
        return metrics


def _by_image(boxes: NDArray[Any], labels: NDArray[Any], offsets: NDArray[Any], device: torch.device) -> list[Target]:
    """Give (boxes [k, 4], labels [k]) of each image as tensors, from all boxes and labels and the images' offsets."""
    counts = np.diff(offsets).tolist()
    parts = (torch.split(torch.from_numpy(part.copy()).to(device), counts) for part in (boxes, labels))
    return list(zip(*parts, strict=True))
