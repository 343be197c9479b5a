"""FedLabel: the local or the global model labels, whichever is surer (Cho et al., ICCV 2023, arXiv 2307.08809).

A client that receives w

1. trains on its labelled samples from w to w_L;
2. scores its unlabelled samples x by both, s_g = s(w, x) and s_l = s(w_L, x); s* is the one of larger confidence h
   (variance over the classes), s- the other. The label is argmax s*, accepted where max s* > beta;
3. begins again AT w and trains on the accepted ones to w_U, with the loss
       CE(s(w_U, view(x)), y) + l_k [argmax s- = y] KL(s(w_U, x) || s-),     l_k = l0 h(s-) / h(s*) <= l0;
4. returns w + (w_L - w) + (w_U - w), weighted by r_k, the number of samples that it used.

Both models score once, before step 3: neither changes during it, and they see the images as they are. Where the paper
and its authors' code differ, the paper is the default and the code a setting: `combine=separate`, `partner=local`,
`mu`, `burn_in`. Running statistics of BatchNorm are no weights: those of the two passes are averaged, not summed.

With labels but nothing accepted the client returns w_L; without labels both models are the global one; with neither it
counts for nothing.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from .contract import Batch, ClientHalf, ExactSum, Plugin, ServerHalf, Settings, Site, Update
from .optim import proximal
from .pseudo import LabelQuality, class_samples, scores_of
from .validate import check_extra, check_update

_UNLABELLED, _ACCEPTED = "unlabelled/", "accepted"


class FedLabelSettings(Settings):
    """Settings of FedLabel; the defaults are the paper's."""

    beta: float = Field(0.4, ge=0, le=1, description="softmax score that a pseudo-label must exceed (best 0.3 to 0.5)")
    confidence: Literal["variance", "entropy"] = Field("variance", description="by what the surer model is chosen")
    scores: Literal["softmax", "logits"] = Field("softmax", description="what the variance is taken of")
    labeller: Literal["both", "local", "global"] = Field("both", description="who labels; local, global: ablations")
    consistency: float = Field(1.0, ge=0, description="l0, weight of the term that holds on to the other model")
    adaptive: bool = Field(True, description="scale that weight by h(s-) / h(s*); false: l0 throughout")
    partner: Literal["other", "local"] = Field("other", description="model to hold on to; local: the authors' code")
    combine: Literal["sum", "mean", "separate"] = Field(
        "sum", description="how the two changes join; separate: each averaged for itself, half and half (their code)"
    )
    view: Literal["strong", "weak"] = Field("strong", description="view that is trained on the pseudo-label")
    unlabelled_steps: int | None = Field(None, ge=1, description="optimiser steps of step 3; null: as `train` says")
    burn_in: int = Field(0, ge=0, description="first rounds without unlabelled samples (their code: 50)")
    mu: float = Field(0.0, ge=0, description="FedProx: weight of the proximal term in both passes (their code has one)")


@dataclass(frozen=True)
class Choice:
    """What the two models say of n samples: labels, accepted, local (bool), weights l_k, each [n]; partner [n, c]."""

    labels: Tensor
    accepted: Tensor
    local: Tensor
    weights: Tensor
    partner: Tensor


def confidence(scores: Tensor, settings: FedLabelSettings) -> Tensor:
    """Give h [n] of scores (logits) [n, c]: their variance over the classes, or the inverse of their entropy."""
    probabilities = scores.softmax(1)
    if settings.confidence == "variance":
        return (scores if settings.scores == "logits" else probabilities).var(1, unbiased=False)
    entropy: Tensor = torch.special.entr(probabilities).sum(1)
    return 1 / entropy.clamp_min(1e-12)


def choose(local: Tensor, global_: Tensor, settings: FedLabelSettings) -> Choice:
    """Choose for each sample the surer of two models by their scores (logits) [n, c]; equals go to the global one."""
    h_local, h_global = confidence(local, settings), confidence(global_, settings)
    chosen = {
        "both": h_local > h_global,
        "local": torch.ones_like(h_local, dtype=torch.bool),
        "global": torch.zeros_like(h_local, dtype=torch.bool),
    }[settings.labeller]
    best = torch.where(chosen[:, None], local, global_).softmax(1)
    other = torch.where(chosen[:, None], global_, local).softmax(1)
    top, labels = best.max(1)
    h_best, h_other = torch.where(chosen, h_local, h_global), torch.where(chosen, h_global, h_local)
    ratio = torch.where(h_best > 0, h_other / h_best, 1.0).clamp(0, 1) if settings.adaptive else torch.ones_like(top)
    partner = local.softmax(1) if settings.partner == "local" else other
    weights = settings.consistency * ratio * (partner.argmax(1) == labels)
    return Choice(labels, top > settings.beta, chosen, weights, partner)


def pseudo_loss(viewed: Tensor, plain: Tensor, labels: Tensor, weights: Tensor, partner: Tensor) -> Tensor:
    """Give the mean loss of b accepted samples: `viewed` and `plain` are logits [b, c] of a view and of the image."""
    logs = plain.log_softmax(1)
    apart = (logs.exp() * (logs - partner.clamp_min(1e-12).log())).sum(1)
    return (functional.cross_entropy(viewed, labels, reduction="none") + weights * apart).mean()


