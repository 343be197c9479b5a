"""Reference point: one model trained on all clients' data together. What a federation gives up shows against it.

Each round is `train.epochs` passes (or `train.steps` steps) over the pooled training samples with their labels. It
needs the pooled data, so it runs in simulation only.
"""

from .box_samples import BoxSamples
from .contract import Ask, ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site
from .validate import warn_bare


class CentralizedSettings(Settings):
    """No settings of its own."""


class CentralizedServer(ServerHalf[CentralizedSettings]):
    """The clients rest; the server trains."""

    def first_ask(self) -> None:
        """Say that the clients rest in every round."""

    def ask(self, round_: int) -> Ask | None:
        """Ask nothing of the clients."""
        return None

    def refine(self, site: Site) -> Metrics:
        """Train on the pooled samples."""
        site.load(self.weights)
        if isinstance(site.pooled, BoxSamples):
            warn_bare("centralized", site.pooled.annotated)
        fit = site.fit(samples=site.pooled)
        self.weights = site.weights()
        return fit.metrics


plugin = Plugin(CentralizedSettings, ClientHalf, CentralizedServer, "reference: one model on all the data together")
