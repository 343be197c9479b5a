"""A strategy that trains nothing: what it sends comes back. It measures the way, not the work."""

from typing import Any

import numpy as np
from pydantic import Field

from fedbox import Ask, ClientHalf, Plugin, ServerHalf, Settings, Site, Update
from fedbox.strategies.contract import Arrays, Metrics, Samples


class EchoSettings(Settings):
    """How much travels."""

    megabytes: int = Field(0, ge=0, description="megabytes of float32 that go to each client and come back")
    each: int = Field(10, ge=1, description="megabytes of one array")


class EchoClient(ClientHalf[EchoSettings]):
    """Gives back what it received."""

    def prepare(self, site: Site) -> None:
        """Load nothing."""

    def train(self, site: Site) -> Update:
        """Give the arrays back."""
        return Update({}, 0, {}, dict(site.received))


class EchoServer(ServerHalf[EchoSettings]):
    """Sends zeros, and forgets what comes back."""

    def ask(self, round_: int) -> Ask:
        """Send the same arrays in every round."""
        if not hasattr(self, "_load"):
            self._load: Arrays = {
                f"x{i}": np.zeros(self.settings.each * 250_000, np.float32)
                for i in range(self.settings.megabytes // self.settings.each)
            }
        return Ask(self._load)

    def expects(self) -> dict[str, Any]:
        """Want no weights."""
        return {}

    def begin(self) -> None:
        """Keep nothing."""

    def add(self, total: None, client: str, update: Update) -> None:
        """Forget the update."""

    def finish(self, total: None, round_: int) -> None:
        """Leave the weights as they are."""

    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        """Measure nothing."""
        return {}


plugin = Plugin(EchoSettings, EchoClient, EchoServer, "gives back what it is sent (for benchmarks)")
