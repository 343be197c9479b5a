"""Ordered learning: which of its samples a client uses at which step (Vahidian et al., ICCV 2023, arXiv 2212.12712).

Every supervised batch of every strategy comes from `Site.batches`, and that is where an order applies, so no strategy
knows of it. With N samples and a budget of `total` steps, which is the same whatever the order, step t = 0, 1, ...
draws its batch from the first max(g(t), least) samples in the order, with s = b N and T = a total:

    linear  s + (N - s) t/T              step  s + N floor(t/T)
    quad    s + (N - s) (t/T)^2          exp   s + (N - s) (e^(10 t/T) - 1) / (e^10 - 1)
    sqrt    s + (N - s) (t/T)^(1/2)      log   s + (N - s) (1 + ln(t/T + e^-10) / 10)

cut to 1..N. Every sample that is allowed is seen once before any is seen again; one that becomes allowed meanwhile
joins those still to come. Batches are full wherever so many samples are allowed: where fewer are still to come than
a batch holds, it is filled up from the next pass. (If it were not, a part that grows by two samples a step would make
batches of two once its first samples are through, at the learning rate of whole ones: such training diverges.)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..configs import OrderConfig
from ..configs.ordering import Pacing
from ..models import FlatModel
from .samples import Samples

_SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "quad": lambda x: x * x,
    "sqrt": math.sqrt,
    "exp": lambda x: math.expm1(10 * min(x, 1.0)) / math.expm1(10),
    "log": lambda x: 1 + math.log(x + math.exp(-10)) / 10,
}


def allowed(pacing: Pacing, t: int, total: int, count: int, a: float, b: float, least: int = 1) -> int:
    """Give how many of `count` things, in 1..count, may be used at step t (from 0) of `total`.

    Raises ValueError for a pacing that allows none: a, b or least not above 0.
    """
    if not (a > 0 and b > 0 and least > 0 and count > 0 and total > 0):
        raise ValueError(
            f"a pacing with a={a:g}, b={b:g}, least={least} over {total} steps allows none of {count} samples; "
            "all of these must be above 0"
        )
    x, start = t / (a * total), b * count  # 55 / (0.55 * 100) is 0.9999999999999999
    size = start + (count * math.floor(x + 1e-9) if pacing == "step" else (count - start) * _SHAPES[pacing](x))
    # A sum such as 20.000000000000004 or 19.999999999999996 is 20.
    return min(max(math.floor(size + 1e-9), least, 1), count)


def ranked(scores: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Give the places [n], int64, in the order of learning by scores [n]; equals, and all with `rand`, by chance."""
    chance = torch.randperm(len(scores), generator=generator)
    if kind == "rand":
        return chance
    shuffled = scores.cpu()[chance]
    return chance[torch.argsort(shuffled, descending=kind == "anti", stable=True)]


def paced(order: Tensor, config: OrderConfig, size: int, total: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Give the places, int64 [min(size, allowed)], of the batch of each of `total` steps, from places in order [n]."""

    def shuffled(places: Tensor) -> Tensor:
        return places[torch.randperm(len(places), generator=generator)]

    waiting, known = order[:0], 0
    for t in range(total):
        now = allowed(config.pacing, t, total, len(order), config.a, config.b, config.least)
        if now > known:
            waiting, known = shuffled(torch.cat((waiting, order[known:now]))), now
        batch = waiting[:size]
        if len(batch) < min(size, known):  # the pass ends in this batch; what is in it comes again later in the next
            again = shuffled(order[:known][~torch.isin(order[:known], batch)])
            missing = size - len(batch)
            batch, waiting = torch.cat((batch, again[:missing])), shuffled(torch.cat((again[missing:], batch)))
        else:
            waiting = waiting[size:]
        yield batch


class Order:
    """The order of one client in one visit.

    G is the model as it stands when the first batch of any kind is drawn, which is what the server sent, or for a
    strategy with personal models the client's own. `last` holds the arrays of the client's model as its last visit left
    it, `expert` those of the expert. Samples are scored once a visit.
    """

    def __init__(
        self,
        config: OrderConfig,
        last: Mapping[str, NDArray[Any]] | None = None,
        expert: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.config = config
        self._last, self._expert = last or {}, expert or {}
        self._start: dict[str, NDArray[Any]] | None = None
        self._scored: list[tuple[Samples, Tensor]] = []

    def begin(self, flat: FlatModel) -> None:
        """Remember the model as it stands, unless that was done."""
        if self._start is None and self.config.kind != "rand":
            self._start = whole(flat)

    def batches(
        self, samples: Samples, flat: FlatModel, *, size: int, total: int, measured: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Give the places of each step's batch. `size` is that of a batch to learn, `measured` of one to score."""
        known = next((scores for scored, scores in self._scored if scored is samples), None)
        if known is None:
            known = self._scores(samples, flat, measured)
            self._scored.append((samples, known))
        yield from paced(ranked(known, self.config.kind, generator), self.config, size, total, generator)

    def _scores(self, samples: Samples, flat: FlatModel, measured: int) -> Tensor:
        """Give the scores [n] of samples; the model is afterwards as it was."""
        if self.config.kind == "rand":
            return torch.zeros(len(samples))
        now = whole(flat)
        start = self._start or now
        choices: dict[str, list[Mapping[str, NDArray[Any]]]] = {
            "G": [start],
            "L": [self._last or start],
            "LG": [start, self._last or start],
            "E": [self._expert],
        }
        modes = [(module, module.training) for module in flat.module.modules()]
        try:
            flat.module.eval()
            total = torch.zeros(len(samples))
            for arrays in choices[self.config.score]:
                flat.load(arrays)
                total += samples.difficulty(flat.module, measured, self.config.measure).cpu()
            return total
        finally:
            flat.load(now)
            for module, mode in modes:
                module.training = mode


def whole(flat: FlatModel) -> dict[str, NDArray[Any]]:
    """Give copies of all of a model's parameters and buffers."""
    return flat.state(flat.module.state_dict())
