"""The least value of a quadratic form over shares: a >= 0 that sum to 1."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 2000


def least_quadratic(matrix: Floats) -> Floats:
    """Give the shares a [n] that minimise a' M a, M [n, n] symmetric and positive semi-definite.

    Projected gradient with momentum (Beck and Teboulle, 2009) from equal shares; the step is the inverse of the
    largest eigenvalue. A form of all zeros leaves the shares equal.
    """
    count = len(matrix)
    shares = before = np.full(count, 1 / count)
    largest = float(np.linalg.eigvalsh(matrix)[-1]) if count else 0.0
    if largest <= 0:
        return shares
    momentum, point = 1.0, shares
    for _ in range(_STEPS):
        before, shares = shares, project(point - (matrix @ point) / largest)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        point = shares + (momentum - 1) / following * (shares - before)
        momentum = following
    return shares


def project(values: Floats) -> Floats:
    """Give the shares nearest to the values [n] (Duchi et al. 2008, figure 1)."""
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    last = int(np.flatnonzero(falling > excess)[-1])
    return np.asarray(np.maximum(values - excess[last], 0.0))
