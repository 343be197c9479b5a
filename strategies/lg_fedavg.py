"""LG-FedAvg (Liang et al. 2020, arXiv 2001.01523): only the heads are averaged, everything else stays local.

Bodies may differ as long as they give equally many features.
"""

from ..models import part_names
from .contract import Arrays, ClientHalf, Plugin, ServerHalf, Settings, Site, UnsuitableError, Update
from .personal import keep, kept
from .prototypes import MODEL

_HEAD = ("head",)


class LGFedAvgSettings(Settings):
    """No settings of its own."""


class LGFedAvgClient(ClientHalf[LGFedAvgSettings]):
    """Trains its own body under the global head."""

    any_model = True
    personal = True
    needs = "classes"

    def prepare(self, site: Site) -> None:
        """Load the client's own model, and the global head over it."""
        _check_head(site)
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
        _check_head(site)
        self.weights: Arrays = site.weights(_HEAD)


def _check_head(site: Site) -> None:
    """Raise UnsuitableError for a model that is all one part."""
    if "head" not in part_names(site.model):
        given = type(site.model).__name__
        raise UnsuitableError(f"lg-fedavg needs a model with the children backbone and head, such as cnn; got {given}")


plugin = Plugin(LGFedAvgSettings, LGFedAvgClient, LGFedAvgServer, "only the heads are averaged (Liang 2020)")
