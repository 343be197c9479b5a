"""FedOpt: against FedAvg, which it is without momentum, and against its formula over two rounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedbox

TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 2,
    "data": {"dataset": "digits", "options": {"limit": 300}, "partition": {"kind": "iid", "clients": 3}},
    "model": {"name": "mlp", "options": {"hidden": 16}},
    "engine": {"workers": 1},
}


def _run(folder: Path, rounds: int = 2, **settings: Any) -> dict[str, Any]:
    strategy = {"strategy": "fedopt", "settings": {"fedopt": settings}} if settings else {"strategy": "fedavg"}
    result = fedbox.run(TOY | strategy, out=folder, quiet=True, report=False, rounds=rounds)
    return {name: np.asarray(value, np.float64) for name, value in result.weights().items()}


def test_plain_steps_of_one_are_fedavg(tmp_path: Path) -> None:
    plain = _run(tmp_path / "fedavg")
    stepped = _run(tmp_path / "fedopt", server_optimizer="sgd", server_lr=1.0, server_beta1=0.0)
    for name, value in plain.items():
        np.testing.assert_allclose(stepped[name], value, rtol=0, atol=1e-5)


def test_momentum_carries_the_first_rounds_change_into_the_second(tmp_path: Path) -> None:
    """w1 = w0 + D1 either way; at momentum 0.5 then w2 = w1 + D2 + 0.5 D1, where FedAvg from w1 gives w1 + D2."""
    start = {k: np.asarray(v, np.float64) for k, v in _initial(tmp_path / "start").items()}
    first, second = _run(tmp_path / "a", 1), _run(tmp_path / "b", 2)
    carried = _run(tmp_path / "c", 2, server_beta1=0.5)
    for name, value in carried.items():
        wanted = second[name] + 0.5 * (first[name] - start[name])
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-5)


def _initial(folder: Path) -> Any:
    """Give the weights before round 1: nothing moves at a server learning rate of next to nothing."""
    return _run(folder, 1, server_lr=1e-12)


@pytest.mark.parametrize("rule", ["adagrad", "yogi", "adam"])
def test_the_adaptive_rules_make_steps_of_their_own_size(rule: str, tmp_path: Path) -> None:
    """One round: m = 0.1 D, v = tau^2 + D^2 or their mixture, so that no weight moves further than lr."""
    start = _initial(tmp_path / "start")
    moved = _run(tmp_path / "moved", 1, server_optimizer=rule, server_lr=0.01)
    plain = _run(tmp_path / "plain", 1)
    for name, value in moved.items():
        change, tau2 = plain[name] - start[name], 1e-6
        square = change**2
        mixed = 0.99 * tau2 + 0.01 * square
        second = {
            "adagrad": tau2 + square,
            "adam": mixed,
            "yogi": tau2 - 0.01 * square * np.sign(tau2 - square),
        }[rule]
        wanted = start[name] + 0.01 * 0.1 * change / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(value, wanted, rtol=0, atol=2e-5)
