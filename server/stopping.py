"""When a run may end before its last round."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from ..configs import StopConfig
from .records import lower_is_better, read_rounds

log = logging.getLogger(__name__)


class Stopper:
    """Watches one metric: `done` once it reaches the target, or has not improved for `patience` evaluations."""

    def __init__(self, config: StopConfig) -> None:
        self.config = config
        self.done = False
        self._best: float | None = None
        self._waited, self._warned = 0, False

    @property
    def idle(self) -> bool:
        """Whether no metric can end the run."""
        return self.config.target is None and self.config.patience is None

    def see(self, metrics: Mapping[str, float | None]) -> bool:
        """Take note of a round's metrics; give whether it counts: the metric is there and finite."""
        value = metrics.get(self.config.metric)
        if value is None or not math.isfinite(value):  # in rounds.jsonl, which `replay` reads, that is null
            return False
        sign = -1.0 if lower_is_better(self.config.metric) else 1.0
        if self.config.target is not None and sign * value >= sign * self.config.target:
            self.done = True
        if self._best is None or sign * value > sign * self._best:
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self.config.patience is not None and self._waited >= self.config.patience:
            self.done = True
        return True

    def miss(self, metrics: Mapping[str, float | None]) -> None:
        """Warn, once, where a round that was evaluated lacks the metric that may end the run: it may be misspelt."""
        if not self.idle and not self._warned and self.config.metric not in metrics:
            self._warned = True
            known = ", ".join(name for name in metrics if "." not in name)
            log.warning("evaluate.stop.metric=%s is no metric of this run, which has %s", self.config.metric, known)

    def replay(self, rounds: Path) -> None:
        """Take note of the rounds that were run before a resume."""
        for record in read_rounds(rounds):
            self.see(record["metrics"])
