"""FedPAC on pseudo-labels: statistics and combined classifiers against their formulas."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from boxes_for_tests import site_of

from fedbox.strategies.contract import RefusedUpdateError, Update
from fedbox.strategies.exact import SumRangeError
from fedbox.strategies.fedpac_ema import FedPACClient, FedPACServer, FedPACSettings, _statistics


def test_statistics_are_the_spread_of_scaled_one_hot_features() -> None:
    """V is the trace of the covariance of h = one_hot(y) (x) f, over n: counted here from the points themselves."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 3)), rng.integers(4, size=40)
    hot = np.eye(4)[labels]
    joint = (hot[:, :, None] * features[:, None, :]).reshape(40, -1)
    trace = ((joint - joint.mean(0)) ** 2).sum() / 40
    told = _statistics(hot.T @ features, hot.sum(0), hot.T @ (features**2).sum(1))
    assert told["v"] == pytest.approx([trace / 40])
    assert np.allclose(told["sums"], [features[labels == c].sum(0) for c in range(4)])


def test_no_points_at_all_are_no_spread() -> None:
    told = _statistics(np.zeros((4, 3)), np.zeros(4), np.zeros(4))
    assert told["v"].tolist() == [0.0]


def _update(server: FedPACServer, means: np.ndarray, v: float, fill: float) -> Update:  # type: ignore[type-arg]
    """10 points of every class with these feature means [classes]; all weights are `fill`."""
    classes, width = server.prototypes.shape
    weights = {name: np.full_like(value, fill) for name, value in server.weights.items()}
    sums = np.repeat(10 * means[:, None], width, 1)
    return Update(weights, 100, {}, {"sums": sums, "counts": np.full(classes, 10.0), "v": np.array([v])})


def test_the_server_combines_classifiers_by_likeness() -> None:
    """Alike clients share their classifiers by their V; one that is far off is left to itself."""
    server = FedPACServer(FedPACSettings(), site_of("server"))
    classes = len(server.prototypes)
    alike, far = np.ones(classes), np.full(classes, 1000.0)
    told: dict[str, tuple[Any, float, float]] = {
        "client-0": (alike, 1.0, 1.0),
        "client-1": (alike, 3.0, 2.0),
        "client-2": (far, 1.0, 7.0),
    }
    total = server.begin()
    for name, (means, v, fill) in told.items():
        server.add(total, name, _update(server, means, v, fill))
    server.finish(total, 1)
    assert np.allclose(server.prototypes, (1 + 1 + 1000) / 3)
    # min a^2 + 3 (1 - a)^2 at a = 3/4: both get 0.75 * 1 + 0.25 * 2.
    heads = {name: server.ask_client(2, name) for name in told}
    for name in ("client-0", "client-1"):
        for value in heads[name].values():
            assert np.allclose(value, 1.25, atol=1e-3)
    assert all(np.allclose(value, 7.0, atol=1e-3) for value in heads["client-2"].values())
    assert all(key.startswith("own/head.classes.") for key in heads["client-0"])
    other = FedPACServer(FedPACSettings(), site_of("server"))
    other.restore(server.state())
    again = other.ask_client(2, "client-1")
    assert all(np.array_equal(again[key], value) for key, value in heads["client-1"].items())


def test_who_has_no_reliable_pseudo_label_keeps_the_global_classifier() -> None:
    """No points are no spread, V = 0: read as certainty, every other client would take that client's classifier."""
    server = FedPACServer(FedPACSettings(), site_of("server"))
    means = np.ones(len(server.prototypes))
    server.heads["client-2"] = {"head.classes.bias": np.zeros(1, np.float32)}  # of an earlier round
    total = server.begin()
    for name, v, fill in (("client-0", 1.0, 1.0), ("client-1", 1.0, 3.0), ("client-2", 0.0, 50.0)):
        update = _update(server, means, v, fill)
        if v == 0:
            update.extra["counts"][:] = update.extra["sums"][:] = 0
        server.add(total, name, update)
    server.finish(total, 1)
    assert server.ask_client(2, "client-2") == {}
    for name in ("client-0", "client-1"):
        assert all(np.allclose(value, 2.0, atol=1e-3) for value in server.ask_client(2, name).values())


def test_a_class_that_nobody_saw_keeps_its_prototype() -> None:
    server = FedPACServer(FedPACSettings(), site_of("server"))
    server.prototypes[:] = 5.0
    update = _update(server, np.ones(len(server.prototypes)), 1.0, 1.0)
    update.extra["counts"][0] = 0
    update.extra["sums"][0] = 0
    total = server.begin()
    server.add(total, "client-0", update)
    server.finish(total, 1)
    assert np.allclose(server.prototypes[0], 5.0)
    assert np.allclose(server.prototypes[1:], 1.0)


def test_who_does_not_tell_its_statistics_is_refused() -> None:
    server = FedPACServer(FedPACSettings(), site_of("server"))
    update = _update(server, np.ones(len(server.prototypes)), 1.0, 1.0)
    for name, wrong in (("sums", None), ("counts", np.zeros(1)), ("v", np.zeros(1, np.int64))):
        extra = {key: value for key, value in update.extra.items() if key != name}
        total = server.begin()
        with pytest.raises(RefusedUpdateError, match=f"extra array '{name}'"):
            server.add(total, "client-0", replace(update, extra=extra if wrong is None else {**extra, name: wrong}))
        assert total[0].terms == 0


def test_figures_that_are_out_of_range_are_their_clients_fault() -> None:
    """Squares of 1e200 overflow: the forms of all clients were NaN then, and no classifier could be combined."""
    server = FedPACServer(FedPACSettings(), site_of("server"))
    means, total = np.ones(len(server.prototypes)), server.begin()
    server.add(total, "client-0", _update(server, means, 1e20, 1.0))
    for wrong in (_update(server, 1e200 * means, 1.0, 1.0), _update(server, means, 1e200, 1.0)):
        with pytest.raises(SumRangeError):
            server.add(total, "client-1", wrong)
    server.finish(total, 1)
    assert set(server.heads) == {"client-0"}


def test_a_client_that_fails_leaves_nothing_on_the_network_that_others_train() -> None:
    site = site_of()
    with pytest.raises(KeyError, match="prototypes"):  # which the server did not send
        FedPACClient(FedPACSettings()).train(site)
    assert not site.model.get_submodule("head.classes")._forward_pre_hooks
