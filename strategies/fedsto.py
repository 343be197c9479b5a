"""FedSTO: semi-supervised federated object detection, labels only at the server (Kim et al., NeurIPS 2023, 2310.17097).

Rounds 1 to `warmup`: the server trains alone on its labels. The next `selective` rounds (phase 1, section 4.2): clients
train the backbone on pseudo-labels, neck and head frozen, and only the backbone travels back. All later rounds (phase
2, section 4.3): all parameters, with spectral orthogonality on the non-backbone weights. Every round goes clients,
aggregate, supervised update of ALL parameters at the server, broadcast.

A client's labeller is a moving average of its own model, W_ema <- a W_ema + (1 - a) W, begun anew from the global model
at every broadcast. Pseudo-labels follow Efficient Teacher's assigner: above `high` like a label, between `low` and
`high` a soft target of objectness, below background.

Unstated in the paper and chosen here: the coefficient of the orthogonality term (1e-4) and a decay that fits short
rounds (`ema: null`). Settings beside the paper's: who labels, what the server updates, what becomes of its
normalisation statistics. `docs/methods/fedsto.md` tells which of them make it collapse.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..data.box_views import Targets
from ..models import FlatModel
from ..models.detection_loss import pseudo_loss
from ..models.detections import Detections
from .box_samples import BoxSamples
from .contract import Arrays, Ask, Batch, ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site, Update
from .orthogonal import orthogonality
from .pseudo_boxes import Quality
from .server_only import server_steps

_SELECTIVE = ("backbone",)
_TEACHER = "teacher/"


class FedSTOSettings(Settings):
    """Settings of FedSTO; the defaults are the paper's where it has one, with fewer rounds."""

    warmup: int = Field(5, ge=0, description="rounds in which the server trains alone (paper: 50)")
    warmup_epochs: int | None = Field(
        None, ge=1, description="passes over the server's images in a warm-up round; null: as server-only"
    )
    selective: int = Field(5, ge=0, description="rounds of phase 1, backbone only (paper: 100); 0 leaves it out")
    low: float = Field(0.1, ge=0, le=1, description="score below which a detection is background")
    high: float = Field(0.6, ge=0, le=1, description="score from which a detection counts as a label")
    iou: float = Field(0.65, gt=0, le=1, description="IoU of non-maximum suppression at the teacher")
    ema: float | None = Field(
        None, ge=0, lt=1, description="decay of the teacher (paper: 0.999); null: half of it is new after a round"
    )
    labeller: Literal["local", "global", "persistent"] = Field(
        "local", description="teacher: local average, the broadcast model itself, or an average kept over rounds"
    )
    orthogonality: float = Field(1e-4, ge=0, description="coefficient of the spectral term in phase 2")
    server_update: Literal["all", "backbone"] = Field(
        "all", description="what the server trains in phase 1; backbone collapses"
    )
    server_statistics: Literal["train", "frozen"] = Field(
        "frozen", description="running statistics of BatchNorm in the server's update after the warm-up"
    )


