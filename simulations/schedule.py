"""Who goes first: the client that is likely to take longest, so that no worker is left alone with it at the end.

Longest processing time first (Graham, 1969): with w workers a round takes at most 4/3 - 1/(3w) of the shortest possible
time. Only the order is chosen here; the result does not depend on it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..strategies.federation import Federation
from ..strategies.grids import Span

_NEW = 0.5  # weight of a new measurement against the former ones


class Schedule:
    """Predicts how long the clients of a federation take: by their samples, later by their measured seconds as well.

    Measured seconds count against what the samples of the same round's clients foretold, so that rounds of another
    phase, or on a busy machine, do not mislead. Memory: 8 bytes a client and kind of message.
    """

    def __init__(self, federation: Federation) -> None:
        sizes = np.diff(federation.clients.offsets).astype(np.float32)
        same = np.ones_like(sizes) if federation.config.train.steps else sizes + 1
        self._work = {"train": same, "evaluate": sizes + 1}
        self._pace: dict[str, NDArray[np.float32]] = {}
        self._number = federation.number

    def order(self, kind: str, names: Sequence[str]) -> list[str]:
        """Give the names, longest first, for messages of a kind (train, evaluate); equals stay in their order."""
        numbers = [self._number(name) for name in names]
        foretold = self._foretold(kind, numbers)
        if kind in self._pace:
            foretold = foretold * self._pace[kind][numbers]
        return [names[place] for place in np.argsort(-foretold, kind="stable")]

    def learn(self, kind: str, spans: Iterable[Span]) -> None:
        """Take in how long the clients of one cohort ran."""
        seconds = {self._number(span.client): span.ended - span.began for span in spans}
        if not seconds:
            return
        numbers = list(seconds)
        took, foretold = np.array(list(seconds.values()), np.float32), self._foretold(kind, numbers)
        if not took.sum() > 0:
            return
        pace = self._pace.setdefault(kind, np.ones(len(self._work["train"]), np.float32))
        now = took / foretold * (foretold.sum() / took.sum())
        pace[numbers] += _NEW * (now - pace[numbers])

    def _foretold(self, kind: str, numbers: list[int]) -> NDArray[np.float32]:
        work: NDArray[np.float32] = self._work.get(kind, self._work["evaluate"])[numbers]
        return work
