"""SemiFL: labels at the server, alternating with clients that have none (Diao et al., NeurIPS 2022, arXiv 2106.01432).

A client scores its unlabelled samples once, by the global model on receipt. Those whose best class reaches `threshold`
are its fixed set; without any it counts for nothing. Each step then takes a batch (x, y) of the fixed set and a batch
(u, v) drawn with replacement from all its samples, v the best class whatever its score, and

    loss = CE(s(strong(x)), y) + mix * [ l CE(s(z), y) + (1 - l) CE(s(z), v) ],   z = l weak(x) + (1 - l) weak(u),

with l from Beta(alpha, alpha). After the average the server trains on its labels (the alternation), and estimates the
statistics of BatchNorm on them (static normalisation); what the clients' statistics were does not matter.

The authors' average counts every client once (`average: clients`); by default a client counts by its fixed set, as in
FedAvg by its samples. Their code also gives the server's step a momentum, and clips gradients at a norm of 1
(`train.clip_norm`).

For an experiment with labels at the clients, a simulation lends the server all of them (`labels: clients`). They rest
there. That has to be asked for: nobody else in a comparison sees everybody's labels in one place.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from .contract import (
    Batch,
    ClientHalf,
    ExactSum,
    Metrics,
    Plugin,
    Samples,
    ServerHalf,
    Settings,
    Site,
    UnsuitableError,
    Update,
)
from .pseudo import LabelQuality, class_samples, scores_of
from .statistics import estimate


class SemiFLSettings(Settings):
    """Settings of SemiFL; the defaults are the paper's, but for `average`."""

    threshold: float = Field(0.95, ge=0, le=1, description="score from which the best class is a label")
    mix: float = Field(1.0, ge=0, description="weight of the mixed loss")
    alpha: float = Field(0.75, gt=0, description="mixup: both parameters of the Beta distribution")
    epochs: int | None = Field(None, ge=1, description="the server's passes over its labels a round; null: as `train`")
    average: Literal["samples", "clients"] = Field(
        "samples", description="clients: each of them counts once (the authors' code), not by its fixed set's samples"
    )
    labels: Literal["server", "clients"] = Field(
        "server", description="whose labels the server has: its own, or those of all clients (simulation)"
    )


class SemiFLClient(ClientHalf[SemiFLSettings]):
    """Labels once, then trains on the fixed and the mixed set."""

    needs = "classes"
    wants_unlabelled = True

    def train(self, site: Site) -> Update:
        """Train on pseudo-labels; give back the weights, by the number of samples in the fixed set."""
        samples = class_samples(site.unlabelled, "semifl")
        top, labels = scores_of(site, samples).softmax(1).max(1)
        accepted = top >= self.settings.threshold
        quality = LabelQuality(samples.truth)
        quality.add(torch.arange(len(samples), device=site.device), labels, accepted)
        fixed = accepted.nonzero()[:, 0]
        if len(fixed) == 0:
            return Update(site.weights(), 0, quality.metrics())
        rng = np.random.default_rng(site.derive("mixup"))
        part = samples.take(fixed)

        def loss(batch: Batch) -> Tensor:
            index = fixed[batch.index]
            share = float(rng.beta(self.settings.alpha, self.settings.alpha))
            partners = torch.from_numpy(rng.integers(len(samples), size=len(index))).to(site.device)
            return self._fixed_and_mixed(site, samples, (index, partners), labels, share)

        fit = site.fit(loss, samples=part, view="none")
        return Update(site.weights(), len(fixed), {**fit.metrics, **quality.metrics()})

    def _fixed_and_mixed(
        self, site: Site, samples: Samples, index: tuple[Tensor, Tensor], labels: Tensor, share: float
    ) -> Tensor:
        """Give the loss of a batch: places [b] of the fixed samples and of their partners, all labels, the share l."""
        views = site.views(samples)
        strong = samples.viewed(index[0], views.strong, site.generator)
        loss = functional.cross_entropy(site.model(strong.x), labels[index[0]])
        if self.settings.mix:
            mine, other = (samples.viewed(places, views.weak, site.generator).x for places in index)
            scores = site.model(mine.mul_(share).add_(other, alpha=1 - share))
            parts = [functional.cross_entropy(scores, labels[places]) for places in index]
            loss = loss + self.settings.mix * (share * parts[0] + (1 - share) * parts[1])
        return loss


class SemiFLServer(ServerHalf[SemiFLSettings]):
    """Averages, then trains on the labels. Raises UnsuitableError when there are none."""

    def __init__(self, settings: SemiFLSettings, site: Site) -> None:
        super().__init__(settings, site)
        if len(self._labelled(site)) > 0:
            return
        if settings.labels == "clients":
            raise UnsuitableError("semifl: nobody holds a labelled sample; set data.server or data.labels.share")
        raise UnsuitableError(
            "semifl: the server holds no labelled samples; set data.server.share, data.server.count or "
            "data.server.value, or settings.semifl.labels=clients, which lends it those of all clients"
        )

    def add(self, total: ExactSum, client: str, update: Update) -> None:
        """Add an update by the samples of its fixed set, or once."""
        if update.examples > 0:
            total.add(update.weights, update.examples if self.settings.average == "samples" else 1)

    def refine(self, site: Site) -> Metrics:
        """Train on the labels and estimate the statistics on them."""
        labelled = self._labelled(site)
        site.load(self.weights)
        fit = site.fit(samples=labelled, epochs=self.settings.epochs)
        estimate(site.model, [labelled], site.batch_size)
        self.weights = site.weights()
        return {f"server_{name}": value for name, value in fit.metrics.items()}

    def _labelled(self, site: Site) -> Samples:
        return site.labelled if self.settings.labels == "server" else site.pooled_labelled


plugin = Plugin(
    SemiFLSettings, SemiFLClient, SemiFLServer, "labels at the server, clients train on labels made once (Diao 2022)"
)
