"""Learning from unlabelled images with boxes: a teacher labels the weak view, its student learns the strong view.

The teacher is a second model that follows the student, W_teacher <- a W_teacher + (1 - a) W after every step; boxes
move along from the weak view into the strong one, mosaic included. What a pseudo-label counts for follows Efficient
Teacher (Xu et al. 2023): from score `high` on it is a label, between `low` and `high` only a soft target of objectness,
below `low` background.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..data.box_views import Targets
from ..data.coco_map import match_quality
from ..models import FlatModel
from ..models.detections import Detections, ObjectDetector
from .box_samples import BoxSamples
from .contract import Arrays, Batch, Metrics, Samples, Settings, Site, UnsuitableError
from .statistics import estimate


class TeacherSettings(Settings):
    """What makes a pseudo-label, and how the teacher follows its student."""

    low: float = Field(0.1, ge=0, le=1, description="score below which a detection is background")
    high: float = Field(0.6, ge=0, le=1, description="score from which a detection counts as a label")
    iou: float = Field(0.65, gt=0, le=1, description="IoU of non-maximum suppression at the teacher")
    ema: float | None = Field(
        0.999, ge=0, lt=1, description="decay of the teacher, a step; null: half of it is new after a round"
    )
    statistics: Literal["views", "images"] = Field(
        "images", description="running statistics of BatchNorm: those of the client's images, or of the strong views"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low, {self.low}, is above high, {self.high}; wanted: low <= high")
        return self


class BoxTeacher:
    """Labels the images of one visit for the model of `site`, which it follows unless `still`.

    It begins as a copy of that model, or of `kept` (arrays by name), and lives in the site's spare model. `steps` are
    those that the student will take: where `ema` is null, the decay is 0.5 ** (1 / steps). Without `boxes` its
    labels teach what is there, but not where its box lies. Statistics of images are those of `samples` and `others`.
    """

    def __init__(
        self,
        site: Site,
        samples: BoxSamples,
        settings: TeacherSettings,
        *,
        steps: int,
        still: bool = False,
        kept: Arrays | None = None,
        boxes: bool = True,
        others: Sequence[Samples] = (),
    ) -> None:
        self.site, self.samples, self.settings, self.still = site, samples, settings, still
        self.boxes, self._parts = boxes, [samples, *others]
        self.decay = settings.ema if settings.ema is not None else 0.5 ** (1 / max(steps, 1))
        self.quality = Quality()
        self.flat: FlatModel = site.spare
        self.flat.load(site.flat.state([*site.flat.module.state_dict()]))
        self.flat.load(kept or {})
        self._of_images = settings.statistics == "images" and not still
        if self._of_images:
            estimate(self.flat.module, self._parts, site.batch_size)

    def follow(self) -> None:
        """Take in the student after a step.

        Running statistics are averages already: the teacher gets the student's, or keeps those of the images.
        """
        if self.still:
            return
        self.flat.flat.lerp_(self.site.flat.flat, 1 - self.decay)
        if self._of_images:
            return
        theirs = dict(self.site.model.named_buffers())
        for name, value in self.flat.module.named_buffers():
            value.copy_(theirs[name])

    def settle(self, flat: FlatModel) -> None:
        """Give a model that is to be used, student or teacher, the statistics of the images if the settings say so."""
        if self.settings.statistics == "images":
            estimate(flat.module, self._parts, self.site.batch_size)

    def loss(self, batch: Batch) -> Tensor:
        """Give the student's loss on the pseudo-labels of the batch's images, a scalar."""
        images, pseudo = self.labelled(batch)
        return self.loss_of(self.site.model(images), pseudo)

    def loss_of(self, predictions: Any, pseudo: list[Detections]) -> Tensor:
        """Give the loss of the student's predictions against pseudo-labels, a scalar."""
        student, settings = cast(ObjectDetector, self.site.model), self.settings
        return student.pseudo_loss(predictions, pseudo, settings.low, settings.high, boxes=self.boxes).total

    def detect(self, images: Tensor) -> list[Detections]:
        """Give what the teacher finds in normalised images [b, c, h, w], scores from `low` on."""
        return cast(ObjectDetector, self.flat.module).detect(images, self.settings.low, self.settings.iou)

    def reliable(self, found: list[Detections]) -> list[tuple[Tensor, Tensor]]:
        """Give the boxes [k, 4] and labels [k] of each image that count as labels."""
        return [(each.boxes[kept], each.labels[kept]) for each in found for kept in [each.scores >= self.settings.high]]

    def labelled(self, batch: Batch) -> tuple[Tensor, list[Detections]]:
        """Give strong views of the batch's images, normalised, and the pseudo-labels in them."""
        site, samples = self.site, self.samples
        views = site.views(samples)
        rows = batch.index.tolist()
        truth = Targets.of([samples.truths[row] for row in rows])
        weak = views.weak(samples.images(batch.index), truth, site.generator)
        found = self.detect(samples.normalize(weak.images))
        known, aside = [samples.annotated[row] for row in rows], Targets.of([samples.ignored[row] for row in rows])
        self.quality.add(found, weak.targets, weak.geometry.apply(aside), self.settings.high, known)
        whole = Detections(*(torch.cat([each[field] for each in found]) for field in range(4)))
        # The places of the detections ride as labels, so that the rest can be found again after boxes were lost.
        counts = torch.tensor([len(each.boxes) for each in found], device=site.device)
        owners = torch.arange(len(found), device=site.device).repeat_interleave(counts)
        places = torch.arange(len(whole.boxes), device=site.device)
        strong = views.strong(weak.images, Targets(whole.boxes, places, owners), site.generator)
        pseudo = []
        for number in range(len(found)):
            part = strong.targets.image(number)
            pseudo.append(Detections(part.boxes, *(value[part.labels] for value in whole[1:])))
        return samples.normalize(strong.images), pseudo


