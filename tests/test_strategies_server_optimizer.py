"""The server's optimiser against steps worked by hand."""

import math
from typing import Any

import numpy as np
import pytest

from fedbox.strategies.server_optimizer import ServerOptimizer, ServerOptimizerSettings

BEFORE: dict[str, Any] = {"w": np.array([1.0, -2.0], np.float32), "count": np.array(5)}
MEAN: dict[str, Any] = {"w": np.array([1.5, -2.0], np.float32), "count": np.array(9)}
TAU = 1e-3


def _optimizer(rule: str, **settings: Any) -> ServerOptimizer:
    checked = ServerOptimizerSettings.model_validate({"server_optimizer": rule, **settings})
    return ServerOptimizer(checked, frozenset({"w"}))


def test_none_and_plain_sgd_are_the_mean() -> None:
    for optimizer in (_optimizer("none"), _optimizer("sgd", server_lr=1.0, server_beta1=0.0)):
        moved = optimizer.step(BEFORE, MEAN)
        assert moved["w"].tolist() == MEAN["w"].tolist()
        assert moved["count"] == 9
        assert moved["w"].dtype == np.float32


def test_sgd_with_momentum_by_hand() -> None:
    optimizer = _optimizer("sgd", server_lr=0.5, server_beta1=0.9)
    first = optimizer.step(BEFORE, MEAN)  # D = 0.5, m = 0.5
    assert first["w"].tolist() == pytest.approx([1.25, -2.0])
    again = optimizer.step(first, {**MEAN, "w": np.array([1.25, -1.0], np.float32)})  # m = 0.9 * (0.5, 0) + (0, 1)
    assert again["w"].tolist() == pytest.approx([1.25 + 0.5 * 0.45, -2.0 + 0.5])


@pytest.mark.parametrize(
    ("rule", "second"),
    [
        ("adagrad", TAU**2 + 0.25),
        ("adam", 0.99 * TAU**2 + 0.01 * 0.25),
        ("yogi", TAU**2 + 0.01 * 0.25),  # v < D^2, so the sign is -1
    ],
)
def test_adaptive_rules_by_hand(rule: str, second: float) -> None:
    moved = _optimizer(rule, server_lr=0.1).step(BEFORE, MEAN)
    step = 0.1 * (0.1 * 0.5) / (math.sqrt(second) + TAU)
    assert moved["w"].tolist() == pytest.approx([1 + step, -2.0])
    assert moved["count"] == 9


def test_yogi_lets_v_shrink_slowly_where_adam_forgets() -> None:
    still = {**MEAN, "w": BEFORE["w"]}
    values = {}
    for rule in ("adam", "yogi"):
        optimizer = _optimizer(rule)
        optimizer.step(BEFORE, MEAN)
        before = float(optimizer.second["w"][0])
        optimizer.step(BEFORE, still)  # D = 0
        values[rule] = float(optimizer.second["w"][0]) / before
    assert values["adam"] == pytest.approx(0.99)
    assert values["yogi"] == pytest.approx(1.0)  # v - (1 - b2) * 0


def test_moments_survive_a_checkpoint() -> None:
    one, other = _optimizer("adam"), _optimizer("adam")
    moved = one.step(BEFORE, MEAN)
    other.restore(one.state())
    assert one.step(moved, MEAN)["w"].tobytes() == other.step(moved, MEAN)["w"].tobytes()
    assert _optimizer("adam").step(moved, MEAN)["w"].tobytes() != one.step(moved, MEAN)["w"].tobytes()


def test_arrays_that_did_not_come_back_are_left_out() -> None:
    assert set(_optimizer("adam").step(BEFORE, {"w": MEAN["w"]})) == {"w"}
