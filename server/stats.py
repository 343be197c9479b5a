"""Statistics of lists of numbers, numbers written for people, the natural order of names; NaN is an unknown number."""

import math
import re
import statistics
from collections.abc import Sequence

ABSENT = "\u2013"
SCORES = ("accuracy", "map50")
"""The score of each task: classes, boxes."""


def finite(values: Sequence[float]) -> list[float]:
    """Give the values that are neither NaN nor infinite."""
    return [v for v in values if math.isfinite(v)]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean and the sample standard deviation (divisor n - 1) of the finite values, else NaN."""
    kept = finite(values)
    mean = statistics.fmean(kept) if kept else math.nan
    return mean, statistics.stdev(kept) if len(kept) > 1 else math.nan


def worst_decile(values: Sequence[float], *, low_is_bad: bool = True) -> float:
    """Give the mean of the worst tenth of the n finite values; NaN if there are none.

    The tenth is rounded down, floor(n / 10) values but at least one: 19 clients have one in it, 20 have two.
    """
    kept = sorted(finite(values), reverse=not low_is_bad)
    return statistics.fmean(kept[: max(1, len(kept) // 10)]) if kept else math.nan


def gini(values: Sequence[float]) -> float:
    """Give the Gini coefficient of the finite values, all at least 0: 0 where all are equal, near 1 where one has all.

    It is the mean absolute difference of all pairs over twice the mean; NaN for no values, a negative one or sum 0.
    """
    kept = sorted(finite(values))
    total = math.fsum(kept)
    if not kept or kept[0] < 0 or total <= 0:
        return math.nan
    ranks = math.fsum((2 * place - len(kept) - 1) * value for place, value in enumerate(kept, start=1))
    return ranks / (len(kept) * total)


def quantile(values: Sequence[float], share: float) -> float:
    """Give the quantile, share in [0, 1], of the finite values, linear between neighbours; NaN for none."""
    kept = sorted(finite(values))
    if not kept:
        return math.nan
    place = share * (len(kept) - 1)
    low = math.floor(place)
    high = min(low + 1, len(kept) - 1)
    return kept[low] + (place - low) * (kept[high] - kept[low])


def number(value: float) -> str:
    """Write a number for a table: four decimals up to 10, whole from 1,000, a dash for NaN."""
    if not math.isfinite(value):
        return ABSENT
    size = abs(value)
    if (float(value).is_integer() and size >= 10) or size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 0.001:
        return f"{value:.2e}"
    return f"{value:.4f}" if size < 10 else f"{value:.2f}"


def whole(value: float) -> str:
    """Write a count: no decimals, a dash for NaN."""
    return f"{value:,.0f}" if math.isfinite(value) else ABSENT


def plus_minus(mean: float, std: float) -> str:
    """Write `mean ± std`, or the mean alone where there is no deviation."""
    return f"{number(mean)} ± {number(std)}" if math.isfinite(std) else number(mean)


def byte_unit(largest: float) -> tuple[float, str]:
    """Give the decimal unit (its size in bytes, its name) in which `largest` bytes read best."""
    units = [(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")]
    return max((u for u in units if u[0] <= max(largest, 1.0)), default=units[0])


def human_bytes(count: float) -> str:
    """Write a number of bytes in decimal units: 12345 becomes `12.3 kB`."""
    if not math.isfinite(count):
        return ABSENT
    size, name = byte_unit(count)
    scaled = count / size
    return f"{scaled:.0f} {name}" if name == "B" or scaled >= 100 else f"{scaled:.3g} {name}"


def duration(seconds: float) -> str:
    """Write seconds: `4.2 s`, `3 min 12 s` or `1 h 02 min`."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def printable(value: object) -> str:
    """Give text that HTML and XML can carry: each control character or lone surrogate becomes U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Give a sort key in which numbers inside a name count as numbers; the name itself parts a-1 from a-01."""
    parts = (part for part in re.split(r"([0-9]+)", name) if part)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], name