def box_samples(samples: object, strategy: str) -> BoxSamples:
    """Give the samples as images with boxes. Raises UnsuitableError for others."""
    if not isinstance(samples, BoxSamples):
        raise UnsuitableError(f"{strategy} needs images with boxes, such as data.dataset=scenes")
    return samples


class Quality:
    """Counts the pseudo-labels of a round, and how many are right where the truth is known; for the records alone."""

    def __init__(self) -> None:
        self._images = self._labels = 0
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._truth: list[tuple[Tensor, Tensor]] = []
        self._ignored: list[tuple[Tensor, Tensor]] = []

    def add(
        self, found: list[Detections], truth: Targets, ignored: Targets, high: float, known: Sequence[bool]
    ) -> None:
        """Take note of the detections that count as labels, and of what is true in the same view, where it is known.

        What is found in `ignored`, such as crowds, counts neither way.
        """
        for number, each in enumerate(found):
            kept = each.scores >= high
            self._images, self._labels = self._images + 1, self._labels + int(kept.sum())
            if known[number]:
                self._found.append((each.boxes[kept].cpu(), each.labels[kept].cpu(), each.scores[kept].cpu()))
                for told, targets in ((self._truth, truth), (self._ignored, ignored)):
                    part = targets.image(number)
                    told.append((part.boxes.cpu(), part.labels.cpu()))

    def metrics(self) -> Metrics:
        """Give the pseudo-labels an image and, where the truth of any is known, precision and recall at IoU 0.5.

        Without a pseudo-label that counts there is no precision, without a true box no recall: a client that has none
        would lift the mean of all.
        """
        quality = match_quality(self._found, self._truth, ignored=self._ignored)
        told = {"pseudo_precision": quality.precision, "pseudo_recall": quality.recall}
        metrics = {name: value for name, value in told.items() if not math.isnan(value)}
        if self._images:
            metrics["pseudo_per_image"] = self._labels / self._images
        return metrics
