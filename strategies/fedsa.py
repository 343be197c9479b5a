"""FedSA: semantic anchors (Zhou et al., AAAI 2025, arXiv 2501.05496). Nothing but class prototypes travels.

Server: anchors A [classes, d], drawn once; after each round A_c <- momentum A_c + (1 - momentum) P_c, P_c the mean of
the prototypes of class c over the clients that have it.

Client, on its own model with features f = f(x), d_j = ||f - A_j||:

    CE(head(f), y)  +  regularise MSE(f, A_y)                                    anchor-based regularisation
                    +  contrast CE(-(d + margin onehot(y)), y)                   margin-enhanced contrastive loss
                    +  calibrate CE(head(A), 0..classes - 1)                     classifier calibration

    margin = max(gap of the local prototypes of the client's last round, gap of the anchors)

The gap is the mean over the classes of the distance to the nearest other one (the authors' code), or the mean of all
pairwise distances (`gap=pairwise`). Anchors come out of an untrained network, (Linear, BatchNorm, ReLU) twice on normal
draws (the code), or are normal draws of length 1 (`init=normalized`). `anchors=private` is the control in which nothing
is shared: each client draws its own, and keeps them.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..models import Classifier
from .contract import Arrays, Ask, Plugin, Settings, Site
from .prototypes import (
    PROTOTYPES,
    PrototypeClient,
    PrototypeServer,
    check_features,
    contrastive,
    distances,
    nearest_other,
)
from .seeds import derive, drawing, generator

_ANCHORS, _LOCAL = "anchors", "local/prototypes"


class FedSASettings(Settings):
    """Settings of FedSA; the defaults are the authors'."""

    regularise: float = Field(1.0, ge=0, description="weight of the distance between a feature and its anchor")
    contrast: float = Field(1.0, ge=0, description="weight of the margin-enhanced contrastive loss")
    calibrate: float = Field(1.0, ge=0, description="weight of the cross-entropy of the head on the anchors")
    momentum: float = Field(0.9999, ge=0, le=1, description="what is left of an anchor after a round; 1: never updated")
    init: Literal["network", "normalized"] = Field("network", description="how anchors are drawn")
    gap: Literal["nearest", "pairwise"] = Field("nearest", description="distance between classes that makes the margin")
    anchors: Literal["shared", "private"] = Field("shared", description="private: each client draws its own (control)")


def draw_anchors(shape: tuple[int, int], init: str, seed: int) -> Tensor:
    """Give anchors [classes, width] as a function of the seed alone."""
    classes, width = shape
    draws = torch.randn(classes, width, generator=generator(seed, "anchors"))
    if init == "normalized":
        return functional.normalize(draws)
    with drawing(derive(seed, "anchors", "network")):
        layers = [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
    with torch.no_grad():
        anchors: Tensor = nn.Sequential(*layers)(draws)
    return anchors


def gap(points: Tensor, kind: str) -> Tensor:
    """Give the distance between classes of points [k, d], a scalar; 0 for fewer than two."""
    if len(points) < 2:
        return torch.zeros((), device=points.device)
    if kind == "nearest":
        return nearest_other(points).mean()
    return distances(points, points).fill_diagonal_(0).sum() / (len(points) * (len(points) - 1))


class FedSAClient(PrototypeClient[FedSASettings]):
    """Learns towards the anchors, with its own model."""

    strategy = "fedsa"

    def terms(self, site: Site, model: Classifier) -> Any:
        """Give the loss."""
        settings, anchors = self.settings, self._anchors(site)
        check_features(site.name, model.feature_dim, anchors.shape[1])
        local = torch.from_numpy(np.array(site.state.get(_LOCAL, np.zeros((0, 1), np.float32))))
        margin = torch.maximum(gap(local.to(site.device), settings.gap), gap(anchors, settings.gap))
        every = torch.arange(len(anchors), device=site.device)

        def loss(features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
            total = functional.cross_entropy(scores, labels)
            if settings.regularise:
                total = total + settings.regularise * functional.mse_loss(features, anchors[labels])
            if settings.contrast:
                total = total + settings.contrast * contrastive(features, labels, anchors, margin)
            if settings.calibrate:
                total = total + settings.calibrate * functional.cross_entropy(model.head(anchors), every)
            return total

        return loss

    def _anchors(self, site: Site) -> Tensor:
        anchors: NDArray[Any] = np.array(site.received[_ANCHORS])
        if self.settings.anchors == "shared":
            return torch.from_numpy(anchors).to(site.device)
        own = draw_anchors(
            (len(anchors), anchors.shape[1]), self.settings.init, derive(site.seed, "private", site.name)
        )
        return own.to(site.device)

    def remember(self, site: Site, found: Arrays) -> None:
        """Keep the local prototypes, whose gap the next round's margin needs."""
        site.state |= {_LOCAL: found[PROTOTYPES]}


class FedSAServer(PrototypeServer[FedSASettings]):
    """Keeps the anchors, and moves them towards the prototypes."""

    strategy = "fedsa"

    def __init__(self, settings: FedSASettings, site: Site) -> None:
        super().__init__(settings, site)
        self.anchors: NDArray[Any] = draw_anchors((site.classes, self.width(site)), settings.init, site.seed).numpy()

    def ask(self, round_: int) -> Ask | None:
        """Send the anchors."""
        return Ask({_ANCHORS: self.anchors})

    def finish(self, total: Any, round_: int) -> None:
        """Make the global prototypes; move the anchors of the classes that somebody had."""
        super().finish(total, round_)
        rows, keep = sorted(total), self.settings.momentum
        self.anchors = self.anchors.copy()
        self.anchors[rows] = keep * self.anchors[rows] + (1 - keep) * self.prototypes[rows]

    def landmarks(self) -> Arrays:
        """Give prototypes and anchors, for the report."""
        return {**super().landmarks(), _ANCHORS: self.anchors}

    def state(self) -> Arrays:
        """Give anchors and prototypes."""
        return {**super().state(), _ANCHORS: self.anchors}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self.anchors = np.asarray(state[_ANCHORS], np.float32)


plugin = Plugin(FedSASettings, FedSAClient, FedSAServer, "semantic anchors, only class prototypes travel (Zhou 2025)")