class FedSTOClient(ClientHalf[FedSTOSettings]):
    """Trains a detector on the pseudo-labels of its own moving average."""

    def train(self, site: Site) -> Update:
        """Train on unlabelled images; give back the backbone in phase 1 and everything in phase 2."""
        samples = site.unlabelled
        if not isinstance(samples, BoxSamples):
            raise TypeError("fedsto needs images with boxes, such as data.dataset=scenes")
        parts = _SELECTIVE if site.phase == "selective" else None
        teacher = self._teacher(site)
        seen = Quality()

        def loss(batch: Batch) -> Tensor:
            total = self._pseudo_loss(site, samples, teacher, batch, seen)
            return total + spectral_term(site, self.settings.orthogonality) if site.phase == "full" else total

        decay = self._decay(site, len(samples))

        def follow() -> None:
            if self.settings.labeller != "global":
                teacher.flat.lerp_(site.flat.flat, 1 - decay)
                _take_buffers(teacher, site.flat)

        fit = site.fit(loss, samples=samples, parts=parts, after_step=follow)
        if self.settings.labeller == "persistent":
            site.state = {_TEACHER + name: value for name, value in teacher.state(site.names).items()}
        return Update(site.weights(parts), fit.examples, {**fit.metrics, **seen.metrics()})

    def _teacher(self, site: Site) -> FlatModel:
        teacher = site.spare
        teacher.load(site.flat.state([*site.flat.module.state_dict()]))
        kept = {name.removeprefix(_TEACHER): value for name, value in site.state.items()}
        if self.settings.labeller == "persistent" and kept:
            teacher.load(kept)
        return teacher

    def _decay(self, site: Site, count: int) -> float:
        if self.settings.ema is not None:
            return self.settings.ema
        config = site.train_config
        steps = config.steps or config.epochs * math.ceil(max(count, 1) / config.batch_size)
        return float(0.5 ** (1 / max(steps, 1)))

    def _pseudo_loss(self, site: Site, samples: BoxSamples, teacher: FlatModel, batch: Batch, seen: Quality) -> Tensor:
        views, settings = site.views(samples), self.settings
        truth = Targets.of([samples.truths[number] for number in batch.index.tolist()])
        weak = views.weak(samples.images(batch.index), truth, site.generator)
        found: list[Detections] = teacher.module.detect(  # type: ignore[operator]
            samples.normalize(weak.images), settings.low, settings.iou
        )
        seen.add(found, weak.targets, settings.high)
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
        predictions = site.model(samples.normalize(strong.images))
        return pseudo_loss(predictions, pseudo, settings.low, settings.high).total


class FedSTOServer(ServerHalf[FedSTOSettings]):
    """Averages what came back, then trains on the server's labels."""

    def __init__(self, settings: FedSTOSettings, site: Site) -> None:
        super().__init__(settings, site)
        self._backbone = set(site.weights(_SELECTIVE))
        self._phase = "warm-up"

    def phase(self, round_: int) -> str:
        """Give the phase of a round: warm-up, selective or full."""
        if round_ <= self.settings.warmup:
            return "warm-up"
        return "selective" if round_ <= self.settings.warmup + self.settings.selective else "full"

    def ask(self, round_: int) -> Ask | None:
        """Ask for training in the round's phase; nothing while the server warms up."""
        self._phase = self.phase(round_)
        return None if self._phase == "warm-up" else Ask(self.weights, self._phase)

    def expects(self) -> Arrays:
        """Expect the backbone in phase 1, everything else later."""
        if self._phase != "selective":
            return self.weights
        return {name: value for name, value in self.weights.items() if name in self._backbone}

    def refine(self, site: Site) -> Metrics:
        """Train on the server's labels. Raises ValueError when it has none."""
        settings = self.settings
        if len(site.labelled) == 0:
            raise ValueError("fedsto: the server holds no labelled images; set data.server.value or .share")
        site.load(self.weights)
        only_backbone = self._phase == "selective" and settings.server_update == "backbone"

        def loss(batch: Batch) -> Tensor:
            total = site.labelled.loss(site.model, batch)
            return total + spectral_term(site, settings.orthogonality) if self._phase == "full" else total

        alone = self._phase == "warm-up"
        fit = site.fit(
            loss,
            epochs=settings.warmup_epochs if alone else None,
            steps=server_steps(site, settings.warmup_epochs) if alone else None,
            parts=_SELECTIVE if only_backbone else None,
            freeze_statistics=settings.server_statistics == "frozen" and not alone,
        )
        self.weights = site.weights()
        return {f"server_{name}": value for name, value in fit.metrics.items()}


def spectral_term(site: Site, coefficient: float) -> Tensor:
    """Give the orthogonality term over the weights that are not the backbone's."""
    if coefficient == 0:
        return torch.zeros((), device=site.device)
    rest = [value for name, value in site.model.named_parameters() if not name.startswith("backbone.")]
    return coefficient * orthogonality(rest, site.generator)


def _take_buffers(teacher: FlatModel, student: FlatModel) -> None:
    """Give the teacher the student's running statistics: they are averages already."""
    theirs = dict(student.module.named_buffers())
    for name, value in teacher.module.named_buffers():
        value.copy_(theirs[name])


plugin = Plugin(
    FedSTOSettings, FedSTOClient, FedSTOServer, "semi-supervised detection, labels at the server (Kim 2023)"
)
