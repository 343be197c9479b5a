"""Sums of arrays that do not depend on the order or the grouping of their terms.

Floating-point addition is not associative, so a mean over clients would change with the order in which replies
arrive and with the number of workers that add up parts of it. Here every term is first rounded to a fixed grid (a
function of the term alone), and sums of multiples of the grid are exact in float64 while they stay below 2**53 grid
steps. Two grids hold the leading and the following bits (the idea of pre-rounded summation: Demmel and Nguyen,
"Fast reproducible floating-point summation", 2013):

    high grid 2**-10: terms up to 2**38 in size, sums up to 2**41;
    low grid 2**-48: what the high grid leaves, up to 65,536 terms.

A float32 weight times a whole number of examples is exact in float64, so the only rounding is that of the low grid:
2**-49 a term.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]

DIVERGED = "a smaller train.lr or train.clip_norm often mends it"
"""What to do about weights that run away, whether they are still numbers or not."""
_LIMIT = 2.0**41
_MOST = 2.0**38  # of a term: fewer than eight that ran away must not fill the sum, which ends the run for all
_MAX_TERMS = 2**16
# Adding 1.5 * 2**(52 + e) to x and taking it away again rounds x to a multiple of 2**e (round half to even).
_HIGH = 1.5 * 2.0**42
_LOW = 1.5 * 2.0**4
_CHUNK = 2**15  # values split at a time: the scratch space (512 KB) stays in the cache, however large the model


class SumRangeError(ArithmeticError):
    """A term is too large, or not finite, to be added exactly."""


class SumFullError(ArithmeticError):
    """The sum would be too large to be exact. No term is to blame: which one comes last depends on the order alone."""


class ExactSum:
    """The exact weighted sum of named arrays: `add` terms or `merge` partial sums in any order.

    Every term must carry the names and shapes of the first one. Memory: 16 bytes an element, whatever the number of
    terms.
    """

    def __init__(self) -> None:
        self.terms = 0
        self._weight = Fraction(0)
        self._parts: dict[str, NDArray[np.float64]] = {}
        self._dtypes: dict[str, np.dtype[np.generic]] = {}
        self._bound = 0.0

    def add(self, arrays: Mapping[str, NDArray[np.generic]], weight: float) -> None:
        """Add `weight` times the arrays. Raises SumRangeError, and adds nothing, when the term is out of range.

        Raises SumFullError, and adds nothing, when the sum would be.
        `weight` is finite and not negative: a number of examples, or a share.
        """
        if not (np.isfinite(weight) and weight >= 0):
            raise SumRangeError(f"the weight of a term is {weight}; it must be finite and not negative")
        bound = self._checked_bound(arrays, weight)
        if not self._parts:
            self._dtypes = {name: array.dtype for name, array in arrays.items()}
            self._parts = {name: np.zeros((2, *array.shape)) for name, array in arrays.items()}
        scratch = np.empty((2, min(_CHUNK, max((array.size for array in arrays.values()), default=0))))
        for name, array in arrays.items():
            _add_term(self._parts[name].reshape(2, -1), array.reshape(-1), weight, scratch)
        self.terms += 1
        self._weight += Fraction(weight)
        self._bound = bound

    def _checked_bound(self, arrays: Mapping[str, NDArray[np.generic]], weight: float) -> float:
        largest = 0.0
        for name, array in arrays.items():
            if self._parts and (name not in self._parts or self._parts[name].shape[1:] != array.shape):
                raise SumRangeError(f"array '{name}' of shape {array.shape} does not fit the sum")
            largest = max(largest, checked_size(name, array, weight))
        if self._parts and len(arrays) != len(self._parts):
            raise SumRangeError(f"the term lacks {', '.join(sorted(set(self._parts) - set(arrays)))}")
        return self._room(self.terms + 1, self._bound + largest)

    @staticmethod
    def _room(terms: int, bound: float) -> float:
        """Give the bound of a sum of so many terms. Raises SumFullError where it would not be exact."""
        if terms > _MAX_TERMS:
            raise SumFullError(
                f"a sum of {terms} terms is not exact; at most {_MAX_TERMS} can be summed: take fewer clients.per_round"
            )
        if bound >= _LIMIT:
            raise SumFullError(f"the sum of a round's updates leaves the range that is exact; {DIVERGED}")
        return bound

    def merge(self, other: "ExactSum") -> None:
        """Add another sum to this one, as if its terms had been added here. Raises SumFullError as `add` does."""
        if not other._parts:
            return
        if not self._parts:
            self._dtypes = dict(other._dtypes)
            self._parts = {name: np.zeros(part.shape) for name, part in other._parts.items()}
        bound = self._room(self.terms + other.terms, self._bound + other._bound)
        for name, part in other._parts.items():
            self._parts[name] += part
        self.terms += other.terms
        self._weight += other._weight
        self._bound = bound

    def facts(self) -> dict[str, Any]:
        """Give, as plain values, what `restored` needs besides `halves` to make this sum again."""
        return {
            "terms": self.terms,
            "weight": [self._weight.numerator, self._weight.denominator],
            "dtypes": {name: kind.str for name, kind in self._dtypes.items()},
            "bound": self._bound,
        }

    def halves(self) -> Mapping[str, NDArray[np.float64]]:
        """Give the sums on the high and on the low grid, [2, *shape] by name."""
        return self._parts

    @classmethod
    def restored(cls, facts: Mapping[str, Any], halves: Mapping[str, NDArray[np.float64]]) -> "ExactSum":
        """Make the sum again that gave these facts and halves; the halves are not copied and may be read-only."""
        total = cls()
        total.terms, total._bound = int(facts["terms"]), float(facts["bound"])
        total._weight = Fraction(*facts["weight"])
        total._dtypes = {name: np.dtype(kind) for name, kind in facts["dtypes"].items()}
        total._parts = dict(halves)
        return total

    @property
    def weight(self) -> float:
        """The sum of the weights, exact before it is rounded to a float."""
        return float(self._weight)

    def total(self) -> dict[str, NDArray[np.float64]]:
        """Give the sums in float64."""
        return {name: part[0] + part[1] for name, part in self._parts.items()}

    def mean(self) -> Arrays:
        """Give the weighted mean in the arrays' own types (whole numbers are rounded); empty when no weight came."""
        if self.weight <= 0:
            return {}
        means: Arrays = {}
        for name, total in self.total().items():
            mean = total / self.weight
            kind = self._dtypes[name]
            # asarray: NumPy makes a scalar of an array without axes as soon as one computes with it.
            means[name] = np.asarray(np.rint(mean) if kind.kind in "iub" else mean).astype(kind)
        return means


def checked_size(name: str, array: NDArray[np.generic], weight: float = 1.0) -> float:
    """Give the size of the largest value times the weight. Raises SumRangeError where that is out of a term's range."""
    # Rounding keeps the order, so the largest term is the largest value times the weight.
    size = max(abs(float(array.max())), abs(float(array.min()))) * weight if array.size else 0.0
    if not size < _MOST:  # NaN fails this comparison too
        raise SumRangeError(
            f"array '{name}' reaches {size:g} times its weight; at most {_MOST:g} can be summed; {DIVERGED}"
        )
    return size


def _add_term(
    parts: NDArray[np.float64], values: NDArray[np.generic], weight: float, scratch: NDArray[np.float64]
) -> None:
    """Split `weight` times the values [n] on the two grids and add the halves to parts [2, n], chunk by chunk."""
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK]
        term, high = scratch[:, : chunk.size]
        np.multiply(chunk, weight, out=term, dtype=np.float64)
        np.add(term, _HIGH, out=high)
        high -= _HIGH
        term -= high  # exact: both are multiples of the term's last bit
        term += _LOW
        term -= _LOW
        target = parts[:, start : start + _CHUNK]
        target[0] += high
        target[1] += term
