"""FedAvg or FedProx with UDA at the clients (Xie et al., NeurIPS 2020, arXiv 1904.12848).

As FixMatch, but the target is soft: the student's own probabilities on the weak view, sharpened by a temperature,

    q = softmax(s(weak(u)) / temperature),      KL(q || softmax(s(strong(u))))  where  max p(weak(u)) >= threshold

The annealing of the labelled part (the paper's TSA) is left out.
"""

from pydantic import Field
from torch import Tensor

from .contract import Plugin, ServerHalf
from .fixmatch import FixMatchClient, FixMatchSettings
from .pseudo import divergence


class UDASettings(FixMatchSettings):
    """Settings of uda."""

    threshold: float = Field(0.8, ge=0, le=1, description="score from which a sample counts")
    temperature: float = Field(0.4, gt=0, description="by which the target is sharpened; 1 leaves it as it is")


class UDAClient(FixMatchClient[UDASettings]):
    """Trains on both kinds of samples in every step, the unlabelled ones with soft targets."""

    strategy = "uda"

    def apart(self, strong: Tensor, weak: Tensor, labels: Tensor) -> Tensor:
        """Give each sample's divergence [b] of the strong view from the sharpened weak one."""
        target = (weak / self.settings.temperature).softmax(1)
        return divergence(target, strong.log_softmax(1))


plugin = Plugin(UDASettings, UDAClient, ServerHalf, "FedAvg or FedProx, UDA at the clients (Xie 2020)")
