"""Random draws as pure functions of (seed, purpose, client name), and the counts they share."""

from hashlib import sha256

import numpy as np

from .arrays import DataError, Int64Array

# Shares come as decimal fractions: 0.29 * 100 is 28.999999999999996, which must count as 29.
_ROUNDING = 1e-9


def generator(seed: int, purpose: str, client: str = "") -> np.random.Generator:
    """Return a NumPy generator that depends on nothing but its three arguments."""
    digest = sha256(f"{seed}\x1f{purpose}\x1f{client}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def check_share(name: str, share: float) -> None:
    """Raise DataError unless `share` lies in 0..1."""
    if not 0 <= share <= 1:
        raise DataError(f"{name} is a share from 0 to 1, got {share}")


def count_of(share: float, total: int) -> int:
    """Return how many of `total` samples a share stands for, rounded down."""
    return int(share * total + _ROUNDING)


def stratified(labels: Int64Array, count: int, rng: np.random.Generator) -> Int64Array:
    """Choose `count` positions of `labels` [n] so that classes keep their proportions.

    Each class gets its proportional number, rounded so that the sum is `count`, and at least one
    if `count` allows one for each class. Ties are broken by chance, else low labels would always win.
    Returns the chosen positions, sorted int64.
    """
    values, inverse = np.unique(labels, return_inverse=True)
    if count <= 0 or not len(values):
        return np.empty(0, np.int64)
    available = np.bincount(inverse, minlength=len(values))
    quota = _apportion(available, min(count, len(labels)), rng)
    # A random rank inside each class: sort by class, ties by a random number.
    order = np.lexsort((rng.random(len(labels)), inverse))
    starts = np.concatenate(([0], np.cumsum(available)[:-1]))
    rank = np.arange(len(labels)) - np.repeat(starts, available)
    chosen: Int64Array = np.sort(order[rank < np.repeat(quota, available)]).astype(np.int64)
    return chosen


def _apportion(available: Int64Array, count: int, rng: np.random.Generator) -> Int64Array:
    """Split `count` over classes by largest remainder, at least one each where `count` allows it."""
    exact = available * (count / available.sum())
    quota: Int64Array = np.floor(exact + _ROUNDING).astype(np.int64)
    if count >= len(available):
        quota = np.maximum(quota, 1)
    tie = rng.permutation(len(available))
    while (missing := count - int(quota.sum())) != 0:
        gain = (exact - quota) if missing > 0 else (quota - exact)
        allowed = quota < available if missing > 0 else quota > 1
        best = np.lexsort((tie, -np.where(allowed, gain, -np.inf)))
        step = best[: min(abs(missing), int(allowed.sum()))]
        quota[step] += 1 if missing > 0 else -1
    return quota
