"""FedDistill: clients learn from the class means of all clients' scores (Jeong et al. 2018, arXiv 1811.11479).

Client: CE(head(f), y) + pull MSE(head(f), L_y), L_y [classes] the mean scores (logits) of class y over the clients that
have it. Scores travel in the place of features, so not even the number of features need be equal.

The paper pulls probabilities by a cross-entropy, to a mean that leaves out the client's own; this is the form that the
papers on prototypes compare themselves with.
"""

from typing import Any

from pydantic import Field
from torch import Tensor

from ..models import Classifier
from .contract import Arrays, Metrics, Plugin, Samples, Settings, Site
from .fedproto import FedProtoClient
from .prototypes import PROTOTYPES, PrototypeServer


class FedDistillSettings(Settings):
    """Settings of feddistill."""

    pull: float = Field(1.0, ge=0, description="weight of the distance to the class's mean scores")


class FedDistillClient(FedProtoClient):
    """Cross-entropy, and the distance to the mean scores."""

    strategy = "feddistill"

    def width(self, site: Site, model: Classifier) -> int:
        """Give the number of classes."""
        return site.classes

    def told(self, features: Tensor, scores: Tensor) -> Tensor:
        """Give the scores."""
        return scores

    def terms(self, site: Site, model: Classifier) -> Any:
        """Give the loss, the scores being in the place of the features."""
        loss = super().terms(site, model)
        return lambda features, scores, labels: loss(scores, scores, labels)

    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        """Measure the classifier."""
        return site.evaluate(samples)


class FedDistillServer(PrototypeServer[FedDistillSettings]):
    """Averages the clients' mean scores."""

    strategy = "feddistill"

    def width(self, site: Site) -> int:
        """Give the number of classes."""
        return site.classes

    def landmarks(self) -> Arrays:
        """Give the mean scores under their own name, for the report."""
        return {"mean scores": super().landmarks()[PROTOTYPES]}


plugin = Plugin(FedDistillSettings, FedDistillClient, FedDistillServer, "class means of scores travel (Jeong 2018)")
