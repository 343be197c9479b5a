"""The partition by difficulty: by hand, as a property, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbox.data import DataError
from fedbox.data.partition import partition


def test_the_first_client_has_the_easiest_by_hand() -> None:
    hard = np.array([0.3, 0.1, 0.9, 0.2, 0.5, 0.7])
    parts = partition(np.zeros(6, np.int64), {"hard": hard}, kind="inc", key="hard", clients=3, seed=0)
    assert [parts.indices(client).tolist() for client in range(3)] == [[1, 3], [0, 4], [2, 5]]


@given(st.integers(1, 12), st.integers(12, 60), st.floats(0, 1), st.integers(0, 99))
def test_parts_are_equal_and_rise_as_far_as_ordered(clients: int, count: int, ordered: float, seed: int) -> None:
    hard = np.random.default_rng(seed).permutation(count).astype(float)
    given_ = {"kind": "inc", "key": "hard", "clients": clients, "seed": seed, "ordered": ordered}
    parts = partition(np.zeros(count, np.int64), {"hard": hard}, **given_)
    assert parts.sizes.max() - parts.sizes.min() <= 1
    assert sorted(parts.flat.tolist()) == list(range(count))
    if ordered == 1:
        edges = [(hard[parts.indices(client)].min(), hard[parts.indices(client)].max()) for client in range(clients)]
        assert all(before[1] < after[0] for before, after in pairwise(edges))


def test_none_in_order_is_a_partition_by_chance() -> None:
    hard = np.arange(1000.0)
    parts = partition(np.zeros(1000, np.int64), {"hard": hard}, kind="inc", key="hard", clients=10, seed=0, ordered=0.0)
    means = [hard[parts.indices(client)].mean() for client in range(10)]
    # Each mean has the standard deviation 29: six of these is beyond any luck, and no order of difficulty.
    assert all(abs(mean - 499.5) < 175 for mean in means)


@pytest.mark.parametrize("values", [np.array(["a", "b", "c"]), np.array([1.0, np.nan, 2.0])])
def test_what_says_no_difficulty_is_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="needs finite numbers"):
        partition(np.zeros(3, np.int64), {"hard": values}, kind="inc", key="hard", clients=2, seed=0)
    with pytest.raises(DataError, match="partition 'inc' found no attribute 'hart'"):
        partition(np.zeros(3, np.int64), {"hard": values}, kind="inc", key="hart", clients=2, seed=0)
