"""FedAvg with pseudo-labels from a local moving average: what FedSTO is measured against, and its usual variants.

It is FedSTO without its two ideas: no selective phase and no orthogonality. The settings put another federated method
in the place of FedAvg, one by one or together; each is off by default:

    mu                FedProx (Li et al. 2020): + mu (w - w_global) on every gradient
    local_norms       FedBN (Li et al. 2021): normalisation weights stay where they are trained (with
                      model.buffers=local their statistics, too)
    server_optimizer  FedOpt (Reddi et al. 2021): the server's step on the mean change
    dyn               FedDyn (Acar et al. 2021, algorithm 1): client k minimises
                      L_k(w) - <g_k, w> + dyn/2 ||w - w_global||^2, then g_k <- g_k - dyn (w_k - w_global);
                      the server keeps h <- h - dyn |P|/m mean(w_k - w_global) and sets w <- mean(w_k) - h / dyn

With labels at the clients (data.labels.share=1.0) it is federated learning with full supervision.
"""

from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field

from ..models import norm_names
from .contract import Arrays, ExactSum, Plugin, Site, Update
from .semi_boxes import SemiBoxClient, SemiBoxServer, SemiBoxSettings
from .server_optimizer import ServerOptimizer, ServerOptimizerSettings

_DYN, _NORM = "dyn/", "norm/"


class FedAvgEMASettings(SemiBoxSettings, ServerOptimizerSettings):
    """Settings of fedavg-ema."""

    mu: float = Field(0.0, ge=0, description="FedProx: weight of the proximal term; 0 is off")
    local_norms: bool = Field(False, description="FedBN: normalisation weights stay with the clients")
    dyn: float = Field(0.0, ge=0, description="FedDyn: its alpha; 0 is off")


class FedAvgEMAClient(SemiBoxClient[FedAvgEMASettings]):
    """Local training on pseudo-labels, with the terms of the chosen variant."""

    strategy = "fedavg-ema"

    def prepare(self, site: Site) -> None:
        """Load what the server sent, and over it the normalisation weights that are the client's own."""
        super().prepare(site)
        if self.settings.local_norms:
            site.load({name.removeprefix(_NORM): v for name, v in site.state.items() if name.startswith(_NORM)})

    def train(self, site: Site) -> Update:
        """Train; keep what the variant wants to keep."""
        start = site.flat.flat.clone()
        update = super().train(site)
        if self.settings.dyn:
            memory = self._memory(site) - self.settings.dyn * (site.flat.flat - start)
            site.state[_DYN + "g"] = memory.cpu().numpy()
        if self.settings.local_norms:
            site.state |= {_NORM + name: value for name, value in site.flat.state(norm_names(site.model)).items()}
        return update

    def adjust(self, site: Site) -> Callable[[], None] | None:
        """Give the pull of FedProx or of FedDyn."""
        flat, pull = site.flat, self.settings.mu + self.settings.dyn
        if not pull:
            return None
        start, memory = flat.flat.clone(), self._memory(site)

        def change() -> None:
            flat.flat_grad.add_(flat.flat - start, alpha=pull).sub_(memory)

        return change

    def _memory(self, site: Site) -> torch.Tensor:
        kept = site.state.get(_DYN + "g")
        if kept is None:
            return torch.zeros_like(site.flat.flat)
        return torch.from_numpy(np.array(kept)).to(site.flat.flat)

    def shared(self, site: Site, parts: tuple[str, ...] | None) -> Arrays:
        """Give everything that the server asks for: all but the normalisation weights with FedBN."""
        own = set(norm_names(site.model)) if self.settings.local_norms else set()
        return {name: value for name, value in site.weights(parts).items() if name not in own}


class FedAvgEMAServer(SemiBoxServer[FedAvgEMASettings]):
    """The mean, or the step of the chosen variant; then the update on the server's labels."""

    strategy = "fedavg-ema"

    def __init__(self, settings: FedAvgEMASettings, site: Site) -> None:
        super().__init__(settings, site)
        self._norms = frozenset(norm_names(site.model)) if settings.local_norms else frozenset()
        self._trained = frozenset(name for name, _ in site.model.named_parameters())
        self._population = site.population
        self.optimizer = ServerOptimizer(settings, self._trained)
        self.drift: Arrays = {}

    def expects(self) -> Arrays:
        """Expect everything but what stays with the clients."""
        return {name: value for name, value in self.weights.items() if name not in self._norms}

    def add(self, total: ExactSum, client: str, update: Update) -> None:
        """Add an update, weighted by its examples; with FedDyn all count the same."""
        if update.examples > 0:
            total.add(update.weights, 1 if self.settings.dyn else update.examples)

    def finish(self, total: ExactSum, round_: int) -> None:
        """Make the new global weights."""
        mean = total.mean()
        if self.settings.dyn and mean:
            mean = self._corrected(mean, total.terms / max(self._population, total.terms))
        self.weights = {**self.weights, **self.optimizer.step(self.weights, mean)}

    def _corrected(self, mean: Arrays, share: float) -> Arrays:
        """Give mean - h / dyn for the trained weights, h brought up to date."""
        for name in self._trained & mean.keys():
            value = mean[name].astype(np.float64)
            change = value - self.weights[name].astype(np.float64)
            before = self.drift[name].astype(np.float64) if name in self.drift else np.zeros_like(change)
            drift = before - self.settings.dyn * share * change
            self.drift[name] = drift
            mean[name] = np.asarray(value - drift / self.settings.dyn, mean[name].dtype)
        return mean

    def state(self) -> Arrays:
        """Give the moments of FedOpt and the h of FedDyn."""
        return self.optimizer.state() | {_DYN + name: value for name, value in self.drift.items()}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        self.optimizer.restore(state)
        self.drift = {name.removeprefix(_DYN): value for name, value in state.items() if name.startswith(_DYN)}


plugin = Plugin(
    FedAvgEMASettings,
    FedAvgEMAClient,
    FedAvgEMAServer,
    "FedAvg on pseudo-labels of a local moving average; FedProx, FedBN, FedOpt, FedDyn as settings",
)
