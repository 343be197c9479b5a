"""The choice of a round's cohort by the configured selector, and the questions that it has asked."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from ..configs import Config
from ..strategies.contract import ServerHalf
from ..strategies.seeds import derive, seed_everything
from ..strategies.selection import PROBE, Selector, cohort, make_selector, questioned
from . import hooks
from .collect import Collector
from .collected import Collected
from .records import Record, read_rounds
from .roster import Roster


class Names(Sequence[str]):
    """The names of a roster as a sequence; none is made before it is read."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def __len__(self) -> int:
        return len(self._roster)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Give the name at a place, or those of a slice."""
        if isinstance(place, slice):
            return [self._roster.name(number) for number in range(*place.indices(len(self)))]
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(place)
        return self._roster.name(number)


class Chooser:
    """The selector of a run, what it asked in this round (`probed`) and the losses it was told (`asked`)."""

    def __init__(self, config: Config, roster: Roster, collector: Collector) -> None:
        clients = config.clients
        self.name, self.seed, self._collector = clients.selector, config.seed, collector
        self.selector: Selector[Any] = make_selector(
            clients.selector, clients.selector_settings, Names(roster), config.seed, config.rounds
        )
        self._places = {name: place for place, name in enumerate(self.selector.clients)}
        self.begin()

    def begin(self) -> None:
        """Forget the questions of the round before."""
        self.probed, self.asked = Collected(), dict[str, float]()

    def choose(self, round_: int, size: int, half: ServerHalf[Any]) -> list[str]:
        """Give the cohort in the roster's order. Raises PluginError for what is none.

        A client that does not answer stands among the round's failures, and may be chosen all the same.
        """
        seed_everything(derive(self.seed, "select", round_))
        names = questioned(self.name, self.selector, round_, size, self._places)
        if names:
            ask = replace(hooks.ask_evaluate(half, round_ - 1), phase=PROBE)
            self.probed = self._collector.collect("evaluate", round_, ask, names, lambda _name, _update: None)
            rows = self.probed.clients
            # One that answered without a loss holds nothing to measure, or what it measured is not finite.
            nothing = {name: math.nan for name, row in rows.items() if "loss" not in row}
            self.asked = nothing | {name: row["loss"] for name, row in rows.items() if "loss" in row}
        return cohort(self.name, self.selector, round_, size, self.asked, self._places)

    def see(self, record: Record) -> None:
        """Show the selector a round's record."""
        self.selector.see(record["round"], record.get("asked", {}), record["clients"])

    def replay(self, path: Path) -> None:
        """Show the selector the records of all rounds so far."""
        for record in read_rounds(path):
            self.see(record)
