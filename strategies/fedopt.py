"""FedOpt: FedAvgM, FedAdagrad, FedAdam and FedYogi (Reddi et al. 2021, arXiv 2003.00295; Hsu et al. 2019, 1909.06335).

Clients train as in FedAvg; the server takes their mean change for a gradient and makes a step of its own optimiser
(algorithm 2; server_optimizer.py has the rules): `sgd` with `server_lr` 1 is FedAvgM, and FedAvg without momentum.
"""

from typing import Literal

from pydantic import Field

from .contract import Arrays, ClientHalf, ExactSum, Plugin, ServerHalf, Site
from .server_optimizer import ServerOptimizer, ServerOptimizerSettings


class FedOptSettings(ServerOptimizerSettings):
    """Settings of FedOpt."""

    server_optimizer: Literal["sgd", "adagrad", "yogi", "adam"] = Field(
        "sgd", description="rule of the server's step; sgd: FedAvgM"
    )
    server_lr: float = Field(
        1.0, gt=0, description="the server's learning rate; adaptive rules want less, such as 0.01"
    )


class FedOptServer(ServerHalf[FedOptSettings]):
    """The mean change as a gradient."""

    def __init__(self, settings: FedOptSettings, site: Site) -> None:
        super().__init__(settings, site)
        self.optimizer = ServerOptimizer(settings, frozenset(name for name, _ in site.model.named_parameters()))

    def finish(self, total: ExactSum, round_: int) -> None:
        """Make the step; running statistics and counters take the clients' mean."""
        self.weights = {**self.weights, **self.optimizer.step(self.weights, total.mean())}

    def state(self) -> Arrays:
        """Give the moments."""
        return self.optimizer.state()

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        self.optimizer.restore(state)


plugin = Plugin(
    FedOptSettings, ClientHalf, FedOptServer, "a server optimiser: FedAvgM, FedAdagrad, FedAdam, FedYogi (Reddi 2021)"
)
