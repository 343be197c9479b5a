"""The least value of a quadratic form over shares: a >= 0 that sum to 1."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SLACK = 1e-12
"""By how much a corner of a form whose mean diagonal is 1 must lie below, to be more than rounding."""
_VISITS = 100
"""So many times the corners are taken in at most, should rounding make the search go round in circles."""


def least_quadratic(matrix: Floats) -> Floats:
    """Give the shares a [n] that minimise a' M a, M [n, n] symmetric and positive semi-definite.

    The minimum-norm-point algorithm (Wolfe, 1976): the best point of the affine hull of some corners, corners taken in
    while one lies below it and out where its share would turn negative. It ends after finitely many steps, exactly but
    for rounding, whatever the condition of M. A form of all zeros gives equal shares.
    """
    count = len(matrix)
    scale = float(np.trace(matrix)) / max(count, 1)
    if scale <= 0:
        return np.full(count, 1 / count)
    form: Floats = np.asarray(matrix / scale, np.float64)
    shares: Floats = np.zeros(count)
    shares[int(np.argmin(np.diag(form)))] = 1.0
    for _ in range(_VISITS * count):
        slope = form @ shares
        corner = int(np.argmin(slope))
        if shares[corner] > 0 or slope[corner] >= shares @ slope - _SLACK:
            break
        shares = _within(form, shares, np.append(np.flatnonzero(shares), corner))
    return shares


def _within(form: Floats, shares: Floats, corners: NDArray[np.int64]) -> Floats:
    """Give the best shares over some of the corners, leaving out those whose share would not be positive."""
    while True:
        size = len(corners)
        # Stationary under sum(a) = 1. Least squares, for a singular form has many solutions: the shortest is taken.
        system = np.block(
            [[form[np.ix_(corners, corners)], np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]]
        )
        best = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
        if (best > 0).all():
            found = np.zeros_like(shares)
            found[corners] = best
            return found
        now = shares[corners]
        falling = best <= 0
        way = np.where(falling, now / np.where(falling, np.maximum(now - best, 1e-300), 1), np.inf)
        now = now + min(float(way.min()), 1.0) * (best - now)
        now[int(np.argmin(way))] = 0.0
        now = np.maximum(now, 0)
        shares = np.zeros_like(shares)
        shares[corners] = now / now.sum()
        corners = np.flatnonzero(shares)
