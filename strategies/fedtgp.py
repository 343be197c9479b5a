"""FedTGP (Zhang et al., AAAI 2024, arXiv 2401.03230): the server trains prototypes that stand well apart.

Client: as FedProto. Server: global prototypes come out of a network, Linear(ReLU(Linear(e_c))) on a trained vector e_c
for each class, and are trained for `epochs` on the clients' prototypes p of class y with

    CE(-(d + margin onehot(y)), y),   d_j = ||p - P_j||,   margin = min(largest gap, `limit`)

the gap of a class being the distance of its mean prototype to the nearest other one.
"""

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from .contract import Arrays, Plugin, Site, Update
from .fedproto import FedProtoClient, FedProtoSettings
from .prototypes import PrototypeServer, contrastive, nearest_other
from .seeds import derive, drawing, generator


class FedTGPSettings(FedProtoSettings):
    """Settings of fedtgp."""

    epochs: int = Field(100, ge=1, description="the server's passes over the clients' prototypes")
    lr: float = Field(0.01, gt=0, description="the server's learning rate, plain SGD")
    batch_size: int = Field(10, ge=1, description="prototypes in a step of the server")
    limit: float = Field(100.0, gt=0, description="largest margin")


class FedTGPClient(FedProtoClient):
    """FedProto's client."""

    strategy = "fedtgp"


class _Trained(nn.Module):
    """A vector for each class and the network that makes prototypes [classes, d] of them."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(classes, width))
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        made: Tensor = self.layers(self.vectors)
        return made


class FedTGPServer(PrototypeServer[FedTGPSettings]):
    """Trains the global prototypes."""

    strategy = "fedtgp"

    def __init__(self, settings: FedTGPSettings, site: Site) -> None:
        super().__init__(settings, site)
        self.seed = site.seed
        with drawing(derive(site.seed, "fedtgp")):
            self.trained = _Trained(*self.prototypes.shape)

    def begin(self) -> Any:
        """Give the sums by class, and what each client sent."""
        return {}, {}

    def add(self, total: Any, client: str, update: Update) -> None:
        """Add to the sums; keep the prototypes themselves."""
        sums, sent = total
        super().add(sums, client, update)
        sent[client] = [(label, np.array(mean)) for label, mean in self.checked(client, update)]

    def finish(self, total: Any, round_: int) -> None:
        """Train; the global prototypes are what the network gives."""
        sums, sent = total
        super().finish(sums, round_)
        pairs = [pair for client in sorted(sent) for pair in sent[client]]
        if not pairs:
            return
        labels = torch.tensor([label for label, _ in pairs])
        points = torch.from_numpy(np.stack([mean for _, mean in pairs]))
        margin = self._margin(sorted(sums))
        draws = generator(self.seed, "fedtgp", round_)
        optimizer = torch.optim.SGD(self.trained.parameters(), lr=self.settings.lr)
        for _ in range(self.settings.epochs):
            for index in torch.split(torch.randperm(len(labels), generator=draws), self.settings.batch_size):
                optimizer.zero_grad()
                contrastive(points[index], labels[index], self.trained(), margin).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        with torch.no_grad():
            self.prototypes = self.trained().numpy().copy()

    def _margin(self, sent: list[int]) -> Tensor:
        """Give the largest distance of the mean of a class that was sent to the nearest other one, up to the limit."""
        means = torch.from_numpy(self.prototypes[sent])
        if len(means) < 2:
            return torch.zeros(())
        return nearest_other(means).max().clamp_max(self.settings.limit)

    def state(self) -> Arrays:
        """Give prototypes and network."""
        own = {f"trained/{name}": value.numpy().copy() for name, value in self.trained.state_dict().items()}
        return {**super().state(), **own}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        own = {name: value for name, value in state.items() if name.startswith("trained/")}
        self.trained.load_state_dict(
            {name.removeprefix("trained/"): torch.from_numpy(np.array(value)) for name, value in own.items()}
        )


plugin = Plugin(FedTGPSettings, FedTGPClient, FedTGPServer, "FedProto, the server trains the prototypes (Zhang 2024)")
