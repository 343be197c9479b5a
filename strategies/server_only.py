"""Reference point: only the server trains, on its own labels. What the clients' unlabelled data adds shows against it.

A round has `settings.server-only.epochs` passes over the server's labelled samples, or `train.steps` steps. Where the
number of passes is not given, it is that with which the server alone makes as many optimiser steps as one pass over
everybody's samples takes, so that it differs from `centralized` in its data only. (That default needs the number of the
clients' samples, which a simulation knows.)
"""

import math

from pydantic import Field

from .contract import Ask, ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site


class ServerOnlySettings(Settings):
    """Settings of server-only."""

    epochs: int | None = Field(
        None, ge=1, description="passes over the server's samples a round; null: as many steps as centralized"
    )


class ServerOnlyServer(ServerHalf[ServerOnlySettings]):
    """The clients rest; the server trains on what it holds."""

    def ask(self, round_: int) -> Ask | None:
        """Ask nothing of the clients."""
        return None

    def refine(self, site: Site) -> Metrics:
        """Train on the server's labelled samples. Raises ValueError when it has none."""
        if len(site.labelled) == 0:
            raise ValueError("server-only: the server holds no labelled samples; set data.server.share or .value")
        site.load(self.weights)
        fit = site.fit(epochs=self.settings.epochs, steps=server_steps(site, self.settings.epochs))
        self.weights = site.weights()
        return fit.metrics


def server_steps(site: Site, epochs: int | None) -> int | None:
    """Give the steps of a round in which the server alone trains; None where `epochs` says how long it trains."""
    config = site.train_config
    if epochs is not None:
        return None
    return config.steps or config.epochs * math.ceil(len(site.pooled) / config.batch_size)


plugin = Plugin(ServerOnlySettings, ClientHalf, ServerOnlyServer, "reference: only the server trains, on its labels")
