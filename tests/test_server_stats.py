"""Statistics against hand-worked values, and numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbox.server.stats import byte_unit, duration, human_bytes, mean_std, number, quantile, worst_decile


def test_mean_and_sample_deviation_by_hand() -> None:
    assert mean_std([2.0, 4.0, 9.0]) == (5.0, pytest.approx(math.sqrt((9 + 1 + 16) / 2)))
    mean, std = mean_std([3.0, math.nan, math.inf])
    assert mean == 3.0
    assert math.isnan(std)
    assert all(math.isnan(v) for v in mean_std([]))


def test_worst_decile_is_the_mean_of_the_worst_tenth_rounded_down() -> None:
    twenty_nine = [i / 100 for i in range(29)]  # floor(2.9) = 2 clients
    assert worst_decile(twenty_nine) == pytest.approx((0.00 + 0.01) / 2)
    assert worst_decile(twenty_nine, low_is_bad=False) == pytest.approx((0.28 + 0.27) / 2)
    assert worst_decile([0.5, 0.25]) == 0.25
    assert worst_decile([0.1 * i for i in range(1, 11)] + [math.nan]) == pytest.approx(0.1)
    assert math.isnan(worst_decile([math.nan]))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_order_statistics_hold_their_bounds(values: list[float]) -> None:
    low, middle, high = (quantile(values, share) for share in (0, 0.5, 1))
    assert (low, high) == (min(values), max(values))
    assert low <= middle <= high
    assert low - 1e-9 <= worst_decile(values) <= mean_std(values)[0] + 1e-6


def test_quantile_is_linear_between_neighbours() -> None:
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.25) == 1.75


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (12345, "12.3 kB"), (1e6, "1 MB"), (123_456_789, "123 MB"), (5e15, "5000 TB")],
)
def test_bytes_are_written_in_decimal_units(count: float, text: str) -> None:
    assert human_bytes(count) == text
    assert byte_unit(count)[1] == text.split()[1]


def test_numbers_and_durations() -> None:
    assert [number(v) for v in (0.87214, 12, 12.345, 1234.5, 2e-5, -0.5)] == [
        "0.8721", "12", "12.35", "1,234", "2.00e-05", "-0.5000",
    ]  # fmt: skip
    assert not number(math.nan).isalnum()
    assert [duration(v) for v in (4.2, 59.97, 192, 3725)] == ["4.20 s", "1 min 00 s", "3 min 12 s", "1 h 02 min"]
