"""What a client's samples are for: labelled, unlabelled, or its own test share; and what the server holds."""

from dataclasses import dataclass

import numpy as np

from .arrays import DataError, Int64Array
from .draws import check_share, count_of, generator
from .draws import stratified as draw_stratified


@dataclass(frozen=True, eq=False)
class Roles:
    """The samples of one client by role: three disjoint int64 arrays of sample indices, each ascending."""

    labelled: Int64Array
    unlabelled: Int64Array
    test: Int64Array


def assign_roles(
    indices: Int64Array,
    labels: Int64Array,
    *,
    client: str,
    seed: int,
    test_share: float = 0.0,
    label_share: float | None = None,
    label_count: int | None = None,
    stratified: bool = False,
) -> Roles:
    """Divide one client's samples, as a pure function of (seed, client) and of what it holds.

    indices: int64, the client's samples. labels: int64, those of the whole data set, which `indices` count;
    only the client's own are looked at.
    test_share: share kept for the client's own test, rounded down; at least one sample is left to train on.
    label_share or label_count: how many of the others carry a label; by default all, never more than
    there are. A share above 0 gives at least one.
    stratified: draw labelled samples in proportion to the client's classes, not uniformly (FedLabel
    draws them uniformly). The test share is always drawn uniformly.

    Raises DataError for a share outside 0..1, a negative count, or both a share and a count.
    """
    check_share("test_share", test_share)
    if label_share is not None and label_count is not None:
        raise DataError(f"give label_share ({label_share}) or label_count ({label_count}), not both")
    order = generator(seed, "roles-test", client).permutation(indices)
    tests = min(count_of(test_share, len(indices)), max(len(indices) - 1, 0))
    test, train = np.sort(order[:tests]), np.sort(order[tests:])
    count = _labelled_count(len(train), label_share, label_count)
    chosen = np.zeros(len(train), dtype=bool)
    rng = generator(seed, "roles-labels", client)
    if stratified:
        chosen[draw_stratified(labels[train], count, rng)] = True
    else:
        chosen[rng.permutation(len(train))[:count]] = True
    return Roles(train[chosen], train[~chosen], test)


def _labelled_count(total: int, share: float | None, count: int | None) -> int:
    if count is not None:
        if count < 0:
            raise DataError(f"label_count must be at least 0, got {count}")
        return min(count, total)
    if share is None:
        return total
    check_share("label_share", share)
    return max(count_of(share, total), min(1, total)) if share > 0 else 0


def server_share(
    labels: Int64Array, share: float | None = None, count: int | None = None, *, seed: int
) -> tuple[Int64Array, Int64Array]:
    """Choose the samples that the server holds with their labels; return (server's indices, the rest).

    share or count: how many of the samples with these `labels` [n]. Classes keep their proportions, and
    each has at least one sample if the count allows it. Both results are ascending int64.

    Raises DataError for a share outside 0..1, a count outside 0..n, or not exactly one of the two.
    """
    return _split(labels, share, count, seed, "server")


def holdout(labels: Int64Array, share: float, seed: int) -> tuple[Int64Array, Int64Array]:
    """Choose a validation split in the manner of `server_share`; return (held-out indices, the rest)."""
    return _split(labels, share, None, seed, "holdout")


def _split(
    labels: Int64Array, share: float | None, count: int | None, seed: int, purpose: str
) -> tuple[Int64Array, Int64Array]:
    if (share is None) == (count is None):
        raise DataError(f"give either a share or a count of the {purpose}'s samples, got {share} and {count}")
    if share is not None:
        check_share(f"{purpose} share", share)
        count = count_of(share, len(labels))
    if count is None or not 0 <= count <= len(labels):
        raise DataError(f"the {purpose}'s count must lie in 0..{len(labels)}, the samples there are; got {count}")
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[draw_stratified(labels, count, generator(seed, f"{purpose}-share"))] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)
