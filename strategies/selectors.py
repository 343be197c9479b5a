"""The selectors that come with fedbox.

What each costs beside the round itself, with K clients and a cohort of m; a question is a message with the model down
and one number up, and its bytes stand in the round's record:

    uniform, round-robin          nothing
    curriculum, losses asked      K questions a round (with every=n: in each n-th round); with order=rand none
    power-of-choice, asked        d questions a round
    either, losses reported       nothing: the training losses that clients report anyway, as old as they are
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from pydantic import Field

from ..configs.ordering import Begin, Pacing, Rise
from .contract import Settings
from .order import allowed
from .seeds import derive
from .selection import Selector, SelectorPlugin

_REPORTED = "train_loss"


def drawn(clients: Sequence[str], size: int, seed: int) -> list[str]:
    """Draw `size` of the clients uniformly without replacement, in their order; all where there are no more."""
    if size >= len(clients):
        return list(clients)
    places = np.random.default_rng(seed).choice(len(clients), size, replace=False)
    return [clients[int(place)] for place in np.sort(places)]


class Uniform(Selector[Settings]):
    """Every client with the same chance."""

    def choose(self, round_: int, size: int, losses: Mapping[str, float]) -> Sequence[str]:
        """Draw from all clients."""
        return drawn(self.clients, size, derive(self.seed, "cohort", round_))


class RoundRobin(Selector[Settings]):
    """All clients in turn."""

    def choose(self, round_: int, size: int, losses: Mapping[str, float]) -> Sequence[str]:
        """Give the next ones in their order, beginning again at the end."""
        start, count = (round_ - 1) * size, len(self.clients)
        return [self.clients[(start + place) % count] for place in range(size)]


class LossSettings(Settings):
    """Settings of selectors that look at losses."""

    losses: Literal["asked", "reported"] = Field(
        "asked", description="ask clients for their loss before the choice, or use what they last reported"
    )


L = TypeVar("L", bound=LossSettings)


class ByLoss(Selector[L]):
    """Knows the last loss of each client that told one; NaN for one that holds nothing to measure or to train on."""

    def __init__(self, settings: L, clients: Sequence[str], seed: int, rounds: int) -> None:
        super().__init__(settings, clients, seed, rounds)
        self.known: dict[str, float] = {}

    def see(
        self, round_: int, asked: Mapping[str, float | None], clients: Mapping[str, Mapping[str, float | None]]
    ) -> None:
        """Remember the losses that were asked for, or those that clients reported."""
        if self.settings.losses == "asked":
            self.known.update({name: math.nan if loss is None else loss for name, loss in asked.items()})
            return
        for name, row in clients.items():
            loss = row.get(_REPORTED)
            if loss is not None and math.isfinite(loss):
                self.known[name] = loss
            elif "examples" in row:  # trained, and told none: never asked anew, it would be unheard for good
                self.known.setdefault(name, math.nan)

    def sorted(
        self, names: Sequence[str], losses: Mapping[str, float], purpose: str, round_: int, hard_first: bool
    ) -> list[str]:
        """Sort clients by loss, equals by chance.

        Those whose loss nobody knows come first, so that they get known; those that have none, or none that is finite,
        come last whatever the order: they have nothing to learn from, or nothing that is known of it.
        """
        known = {**self.known, **losses}
        sign = -1.0 if hard_first else 1.0

        def key(name: str) -> float:
            if name not in known:
                return -math.inf
            return sign * known[name] if math.isfinite(known[name]) else math.inf

        order = np.random.default_rng(derive(self.seed, purpose, round_)).permutation(len(names))
        mixed = [names[int(place)] for place in order]
        return sorted(mixed, key=key)


class CurriculumSettings(LossSettings):
    """Settings of the curriculum over clients."""

    order: Literal["curr", "anti", "rand"] = Field("curr", description="easy, hard or any clients first")
    pacing: Pacing = Field("linear", description="how the pool grows with the rounds")
    a: Rise = Field(0.8, description="share of the rounds after which all clients are in the pool")
    b: Begin = Field(0.2, description="share of the clients in the pool of the first round")
    every: int = Field(1, ge=1, description="losses asked: rounds between two times that all clients are asked")


class Curriculum(ByLoss[CurriculumSettings]):
    """Draws from a pool of the easiest clients that grows (Vahidian et al. 2023): the first g(t) by mean loss."""

    def asks(self, round_: int, size: int) -> Sequence[str]:
        """Ask everybody, where losses are asked for; also in the first round that takes clients, as after a warm-up."""
        wanted = self.settings.losses == "asked" and self.settings.order != "rand"
        due = (round_ - 1) % self.settings.every == 0 or not self.known
        return list(self.clients) if wanted and due else ()

    def choose(self, round_: int, size: int, losses: Mapping[str, float]) -> Sequence[str]:
        """Draw from the pool."""
        settings, count = self.settings, len(self.clients)
        if settings.order == "rand":
            order = np.random.default_rng(derive(self.seed, "pool")).permutation(count)
            ranked = [self.clients[int(place)] for place in order]
        else:
            ranked = self.sorted(self.clients, losses, "pool", round_, settings.order == "anti")
        pool = allowed(settings.pacing, round_ - 1, self.rounds, count, settings.a, settings.b, size)
        return drawn(ranked[:pool], size, derive(self.seed, "cohort", round_))


class ChoiceSettings(LossSettings):
    """Settings of power-of-choice."""

    candidates: int = Field(20, ge=1, description="d, clients of which the ones with the largest loss are chosen")


class PowerOfChoice(ByLoss[ChoiceSettings]):
    """Chooses the clients with the largest loss among d drawn ones (Cho et al. 2020, arXiv 2010.01243).

    The paper draws the d by the size of their data; here all clients have the same chance, for the server does not know
    what they hold.
    """

    def _candidates(self, round_: int, size: int) -> list[str]:
        wanted = max(self.settings.candidates, size)
        return drawn(self.clients, wanted, derive(self.seed, "candidates", round_))

    def asks(self, round_: int, size: int) -> Sequence[str]:
        """Ask the candidates, where losses are asked for."""
        return self._candidates(round_, size) if self.settings.losses == "asked" else ()

    def choose(self, round_: int, size: int, losses: Mapping[str, float]) -> Sequence[str]:
        """Choose the candidates with the largest loss; of one that did not answer, its last one counts."""
        return self.sorted(self._candidates(round_, size), losses, "ties", round_, True)[:size]


uniform = SelectorPlugin(Settings, Uniform, "every client with the same chance")
round_robin = SelectorPlugin(Settings, RoundRobin, "all clients in turn")
curriculum = SelectorPlugin(CurriculumSettings, Curriculum, "a growing pool, easy clients first (Vahidian 2023)")
power_of_choice = SelectorPlugin(ChoiceSettings, PowerOfChoice, "the largest losses among some (Cho 2020)")