class FedLabelClient(ClientHalf[FedLabelSettings]):
    """The labelled pass, the choice, the unlabelled pass."""

    needs = "classes"
    wants_unlabelled = True

    def train(self, site: Site) -> Update:
        """Train both passes; give back the joined weights, by the number of samples used."""
        settings, samples = self.settings, class_samples(site.unlabelled, "fedlabel")
        burning = site.round <= settings.burn_in or len(samples) == 0
        start, first = site.flat.flat.clone(), _buffers(site)
        global_ = None if burning else scores_of(site, samples)
        pull = proximal(site.flat, settings.mu)
        fit = site.fit(lambda batch: self.loss(site, batch), adjust=pull)
        if global_ is None:
            return self._update(site, fit.examples, 0, fit.metrics)
        choice = choose(scores_of(site, samples), global_, settings)
        quality = LabelQuality(samples.truth)
        quality.add(torch.arange(len(samples), device=site.device), choice.labels, choice.accepted, choice.local)
        metrics, accepted = {**fit.metrics, **quality.metrics()}, int(choice.accepted.sum())
        if accepted == 0:
            return self._update(site, fit.examples, 0, metrics)
        weights, buffers = site.flat.flat.clone(), _buffers(site)
        site.flat.flat.copy_(start)
        _restore(site, first)
        pull = proximal(site.flat, settings.mu)
        losses: list[tuple[int, Tensor]] = []
        site.fit(
            lambda batch: self._pseudo(site, batch, choice, losses),
            samples=samples,
            view="none",
            steps=settings.unlabelled_steps,
            adjust=pull,
        )
        if used := sum(count for count, _ in losses):  # with few steps no accepted sample may have come up
            metrics["unlabelled_loss"] = float(sum(count * value.double() for count, value in losses)) / used
        if fit.examples == 0:
            return self._update(site, 0, accepted, metrics)
        if settings.combine == "separate":
            extra = {_UNLABELLED + name: value for name, value in site.weights().items()}
            site.flat.flat.copy_(weights)
            _restore(site, buffers)
            return self._update(site, fit.examples, accepted, metrics, extra)
        site.flat.flat.add_(weights - start)
        if settings.combine == "mean":
            site.flat.flat.add_(start).mul_(0.5)
        _restore(site, buffers, 0.5)
        return self._update(site, fit.examples, accepted, metrics)

    def _pseudo(self, site: Site, batch: Batch, choice: Choice, losses: list[tuple[int, Tensor]]) -> Tensor:
        """Give the loss of the batch's accepted samples, and note it in `losses`; 0 without any."""
        index = batch.index[choice.accepted[batch.index]]
        if len(index) == 0:
            return next(site.model.parameters()).sum() * 0
        samples = site.unlabelled
        view = getattr(site.views(samples), self.settings.view)
        viewed = site.model(samples.viewed(index, view, site.generator).x)
        plain = site.model(samples.x(index)) if self.settings.consistency else viewed
        loss = pseudo_loss(viewed, plain, choice.labels[index], choice.weights[index], choice.partner[index])
        losses.append((len(index), loss.detach()))
        return loss

    def _update(
        self, site: Site, labelled: int, accepted: int, metrics: Any, extra: dict[str, Any] | None = None
    ) -> Update:
        told = dict(extra or {})
        if self.settings.combine == "separate":
            if labelled == 0 and accepted:
                told = {_UNLABELLED + name: value for name, value in site.weights().items()}
            told[_ACCEPTED] = torch.tensor([labelled, accepted]).numpy()
        return Update(site.weights(), labelled + accepted, metrics, told)


def _buffers(site: Site) -> list[Tensor]:
    return [value.clone() for value in site.model.buffers()]


def _restore(site: Site, buffers: list[Tensor], share: float = 1.0) -> None:
    """Move the model's buffers towards others; counters take the larger number."""
    for value, other in zip(site.model.buffers(), buffers, strict=True):
        if value.is_floating_point():
            value.lerp_(other, share)
        else:
            value.copy_(other if share == 1 else torch.maximum(value, other))


class FedLabelServer(ServerHalf[FedLabelSettings]):
    """The mean by samples used; with `combine=separate` the mean of two means."""

    def begin(self) -> Any:
        """Give two sums: of the labelled and of the unlabelled passes."""
        return ExactSum(), ExactSum()

    def add(self, total: Any, client: str, update: Update) -> None:
        """Add an update by its samples; with `separate` each pass by its own weight, 1 and the accepted ones."""
        if self.settings.combine != "separate":
            if update.examples > 0:
                total[0].add(update.weights, update.examples)
            return
        check_extra(update, {_ACCEPTED: ((2,), "i")})
        labelled, accepted = (int(value) for value in update.extra[_ACCEPTED])
        told = {name: value for name, value in update.extra.items() if name.startswith(_UNLABELLED)}
        own = {name.removeprefix(_UNLABELLED): value for name, value in told.items()}
        if accepted:
            check_update(Update(own, accepted), self.expects())
        first, second = ExactSum(), ExactSum()  # a pass that is out of range takes the other one with it
        if labelled:
            first.add(update.weights, 1)
        if accepted:
            second.add(own, accepted)
        total[0].merge(first)
        total[1].merge(second)

    def finish(self, total: Any, round_: int) -> None:
        """Make the new global weights."""
        means = [part.mean() for part in total if part.terms]
        if len(means) == 2:
            other = means[1]
            means = [{name: ((value + other[name]) / 2).astype(value.dtype) for name, value in means[0].items()}]
        if means:
            self.weights = {**self.weights, **means[0]}


plugin = Plugin(
    FedLabelSettings, FedLabelClient, FedLabelServer, "pseudo-labels of the local or the global model (Cho 2023)"
)
