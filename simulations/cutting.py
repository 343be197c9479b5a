"""How a cohort is cut into groups: large enough to save messages, small enough that no worker waits for another."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..server.grouping import Cut
from ..strategies.contract import ClientHalf
from ..strategies.federation import Federation
from ..strategies.grids import Span
from .calibrate import Choice, choose

log = logging.getLogger("fedbox.engine")

_SECONDS = 0.25  # that a group takes at most: what a bar on a terminal may stand still, and what a dead worker costs
_MOST = 32  # clients of a stack: more save nothing


class Cutter:
    """Cuts the cohorts of one run for so many workers. How long clients take is learnt from the round before.

    Which clients go together changes no bit of the result, except in stacks of a size that the configuration asks
    for: those are cut by the cohort's order alone.
    """

    def __init__(self, federation: Federation, half: ClientHalf[Any], tell: Callable[[str], None]) -> None:
        self._federation, self._half, self._tell = federation, half, tell
        self._choice: Choice | None = None
        self._pace: float | None = None
        self._asked: dict[str, int] = {}

    def cut(self, cohort: Sequence[str], workers: int, order: Callable[[Sequence[str]], Sequence[str]]) -> Cut:
        """Give the groups of a cohort: in its order where a size is asked for, else in that of `order`."""
        if self._choice is None:
            self._choice = choose(self._federation, self._half)
            (self._tell if self._choice.news else log.debug)(self._choice.why)
        count, size = len(cohort), self._choice.size
        if not size:
            cohort = order(cohort)
            if self._choice.stacked:
                size = max(1, min(-(-count // workers), _MOST, self._fits()))
        sizes = [size] * -(-count // size) if size else _guided(count, workers, self._fits() if self._pace else 1)
        groups, at = [], 0
        for size in sizes:
            groups.append(cohort[at : at + size])
            at += size
        self._asked = {group[0]: len(group) for group in groups}
        return Cut(groups, self._choice.stacked)

    def _fits(self) -> int:
        """Give how many clients fit into the time of a group."""
        return _MOST if not self._pace else max(1, int(_SECONDS / self._pace))

    def learn(self, spans: Sequence[Span]) -> list[Span]:
        """Learn from the spans of the cohort that was cut last how long a client takes; give those of one client."""
        mine = [span for span in spans if span.client in self._asked]
        clients = sum(self._asked[span.client] for span in mine)
        if clients:
            self._pace = max(sum(span.ended - span.began for span in mine) / clients, 1e-6)
        asked, self._asked = self._asked, {}
        return [span for span in spans if asked.get(span.client, 1) == 1]


def _guided(count: int, workers: int, most: int) -> Iterable[int]:
    """Give the sizes of groups of `count` clients: a share of those that are left, so the last ones are small."""
    while count > 0:
        size = max(1, min(count // (2 * workers) if workers > 1 else count, most))
        yield size
        count -= size
