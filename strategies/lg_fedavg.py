"""LG-FedAvg (Liang et al. 2020, arXiv 2001.01523): only the heads are averaged, everything else stays local.

Bodies may differ as long as they give equally many features.
"""

from .contract import Arrays, ClientHalf, Plugin, ServerHalf, Settings, Site, Update
from .personal import keep, kept
from .prototypes import MODEL, classifier

_HEAD = ("head",)


class LGFedAvgSettings(Settings):
    """No settings of its own."""


class LGFedAvgClient(ClientHalf[LGFedAvgSettings]):
    """Trains its own body under the global head."""

    any_model = True
    personal = True

    def prepare(self, site: Site) -> None:
        """Load the client's own model, and the global head over it."""
        classifier(site.model, "lg-fedavg")
        site.load(kept(site, MODEL))
        super().prepare(site)

    def train(self, site: Site) -> Update:
        """Train everything; keep the model, give back the head."""
        fit = site.fit(lambda batch: self.loss(site, batch))
        keep(site, MODEL, site.flat)
        return Update(site.weights(_HEAD), fit.examples, fit.metrics)


class LGFedAvgServer(ServerHalf[LGFedAvgSettings]):
    """Averages the heads by samples."""

    def __init__(self, settings: LGFedAvgSettings, site: Site) -> None:
        super().__init__(settings, site)
        classifier(site.model, "lg-fedavg")
        self.weights: Arrays = site.weights(_HEAD)


plugin = Plugin(LGFedAvgSettings, LGFedAvgClient, LGFedAvgServer, "only the heads are averaged (Liang 2020)")
