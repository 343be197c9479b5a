"""Statistics for few seeds: t interval, paired t-test, exact sign-flip permutation test, Holm's correction.

For whole degrees of freedom Student's distribution is a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4), so
nothing has to be installed for it; the tests hold every function here against scipy.
"""

import itertools
import math
import statistics
from collections.abc import Sequence

EXACT_UP_TO = 16
"""Pairs up to which every pattern of signs is tried: 2 ** 16 of them."""

_ROUNDING = 1e-12  # of the largest value: what differences of equal size may lie apart


def t_two_sided(t: float, df: int) -> float:
    """Give P(|T| >= |t|) for Student's T with df >= 1 degrees of freedom, in [0, 1]."""
    theta = math.atan(abs(t) / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    if df % 2:
        inside, term = theta, sine * cosine
        for k in range(3, df + 1, 2):
            inside += term
            term *= cosine * cosine * (k - 1) / k
        return max(0.0, 1 - 2 / math.pi * inside)
    inside, term = 0.0, sine
    for k in range(2, df + 1, 2):
        inside += term
        term *= cosine * cosine * (k - 1) / k
    return max(0.0, 1 - inside)


def t_quantile(confidence: float, df: int) -> float:
    """Give the t with P(|T| < t) = confidence, which lies in (0, 1), by bisection."""
    low, high = 0.0, 1.0
    while t_two_sided(high, df) > 1 - confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, df) > 1 - confidence else (low, middle)
    return (low + high) / 2


def alike(values: Sequence[float]) -> bool:
    """Say whether the values are all equal, but for what rounding left."""
    return max(values) - min(values) <= _ROUNDING * max(map(abs, values))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Give mean -+ t * s / sqrt(n), the interval for the mean of normal values.

    NaN for fewer than two, and for values that are all equal: these tell nothing of how far others would lie apart.
    """
    if len(values) < 2 or alike(values):
        return math.nan, math.nan
    half = t_quantile(confidence, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def paired_t(differences: Sequence[float]) -> float:
    """Give the two-sided p-value of the paired t-test; NaN for fewer than two pairs.

    Differences that are all equal have no spread to be held against: p is 1 if they are 0, else NaN.
    """
    if len(differences) < 2:
        return math.nan
    if alike(differences):
        return math.nan if any(differences) else 1.0
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    return t_two_sided(mean / deviation * math.sqrt(len(differences)), len(differences) - 1)


def sign_flip(differences: Sequence[float]) -> float:
    """Give the exact two-sided p-value of the sign-flip permutation test: it assumes symmetry, not normality.

    The share of the 2 ** n patterns of signs whose sum is at least as far from 0 as the one seen; never below
    2 / 2 ** n, so five seeds cannot give less than 0.0625. NaN for fewer than two pairs, of which it could only
    be 1, or more than EXACT_UP_TO.
    """
    if not 2 <= len(differences) <= EXACT_UP_TO:
        return math.nan
    seen = abs(math.fsum(differences))
    slack = 1e-12 * math.fsum(abs(d) for d in differences)  # equal sums may differ in their last bit
    # The first sign is held: the other half of the patterns mirrors this one.
    first, *rest = differences
    sums = [
        abs(first + math.fsum(s * d for s, d in zip(signs, rest, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(rest))
    ]
    return sum(value >= seen - slack for value in sums) / len(sums)


def holm(values: Sequence[float]) -> list[float]:
    """Give Holm's step-down corrected p-values (Holm 1979), in the order given; NaN stays, and is not counted."""
    order = sorted((i for i, p in enumerate(values) if not math.isnan(p)), key=lambda i: values[i])
    corrected, floor = list(values), 0.0
    for place, i in enumerate(order):
        floor = max(floor, min(1.0, (len(order) - place) * values[i]))
        corrected[i] = floor
    return corrected
