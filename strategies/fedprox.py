"""FedProx (Li et al. 2020, arXiv 1812.06127): a proximal term holds each client near the global model.

Client loss (equation 2): F_k(w) + mu/2 ||w - w_global||^2. The gradient of the second term, mu (w - w_global), is added
to the flat gradient in one operation. The paper's variable amount of local work (gamma-inexactness) is not part of it.
"""

from pydantic import Field

from .contract import ClientHalf, Plain, Plugin, ServerHalf, Settings, Site, Update
from .optim import proximal


class FedProxSettings(Settings):
    """Settings of FedProx."""

    mu: float = Field(0.01, ge=0.0, description="weight of the proximal term; 0 is FedAvg")


class FedProxClient(ClientHalf[FedProxSettings]):
    """Local training with the proximal term."""

    def plain(self) -> Plain | None:
        """Say that the proximal term is all that is added."""
        return Plain(self.settings.mu) if self._keeps(FedProxClient) else None

    def train(self, site: Site) -> Update:
        """Train with mu (w - w_global) added to every gradient."""
        pull = proximal(site.flat, self.settings.mu)
        fit = site.fit(lambda batch: self.loss(site, batch), adjust=pull)
        return Update(site.weights(), fit.examples, fit.metrics)


plugin = Plugin(FedProxSettings, FedProxClient, ServerHalf, "FedAvg with a proximal term at the clients (Li 2020)")
