"""Trimmed mean and median of the clients' weights, coordinate by coordinate (Yin et al. 2018, arXiv 1803.01498).

Definition 2: leave out the share beta of the values at each end, average the rest. At beta = 1/2 only the middle value
(of an even count: the middle two) is left, the median of definition 1. Every client counts once, whatever its size.
"""

import numpy as np
from pydantic import Field

from fedbox.strategies import ClientHalf, Plugin, ServerHalf, Settings, Update


class MedianSettings(Settings):
    """Settings of the robust mean."""

    beta: float = Field(0.5, ge=0.0, le=0.5, description="share of the values left out at each end; 0.5 is the median")


class MedianServer(ServerHalf[MedianSettings]):
    """Keeps the round's updates and takes their middle: a few corrupted clients cannot pull it away."""

    def begin(self) -> dict[str, Update]:
        """Start a round with no update."""
        return {}

    def add(self, total: dict[str, Update], client: str, update: Update) -> None:
        """Keep the update under its client's name; a client without samples has none."""
        if update.examples > 0:
            total[client] = update

    def finish(self, total: dict[str, Update], round_: int) -> None:
        """Sort the values of each coordinate and average those in the middle."""
        cut = min(int(self.settings.beta * len(total)), (len(total) - 1) // 2)
        for name, old in self.weights.items() if total else ():
            values = np.sort([total[client].weights[name] for client in sorted(total)], axis=0)
            self.weights[name] = np.asarray(values[cut : len(total) - cut].mean(axis=0, dtype=np.float64), old.dtype)


plugin = Plugin(MedianSettings, ClientHalf, MedianServer, "median of the clients' weights (Yin 2018)")
