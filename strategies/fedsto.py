"""FedSTO: semi-supervised federated object detection, labels only at the server (Kim et al., NeurIPS 2023, 2310.17097).

Rounds 1 to `warmup`: the server trains alone on its labels. The next `selective` rounds (phase 1, section 4.2): clients
train the backbone on pseudo-labels, neck and head frozen, and only the backbone travels back. All later rounds (phase
2, section 4.3): all parameters, with spectral orthogonality on the non-backbone weights. Every round goes clients,
aggregate, supervised update of ALL parameters at the server, broadcast.

A client's labeller is a moving average of its own model, begun anew from the global model at every broadcast.
Pseudo-labels follow Efficient Teacher's assigner (box_teacher.py, detection_loss.py).

Unstated in the paper and chosen here: the coefficient of the orthogonality term (1e-4). Settings beside the paper's:
who labels, what the server updates, what becomes of its normalisation statistics. `docs/methods/fedsto.md` tells what
each of them does.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from .contract import Arrays, Plugin, Site
from .orthogonal import orthogonality
from .semi_boxes import SemiBoxClient, SemiBoxServer, SemiBoxSettings

_SELECTIVE = ("backbone",)


class FedSTOSettings(SemiBoxSettings):
    """Settings of FedSTO; the defaults are the paper's where it has one, with fewer rounds."""

    selective: int = Field(5, ge=0, description="rounds of phase 1, backbone only (paper: 100); 0 leaves it out")
    orthogonality: float = Field(1e-4, ge=0, description="coefficient of the spectral term in phase 2")
    server_update: Literal["all", "backbone"] = Field(
        "all", description="what the server trains in phase 1; backbone: it collapses in phase 2"
    )


class FedSTOClient(SemiBoxClient[FedSTOSettings]):
    """Trains the backbone in phase 1, everything with the spectral term in phase 2."""

    strategy = "fedsto"

    def parts(self, site: Site) -> tuple[str, ...] | None:
        """Give the backbone in phase 1."""
        return _SELECTIVE if site.phase == "selective" else None

    def penalty(self, site: Site) -> Tensor:
        """Give the spectral term in phase 2."""
        return spectral_term(site, self.settings.orthogonality if site.phase == "full" else 0)


class FedSTOServer(SemiBoxServer[FedSTOSettings]):
    """Averages what came back, then trains on the server's labels."""

    strategy = "fedsto"

    def __init__(self, settings: FedSTOSettings, site: Site) -> None:
        super().__init__(settings, site)
        self._backbone = set(site.weights(_SELECTIVE))

    def phase(self, round_: int) -> str:
        """Give the phase of a round: warm-up, selective or full."""
        phase = super().phase(round_)
        late = round_ > self.settings.warmup + self.settings.selective
        return phase if phase == "warm-up" or late else "selective"

    def expects(self) -> Arrays:
        """Expect the backbone in phase 1, everything else later."""
        if self.current != "selective":
            return self.weights
        return {name: value for name, value in self.weights.items() if name in self._backbone}

    def parts(self) -> tuple[str, ...] | None:
        """Give what the server trains: everything, as the paper has it, unless set otherwise."""
        return _SELECTIVE if self.current == "selective" and self.settings.server_update == "backbone" else None

    def penalty(self, site: Site) -> Tensor:
        """Give the spectral term in phase 2."""
        return spectral_term(site, self.settings.orthogonality if self.current == "full" else 0)


def spectral_term(site: Site, coefficient: float) -> Tensor:
    """Give the orthogonality term over the weights that are not the backbone's."""
    if coefficient == 0:
        return torch.zeros((), device=site.device)
    rest = [value for name, value in site.model.named_parameters() if not name.startswith("backbone.")]
    return coefficient * orthogonality(rest, site.generator)


plugin = Plugin(
    FedSTOSettings, FedSTOClient, FedSTOServer, "semi-supervised detection, labels at the server (Kim 2023)"
)
