"""Reference point: only the server trains, on its own labels. What the clients' unlabelled data adds shows against it.

A round has `settings.server-only.epochs` passes over the server's labelled samples, or `train.steps` steps. Where the
number of passes is not given, it is that with which the server alone makes as many optimiser steps as one pass over
everybody's samples takes, so that it differs from `centralized` in its data only. (That default needs the number of the
clients' samples, which a simulation knows.)
"""

from pydantic import Field

from .contract import Arrays, Ask, ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site, UnsuitableError
from .site import Fit


class ServerOnlySettings(Settings):
    """Settings of server-only."""

    epochs: int | None = Field(
        None, ge=1, description="passes over the server's samples a round; null: as many steps as centralized"
    )


class ServerOnlyServer(ServerHalf[ServerOnlySettings]):
    """The clients rest; the server trains on what it holds. Raises UnsuitableError when that is nothing."""

    def __init__(self, settings: ServerOnlySettings, site: Site) -> None:
        super().__init__(settings, site)
        check_labels("server-only", site)

    def first_ask(self) -> None:
        """Say that the clients rest in every round."""

    def ask(self, round_: int) -> Ask | None:
        """Ask nothing of the clients."""
        return None

    def refine(self, site: Site) -> Metrics:
        """Train on the server's labelled samples."""
        fit = train_alone(site, self.weights, self.settings.epochs)
        self.weights = site.weights()
        return fit.metrics


def train_alone(site: Site, weights: Arrays, epochs: int | None) -> Fit:
    """Train the weights on the server's labelled samples alone for a round; they end in the site's model."""
    site.load(weights)
    return site.fit(epochs=epochs, steps=server_steps(site, epochs))


def check_labels(strategy: str, site: Site) -> None:
    """Raise UnsuitableError, naming the strategy, when the server holds no labelled sample."""
    if len(site.labelled) == 0:
        raise UnsuitableError(
            f"{strategy}: the server holds no labelled samples; set data.server.share, data.server.count or "
            "data.server.value"
        )


def server_steps(site: Site, epochs: int | None) -> int | None:
    """Give the steps of a round in which the server alone trains; None where `epochs` says how long it trains."""
    return None if epochs is not None else site.train_config.steps or site.steps(site.pooled_size)


plugin = Plugin(ServerOnlySettings, ClientHalf, ServerOnlyServer, "reference: only the server trains, on its labels")
