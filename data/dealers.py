"""Kinds of partition, dealt by the partitioners of flwr-datasets.

Each function takes a `Wish` and returns the positions of each client's samples, and its natural keys if
it has any. `_deal` is the only place that touches the insides of flwr-datasets.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import DataError, Int64Array
from .draws import generator
from .library import partitioners
from .options import did_you_mean

PROFILES = ("linear", "square", "exponential")
# Work that redrawing an infeasible Dirichlet wish may cost, in clients x classes + samples / 10: about three
# seconds. A count, not a clock, so that a slow machine draws the same partition.
_DRAW_BUDGET = 1_500_000
_DRAWS = 200


@dataclass(frozen=True)
class Wish:
    """The arguments of `partition`, with the samples already in shuffled order."""

    labels: Int64Array
    attributes: Mapping[str, NDArray[Any]]
    clients: int
    seed: int
    alpha: float
    min_size: int
    classes_per_client: int
    key: str | None
    profile: str
    balance: bool
    ordered: float = 1.0


Parts = tuple[Iterable[Sequence[int]], tuple[str, ...] | None]


def covers(positions: Int64Array, total: int) -> bool:
    """Return whether each of `total` samples occurs exactly once in `positions`."""
    return len(positions) == total and bool((np.bincount(positions, minlength=total) == 1).all())


def _deal(partitioner: Any, **columns: NDArray[Any]) -> list[Sequence[int]]:
    """Let a flwr-datasets partitioner divide rows with these columns; return the rows of each part.

    The one place that touches the insides of flwr-datasets (0.6): all its partitioners but the IID one fill
    the table `_partition_id_to_indices` when the first part is loaded. Its public way, load_partition,
    copies a data set for each part, 0.4 ms a client; it stays as the way out should the table vanish.
    """
    import datasets

    rows = np.arange(len(next(iter(columns.values()))))
    # In the arrow format a column comes as one array; else it is read value by value, 10 us each.
    partitioner.dataset = datasets.Dataset.from_dict({"row": rows, **columns}).with_format("arrow")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # repeated draws and unused classes are checked and told by us
        first = partitioner.load_partition(0)
        parts = range(partitioner.num_partitions)
        table = getattr(partitioner, "_partition_id_to_indices", None)
        if table:
            return [table[part] for part in parts]
        loaded = chain([first], (partitioner.load_partition(part) for part in parts[1:]))
        return [np.asarray(part["row"]).tolist() for part in loaded]


def _iid(wish: Wish) -> Parts:
    # Not IidPartitioner: it can only copy a data set for each part. Its sizes are the same.
    size, more = divmod(len(wish.labels), wish.clients)
    sizes = [size + 1] * more + [size] * (wish.clients - more)
    return _deal(partitioners().SizePartitioner(sizes), label=wish.labels), None


def _dirichlet(wish: Wish) -> Parts:
    total, classes = len(wish.labels), len(np.unique(wish.labels))
    if not wish.alpha > 0:
        raise DataError(f"alpha must be above 0, got {wish.alpha}")
    if not 0 <= wish.min_size * wish.clients <= total:
        raise DataError(
            f"{wish.clients} clients with at least {wish.min_size} samples each need "
            f"{wish.min_size * wish.clients}; there are {total}: lower data.partition.min_size or "
            "data.partition.clients"
        )
    # Each draw is a partitioner of its own with min_partition_size 0: the library's own loop gives up
    # after eleven draws, and warns at length after each.
    draws = int(np.clip(_DRAW_BUDGET // (wish.clients * classes + total // 10), 2, _DRAWS))
    best = 0
    for draw in range(draws):
        seed = _library_seed(wish.seed, f"dirichlet-{draw}")
        dealer = partitioners().DirichletPartitioner(
            wish.clients, "label", float(wish.alpha), 0, self_balancing=wish.balance, shuffle=False, seed=seed
        )
        parts = _deal(dealer, label=wish.labels)
        # Balancing divides by zero where all open clients got a share of 0: such a draw is no partition.
        if not covers(np.fromiter(chain.from_iterable(parts), np.int64), total):
            continue
        smallest = min(map(len, parts))
        if smallest >= wish.min_size:
            return parts, None
        best = max(best, smallest)
    raise DataError(
        f"Dirichlet with alpha {wish.alpha} over {wish.clients} clients and {total} samples left the "
        f"smallest client with at most {best} samples in {draws} draws, below min_size {wish.min_size}: "
        "choose a larger alpha, a smaller min_size or fewer clients"
    )


def _pathological(wish: Wish) -> Parts:
    count, known = wish.classes_per_client, np.unique(wish.labels)
    if not 1 <= count <= len(known):
        raise DataError(f"classes_per_client must lie in 1..{len(known)}, the number of classes; got {count}")
    if wish.clients * count < len(known):
        raise DataError(
            f"{wish.clients} clients with {count} classes each leave some of {len(known)} classes to nobody; "
            f"choose at least {-(-len(known) // count)} clients "
            f"or {-(-len(known) // wish.clients)} classes each"
        )
    # Which class comes first must not depend on its number: the classes are renamed by chance.
    order = generator(wish.seed, "pathological-classes").permutation(len(known))
    labels = order[np.searchsorted(known, wish.labels)]
    seed = _library_seed(wish.seed, "pathological")
    # With fewer clients than classes the library may leave classes to nobody; so each client then gets
    # `count` parts of one class each, and neighbouring parts are of different classes.
    few = wish.clients < len(known)
    dealt, each = (wish.clients * count, 1) if few else (wish.clients, count)
    dealer = partitioners().PathologicalPartitioner(
        dealt, "label", each, "first-deterministic", shuffle=False, seed=seed
    )
    try:
        parts = _deal(dealer, label=labels)
    except ValueError as error:
        smallest = int(np.unique(wish.labels, return_counts=True)[1].min())
        raise DataError(
            f"{wish.clients} clients with {count} classes each: some class has fewer samples "
            f"(the smallest has {smallest}) than clients "
            "that want it; choose fewer clients or fewer classes_per_client"
        ) from error
    if few:
        parts = [list(chain.from_iterable(parts[i : i + count])) for i in range(0, dealt, count)]
    return parts, None


def natural_values(attributes: Mapping[str, NDArray[Any]], key: str | None, kind: str = "natural") -> NDArray[Any]:
    """Return the attribute `key`, or raise DataError that names those there are."""
    if key is None or key not in attributes:
        fault = "needs key, the name of an attribute" if key is None else f"found no attribute {key!r}"
        hint = did_you_mean(key, attributes) if key else ""
        has = ", ".join(attributes) or "none"
        raise DataError(f"partition {kind!r} {fault}{hint}; the data has {has}")
    return attributes[key]


def _natural(wish: Wish) -> Parts:
    values, inverse = np.unique(natural_values(wish.attributes, wish.key), return_inverse=True)
    names = [str(value) for value in values.tolist()]
    if wish.clients <= len(values):
        groups = np.array_split(np.arange(len(values)), wish.clients)
        client_of = np.repeat(np.arange(wish.clients), [len(group) for group in groups])
        site = client_of[inverse]
        keys = tuple("+".join(names[value] for value in group) for group in groups)
    else:
        counts = np.bincount(inverse)
        shares = np.array([len(part) for part in np.array_split(np.arange(wish.clients), len(values))])
        if (counts < shares).any():
            short = int(np.argmax(counts < shares))
            raise DataError(
                f"{wish.clients} clients mean {shares[short]} for {wish.key} {names[short]!r}, which has "
                f"{counts[short]} samples; choose fewer clients"
            )
        starts = np.cumsum(shares) - shares
        site = starts[inverse] + _rank(inverse) % shares[inverse]
        keys = tuple(np.repeat(names, shares).tolist())
    # A group of one value is what NaturalIdPartitioner gives, without its progress bar.
    return _deal(partitioners().GroupedNaturalIdPartitioner("site", 1, sort_unique_ids=True), site=site), keys


def _rank(groups: Int64Array) -> Int64Array:
    """Return the place of each member within its group, counted from 0 in order of appearance."""
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups)
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _quantity(wish: Wish) -> Parts:
    dealers = dict(zip(PROFILES, ("LinearPartitioner", "SquarePartitioner", "ExponentialPartitioner"), strict=True))
    if wish.profile not in dealers:
        hint = did_you_mean(wish.profile, PROFILES)
        raise DataError(f"unknown profile {wish.profile!r}{hint}; known are {', '.join(PROFILES)}")
    try:
        return _deal(getattr(partitioners(), dealers[wish.profile])(wish.clients), label=wish.labels), None
    except ValueError as error:
        raise DataError(
            f"quantity profile {wish.profile!r} over {wish.clients} clients leaves some with none of the "
            f"{len(wish.labels)} samples; choose fewer clients or a flatter profile (linear is the flattest)"
        ) from error


def _inc(wish: Wish) -> Parts:
    difficulty = natural_values(wish.attributes, wish.key, "inc")
    if difficulty.dtype.kind not in "fiub" or not np.isfinite(difficulty).all():
        raise DataError(
            f"partition 'inc' needs finite numbers that say how hard each sample is; {wish.key!r} holds "
            f"{'numbers that are not finite' if difficulty.dtype.kind == 'f' else difficulty.dtype}"
        )
    # The samples are shuffled already: the first ones are any ones, and equally hard ones are in any order.
    ordered = round(wish.ordered * len(difficulty))
    easy_first = np.argsort(difficulty[:ordered], kind="stable")
    by_rank = np.array_split(easy_first, wish.clients)
    # The last parts of `by_rank` may be one smaller: what is dealt by chance fills them up first.
    by_chance = np.array_split(np.arange(ordered, len(difficulty)), wish.clients)[::-1]
    return [np.concatenate(pair).tolist() for pair in zip(by_rank, by_chance, strict=True)], None


def _library_seed(seed: int, purpose: str) -> int:
    return int(generator(seed, f"partition-{purpose}").integers(2**32))


KINDS: Mapping[str, Callable[[Wish], Parts]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "natural": _natural,
    "quantity": _quantity,
    "inc": _inc,
}
