"""FedAvg or FedProx with FixMatch at the clients (Sohn et al. 2020, arXiv 2001.07685).

Every step has a batch of labelled samples and one of unlabelled samples u. The student itself scores a weak view of u,
and where its best class reaches the threshold, that class is the label of a strong view:

    loss = CE(labelled) + weight * 1/b sum over u of  1[max p(weak(u)) >= threshold] CE(s(strong(u)), argmax p(weak(u)))

A round passes over the unlabelled samples as `train` says; the labelled ones come round as often as that takes.
Without unlabelled samples it is FedAvg's client; without labelled ones the first term is left out.
"""

from collections.abc import Iterator
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from .contract import Batch, ClientHalf, Plugin, ServerHalf, Settings, Site, Update
from .optim import proximal
from .pseudo import LabelQuality, class_samples, pair_of_views


class FixMatchSettings(Settings):
    """Settings of fixmatch, and the base of those of uda."""

    threshold: float = Field(0.95, ge=0, le=1, description="score from which the best class is a label")
    weight: float = Field(1.0, ge=0, description="weight of the loss on unlabelled samples")
    ratio: int = Field(1, ge=1, description="unlabelled samples to each labelled one in a step (paper: 7)")
    labelling: Literal["eval", "train"] = Field("eval", description="mode of the network while it labels")
    mu: float = Field(0.0, ge=0, description="FedProx: weight of the proximal term; 0 is FedAvg")


S = TypeVar("S", bound=FixMatchSettings)


class FixMatchClient(ClientHalf[S], Generic[S]):
    """Trains on both kinds of samples in every step."""

    strategy: ClassVar[str] = "fixmatch"
    needs = "classes"
    wants_unlabelled = True

    def train(self, site: Site) -> Update:
        """Train; give back the weights, by the number of all its samples."""
        settings, samples = self.settings, class_samples(site.unlabelled, self.strategy)
        pull = proximal(site.flat, settings.mu)
        if len(samples) == 0:
            fit = site.fit(lambda batch: self.loss(site, batch), adjust=pull)
            return Update(site.weights(), fit.examples, fit.metrics)
        size = site.train_config.batch_size * settings.ratio
        known = self._known(site, site.steps(len(samples), batch_size=size))
        quality = LabelQuality(samples.truth)

        def loss(batch: Batch) -> Tensor:
            return next(known) + settings.weight * self.unknown(site, batch.index, quality)

        fit = site.fit(loss, samples=samples, view="none", batch_size=size, adjust=pull)
        return Update(site.weights(), len(site.labelled) + fit.examples, {**fit.metrics, **quality.metrics()})

    def _known(self, site: Site, steps: int) -> Iterator[Tensor]:
        """Give the loss of a labelled batch for each step; 0 without labelled samples."""
        if len(site.labelled) == 0:
            for _ in range(steps):
                yield torch.zeros((), device=site.device)
            return
        for batch in site.batches(site.labelled, steps=steps):
            yield self.loss(site, batch)

    def unknown(self, site: Site, index: Tensor, quality: LabelQuality) -> Tensor:
        """Give the loss of the unlabelled samples at `index` [b], a scalar."""
        weak, strong = pair_of_views(site, site.unlabelled, index)
        site.model.train(self.settings.labelling == "train")
        with torch.no_grad():
            scores = site.model(weak)
        site.model.train()
        top, labels = scores.softmax(1).max(1)
        accepted = top >= self.settings.threshold
        quality.add(index, labels, accepted)
        each: Tensor = self.apart(site.model(strong), scores, labels) * accepted
        return each.mean()

    def apart(self, strong: Tensor, weak: Tensor, labels: Tensor) -> Tensor:
        """Give each sample's loss [b] from the scores (logits) [b, c] of its views and its pseudo-label [b]."""
        return functional.cross_entropy(strong, labels, reduction="none")


plugin = Plugin(FixMatchSettings, FixMatchClient, ServerHalf, "FedAvg or FedProx, FixMatch at the clients (Sohn 2020)")
