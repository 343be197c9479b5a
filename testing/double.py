"""A federation in float64, to hold two ways of computing against each other: rounding then hides nothing."""

from typing import Any

import torch

from ..models import FlatModel
from ..strategies.federation import Federation
from ..strategies.samples import Samples


class DoubleFederation(Federation):
    """Models and samples in float64; for `Parts.prepare` of a run in one process."""

    def model(self, device: torch.device, client: str | None = None) -> FlatModel:
        """Build a client's model, or the server's, and turn it into float64."""
        single = super().model(device, client)
        return type(single)(single.module.double(), device)

    def _samples(self, *given: Any) -> Samples:
        samples = super()._samples(*given)
        samples._mean, samples._std = samples._mean.double(), samples._std.double()  # all that is normalised follows
        return samples
