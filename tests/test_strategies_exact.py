from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbox.strategies.exact import ExactSum, SumFullError, SumRangeError

FLOATS = st.floats(-1e6, 1e6, width=32)
TERMS = st.lists(st.tuples(st.lists(FLOATS, min_size=3, max_size=3), st.integers(1, 5000)), min_size=1, max_size=30)


def _term(values: list[float]) -> dict[str, np.ndarray]:
    return {"w": np.array(values, np.float32)}


def _sum(terms: list[tuple[list[float], int]]) -> ExactSum:
    total = ExactSum()
    for values, weight in terms:
        total.add(_term(values), weight)
    return total


@given(TERMS, st.randoms(use_true_random=False))
def test_the_order_of_the_terms_does_not_change_a_bit(terms, random) -> None:
    shuffled = terms[:]
    random.shuffle(shuffled)
    assert _sum(terms).total()["w"].tobytes() == _sum(shuffled).total()["w"].tobytes()


@given(TERMS, st.integers(0, 30), st.integers(0, 30))
def test_partial_sums_merge_to_the_same_bits(terms, first, second) -> None:
    low, high = sorted((min(first, len(terms)), min(second, len(terms))))
    merged = ExactSum()
    for part in (terms[high:], terms[:low], terms[low:high]):
        merged.merge(_sum(part))
    whole = _sum(terms)
    assert merged.total()["w"].tobytes() == whole.total()["w"].tobytes()
    assert merged.weight == whole.weight
    assert merged.mean()["w"].tobytes() == whole.mean()["w"].tobytes()


@given(TERMS)
@settings(max_examples=50)
def test_the_mean_agrees_with_rational_arithmetic(terms) -> None:
    weights = sum(weight for _, weight in terms)
    for column in range(3):
        exact = sum(Fraction(float(np.float32(values[column]))) * weight for values, weight in terms) / weights
        got = float(_sum(terms).mean()["w"][column])
        # The low grid rounds each term by 2**-49 at most; then the mean is rounded to float32.
        assert abs(got - float(exact)) <= len(terms) * 2.0**-49 / weights + abs(float(exact)) * 2.0**-24 + 1e-45


def test_a_sum_that_is_too_large_or_has_too_many_terms_says_so() -> None:
    total = ExactSum()
    with pytest.raises(SumRangeError, match=r"reaches 3e\+11 times its weight; .*; a smaller train.lr"):
        total.add(_term([3e11, 0, 0]), 1)
    for _ in range(8):
        total.add(_term([2.7e11, 0, 0]), 1)
    for more in (lambda: total.add(_term([2.7e11, 0, 0]), 1), lambda: total.merge(total)):
        with pytest.raises(SumFullError, match=r"the sum of a round's updates leaves the .*; a smaller train\.lr"):
            more()
    total.terms = 2**16
    with pytest.raises(SumFullError, match="a sum of 65537 terms is not exact; at most 65536 can be summed"):
        total.add(_term([1, 0, 0]), 1)


def test_plain_float_sums_do_depend_on_the_order() -> None:
    # The reason for this module: the same three numbers, two orders, two results.
    terms = [([1e6, 0, 0], 1), ([1e-4, 0, 0], 1), ([-1e6, 0, 0], 1)]
    orders = [terms, [terms[0], terms[2], terms[1]]]
    plain = {np.float32(sum((np.float32(t[0][0]) for t in order), np.float32(0))).tobytes() for order in orders}
    assert len(plain) == 2
    assert len({_sum(order).total()["w"].tobytes() for order in orders}) == 1
    assert _sum(terms).total()["w"][0] == pytest.approx(np.float64(np.float32(1e-4)), abs=2.0**-48)


def test_fractional_weights_do_not_depend_on_the_order() -> None:
    terms = [([1.0, 2.0, 3.0], weight) for weight in (0.1, 0.2, 0.3, 1e-9)]
    assert _sum(terms).weight == _sum(terms[::-1]).weight
    assert _sum(terms).mean()["w"].tobytes() == _sum(terms[::-1]).mean()["w"].tobytes()


def test_whole_numbers_come_back_as_whole_numbers() -> None:
    total = ExactSum()
    total.add({"n": np.array([3], np.int64)}, 1)
    total.add({"n": np.array([6], np.int64)}, 1)
    assert total.mean()["n"].dtype == np.int64
    assert total.mean()["n"][0] == 4  # 4.5 rounds to even


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_term_out_of_range_is_refused_and_leaves_the_sum_alone(bad: float) -> None:
    total = _sum([([1.0, 2.0, 3.0], 2)])
    before = total.total()["w"].tobytes()
    with pytest.raises(SumRangeError, match="'w'"):
        total.add(_term([0.0, bad, 0.0]), 1)
    assert total.total()["w"].tobytes() == before
    assert total.weight == 2


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(SumRangeError, match="weight"):
        ExactSum().add(_term([1, 2, 3]), weight)


def test_terms_must_have_the_same_names_and_shapes() -> None:
    total = _sum([([1.0, 2.0, 3.0], 1)])
    with pytest.raises(SumRangeError, match="shape"):
        total.add({"w": np.zeros(4, np.float32)}, 1)
    with pytest.raises(SumRangeError, match="'v'"):
        total.add({"v": np.zeros(3, np.float32)}, 1)
    with pytest.raises(SumRangeError, match="lacks w"):
        total.add({}, 1)


def test_no_terms_have_no_mean() -> None:
    assert ExactSum().mean() == {}
