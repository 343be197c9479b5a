"""FedOpt: the server treats the clients' mean change as a gradient (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

D = mean of the clients' weights - w;  m <- b1 m + (1 - b1) D;  then
    sgd      w <- w + lr m'     with m' <- b1 m' + D
    adagrad  v <- v + D^2
    yogi     v <- v - (1 - b2) D^2 sign(v - D^2)
    adam     v <- b2 v + (1 - b2) D^2
and for the last three w <- w + lr m / (sqrt(v) + tau). As in the paper there is no correction of the bias of m and v,
and v begins at tau^2. Integer buffers (counters) take the clients' mean as it is, and so do running statistics, which
are no weights.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .contract import Arrays, Settings

Floats = NDArray[np.float64]
Rule = Literal["none", "sgd", "adagrad", "yogi", "adam"]


class ServerOptimizerSettings(Settings):
    """Settings of the server's optimiser."""

    server_optimizer: Rule = Field("none", description="FedOpt: rule of the server's step; none is the plain mean")
    server_lr: float = Field(
        0.1, gt=0, description="FedOpt: the server's learning rate (sgd with 1 and server_beta1=0 is the plain mean)"
    )
    server_beta1: float = Field(0.9, ge=0, lt=1, description="FedOpt: decay of the first moment")
    server_beta2: float = Field(0.99, ge=0, lt=1, description="FedOpt: decay of the second moment")
    server_tau: float = Field(1e-3, gt=0, description="FedOpt: degree of adaptivity, added to the root of v")


class ServerOptimizer:
    """The moments of one run, and the step. `weights` are the names that are trained; all others take the mean."""

    def __init__(self, settings: ServerOptimizerSettings, weights: frozenset[str]) -> None:
        self.settings, self.weights = settings, weights
        self.first: Arrays = {}
        self.second: Arrays = {}

    def step(self, before: Arrays, mean: Arrays) -> Arrays:
        """Give the new arrays from those that were sent and the clients' mean; names missing in `mean` are left out."""
        if self.settings.server_optimizer == "none":
            return dict(mean)
        return {
            name: self._moved(name, before[name], value) if name in self.weights else value
            for name, value in mean.items()
        }

    def _moved(self, name: str, before: NDArray[np.generic], mean: NDArray[np.generic]) -> NDArray[np.generic]:
        settings, rule = self.settings, self.settings.server_optimizer
        start = before.astype(np.float64)
        change = mean.astype(np.float64) - start
        share = 1.0 if rule == "sgd" else 1 - settings.server_beta1
        first = settings.server_beta1 * self._known(self.first, name, change, 0.0) + share * change
        self.first[name] = first
        if rule == "sgd":
            return np.asarray(start + settings.server_lr * first, before.dtype)
        second = self._second(self._known(self.second, name, change, settings.server_tau**2), change**2)
        self.second[name] = second
        return np.asarray(start + settings.server_lr * first / (np.sqrt(second) + settings.server_tau), before.dtype)

    @staticmethod
    def _known(moments: Arrays, name: str, like: Floats, start: float) -> Floats:
        return moments[name].astype(np.float64) if name in moments else np.full_like(like, start)

    def _second(self, value: Floats, square: Floats) -> Floats:
        rest = 1 - self.settings.server_beta2
        if self.settings.server_optimizer == "adagrad":
            return value + square
        if self.settings.server_optimizer == "yogi":
            return np.asarray(value - rest * square * np.sign(value - square))
        return self.settings.server_beta2 * value + rest * square

    def state(self) -> Arrays:
        """Give the moments, for a checkpoint."""
        return {f"first/{k}": v for k, v in self.first.items()} | {f"second/{k}": v for k, v in self.second.items()}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave; other names are left alone."""
        self.first = {k.removeprefix("first/"): v for k, v in state.items() if k.startswith("first/")}
        self.second = {k.removeprefix("second/"): v for k, v in state.items() if k.startswith("second/")}
