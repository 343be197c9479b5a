"""The quadratic form over shares, against SciPy's general solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedbox.strategies.simplex import least_quadratic


def test_worked_by_hand() -> None:
    # Without a common part the shares go by the inverse of the variances: 1/1 : 1/3 = 3 : 1.
    assert least_quadratic(np.diag([1.0, 3.0])).tolist() == pytest.approx([0.75, 0.25])
    # The second has a part that the first already covers: it gets nothing.
    assert least_quadratic(np.array([[1.0, 2.0], [2.0, 5.0]])).tolist() == pytest.approx([1.0, 0.0])
    assert least_quadratic(np.zeros((3, 3))).tolist() == pytest.approx([1 / 3] * 3)
    assert least_quadratic(np.array([[2.0]])).tolist() == [1.0]


@given(st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_it_finds_what_a_general_solver_finds(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((size, size))
    matrix = half @ half.T + np.diag(rng.random(size))
    shares = least_quadratic(matrix)
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    found = minimize(
        lambda a: a @ matrix @ a,
        np.full(size, 1 / size),
        jac=lambda a: 2 * matrix @ a,
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert shares @ matrix @ shares <= found.fun + 1e-6


def test_one_corner_a_thousand_times_as_far_off() -> None:
    """Ill-conditioned: two alike share by their variances, 3/4 to 1/4, and nothing is left for the third."""
    apart = np.zeros((3, 3))
    apart[2, 2] = 1e9
    shares = least_quadratic(np.diag([1.0, 3.0, 1.0]) + apart)
    assert shares.tolist() == pytest.approx([0.75, 0.25, 0.0], abs=1e-6)


@given(st.integers(1, 12), st.integers(0, 3), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_no_corner_lies_below_the_shares(size: int, rank: int, seed: int) -> None:
    """The condition of an optimum (Karush, Kuhn, Tucker), for singular forms of any scale too."""
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((size, max(rank, 1))) * 10.0 ** rng.integers(-6, 6)
    matrix = half @ half.T
    shares = least_quadratic(matrix)
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    assert (matrix @ shares).min() >= shares @ matrix @ shares - 1e-9 * np.trace(matrix)
