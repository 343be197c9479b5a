"""FedProto (Tan et al., AAAI 2022, arXiv 2105.00243): features near the class's global prototype.

Client: CE(head(f), y) + pull mean ||f - P_y||^2 / d over the classes that are known; prototypes are the means of the
features seen in training. Server: the mean of each class over the clients that have it. (The paper weights them by
samples; here every client counts the same, as in FedSA's comparison.)
"""

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ..models import Classifier
from .contract import Plugin, Settings, Site
from .prototypes import KNOWN, PROTOTYPES, PrototypeClient, PrototypeServer, check_features


class FedProtoSettings(Settings):
    """Settings of fedproto."""

    pull: float = Field(10.0, ge=0, description="weight of the distance to the class's global prototype")


class FedProtoClient(PrototypeClient[Any]):
    """Cross-entropy, and the distance to the global prototypes."""

    strategy = "fedproto"

    def terms(self, site: Site, model: Classifier) -> Any:
        """Give the loss."""
        points = torch.from_numpy(np.array(site.received[PROTOTYPES])).to(site.device)
        check_features(site.name, self.width(site, model), points.shape[1])
        known = torch.from_numpy(np.array(site.received[KNOWN])).to(site.device)

        def loss(features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
            pulled: Tensor = self.settings.pull * apart(features, labels, points, known)
            return functional.cross_entropy(scores, labels) + pulled

        return loss


def apart(features: Tensor, labels: Tensor, points: Tensor, known: Tensor) -> Tensor:
    """Give the mean squared distance of features [b, d] to the known points [classes, d] of their classes [b]."""
    rows = known[labels]
    if not bool(rows.any()):
        return features.sum() * 0
    return functional.mse_loss(features[rows], points[labels[rows]])


class FedProtoServer(PrototypeServer[FedProtoSettings]):
    """Averages the prototypes."""

    strategy = "fedproto"


plugin = Plugin(
    FedProtoSettings, FedProtoClient, FedProtoServer, "class means travel, features are pulled to them (Tan 2022)"
)
