"""Class prototypes: FedSA's losses against hand-worked values, and the servers that make something of the means."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedbox
from fedbox.simulations.run import check
from fedbox.strategies.contract import RefusedUpdateError, Update
from fedbox.strategies.exact import SumRangeError
from fedbox.strategies.federation import Federation
from fedbox.strategies.fedproto import apart
from fedbox.strategies.fedsa import FedSAClient, FedSAServer, FedSASettings, draw_anchors, gap
from fedbox.strategies.fedtgp import FedTGPServer, FedTGPSettings
from fedbox.strategies.prototypes import ClassMeans, PrototypeServer, contrastive, distances, nearest
from fedbox.strategies.site import Holdings, Site

FAMILY: list[Any] = [{"name": name, "options": {"features": 24}} for name in ("mlp", "cnn", "vit")]
TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 2,
    "strategy": "fedsa",
    "data": {
        "dataset": "digits",
        "options": {"limit": 400, "test_limit": 50},
        "partition": {"kind": "dirichlet", "alpha": 0.3, "clients": 5, "min_size": 10},
        "test_share": 0.25,
    },
    "model": FAMILY,
    "train": {"batch_size": 10, "lr": 0.05},
    "evaluate": {"clients": "all", "personal": "clients"},
    "engine": {"workers": 1},
}
POINTS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])


def _site(name: str = "client-0", **changes: Any) -> Site:
    config = check(TOY, changes)
    federation, device = Federation.prepare(config), torch.device("cpu")
    samples = federation.samples(federation.roles(name).labelled, device)
    return Site(
        name=name,
        flat=federation.model(device, name),
        train_config=config.train,
        holdings=Holdings(lambda: samples, lambda: samples, lambda: samples),
        classes=10,
        seed=0,
        round=1,
    )


def _update(points: dict[int, float], width: int = 24, examples: int = 5) -> Update:
    extra = {
        "prototypes": np.array([[value] * width for value in points.values()], np.float32).reshape(len(points), width),
        "classes": np.array(list(points), np.int16),
    }
    return Update({}, examples, {}, extra)


def test_gaps_by_hand() -> None:
    assert gap(POINTS, "nearest").item() == pytest.approx((1 + math.hypot(3, 3) + 1) / 3)
    assert gap(POINTS, "pairwise").item() == pytest.approx((5 + 1 + math.hypot(3, 3)) / 3)
    for alone in (POINTS[:1], POINTS[:0]):  # a client with a single class has no gap
        assert gap(alone, "nearest").item() == gap(alone, "pairwise").item() == 0.0


def test_contrastive_loss_and_gradient_by_hand() -> None:
    """f = (0, 3) of class 2: d = (3, hypot(3, 1), 2), m = 1.5; scores -(3, hypot(3, 1), 3.5)."""
    features = torch.tensor([[0.0, 3.0]], dtype=torch.float64, requires_grad=True)
    loss = contrastive(features, torch.tensor([2]), POINTS.double(), torch.tensor(1.5, dtype=torch.float64))
    d = np.array([3.0, math.hypot(3, 1), 2.0])
    scores = -(d + 1.5 * np.array([0, 0, 1]))
    p = np.exp(scores) / np.exp(scores).sum()
    assert loss.item() == pytest.approx(-math.log(p[2]))
    loss.backward()
    ways = (np.array([[0.0, 3.0]]) - POINTS.numpy()) / d[:, None]  # of d_j by f
    assert np.allclose(features.grad, ((np.eye(3)[2] - p)[:, None] * ways).sum(0))


def test_a_feature_on_its_anchor_has_a_finite_gradient() -> None:
    features = POINTS[1:2].clone().requires_grad_()
    contrastive(features, torch.tensor([1]), POINTS, torch.tensor(1.0)).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert distances(POINTS, POINTS).diag().max().item() <= 1e-5


def test_the_whole_loss_is_the_sum_of_its_terms() -> None:
    site = _site()
    anchors = draw_anchors((10, 24), "network", 0)
    site.received = {"anchors": anchors.numpy()}
    features, labels = torch.randn(6, 24, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4, 5])
    model: Any = site.model

    def total(**weights: float) -> float:
        settings = FedSASettings(**{"regularise": 0.0, "contrast": 0.0, "calibrate": 0.0, **weights})  # type: ignore[arg-type]
        return float(FedSAClient(settings).terms(site, model)(features, model.head(features), labels))

    log_softmax = torch.log_softmax(model.head(features), 1)
    plain = float(-log_softmax[torch.arange(6), labels].mean())
    assert total() == pytest.approx(plain, rel=1e-5)
    pulled = float((features - anchors[labels]).square().mean())
    assert total(regularise=2.0) == pytest.approx(plain + 2 * pulled, rel=1e-5)
    every = torch.log_softmax(model.head(anchors), 1)
    assert total(calibrate=0.5) == pytest.approx(plain - 0.5 * float(every.diag().mean()), rel=1e-5)
    contrast = float(contrastive(features, labels, anchors, gap(anchors, "nearest")))
    assert total(contrast=3.0) == pytest.approx(plain + 3 * contrast, rel=1e-5)
    site.state = {"local/prototypes": 1000 * np.eye(3, 24, dtype=np.float32)}  # a larger gap, of the last round
    wide = float(contrastive(features, labels, anchors, torch.tensor(1000 * math.sqrt(2))))
    assert total(contrast=1.0) == pytest.approx(plain + wide, rel=1e-4)


def test_anchors_follow_from_the_seed() -> None:
    one, same, other = (draw_anchors((10, 24), "network", seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (one >= 0).all()  # out of a ReLU
    assert torch.allclose(draw_anchors((10, 24), "normalized", 3).norm(dim=1), torch.ones(10))


def test_private_anchors_are_each_clients_own_and_stay() -> None:
    given = {"anchors": np.zeros((10, 24), np.float32)}
    client, found = FedSAClient(FedSASettings(anchors="private")), []
    for name, round_ in (("client-0", 1), ("client-0", 2), ("client-1", 1)):
        site = _site(name)
        site.round, site.received = round_, given
        found.append(client._anchors(site))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_class_means_by_hand() -> None:
    means = ClassMeans(4, 2, torch.device("cpu"))
    means.add(torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 5.0]]), torch.tensor([2, 2, 0]))
    means.add(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    found = means.arrays()
    assert found["classes"].tolist() == [0, 2]
    assert found["prototypes"].tolist() == [[3.0, 3.0], [2.0, 4.0]]


def test_the_server_means_over_the_clients_that_have_a_class() -> None:
    server = FedSAServer(FedSASettings(momentum=0.75), _site())
    anchors = server.anchors.copy()
    total = server.begin()
    server.add(total, "client-0", _update({0: 1.0, 4: 2.0}))
    server.add(total, "client-1", _update({4: 6.0}, examples=500))  # examples do not matter
    server.add(total, "client-2", Update({}, 0, {}, {}))
    server.finish(total, 1)
    assert server.known.nonzero()[0].tolist() == [0, 4]
    assert np.allclose(server.prototypes[4], 4.0)
    assert np.allclose(server.anchors[4], 0.75 * anchors[4] + 0.25 * 4.0, atol=1e-6)
    untouched = [label for label in range(10) if label not in (0, 4)]
    assert np.array_equal(server.anchors[untouched], anchors[untouched])
    other = FedSAServer(FedSASettings(), _site())
    other.restore(server.state())
    assert np.array_equal(other.anchors, server.anchors)
    assert np.array_equal(other.known, server.known)


@pytest.mark.parametrize(
    ("update", "told"),
    [
        (_update({0: 1.0}, width=23), r"prototypes of shape \(1, 23\) for 1 classes; wanted: 24 features each"),
        (_update({10: 1.0}), r"of the classes \[10\]; wanted: distinct ones of 0\.\.9"),
        (_update({-1: 1.0}), "wanted: distinct ones"),
        (Update({}, 1, {}, {"prototypes": np.ones((2, 24), np.float32), "classes": np.array([3, 3])}), "distinct"),
        *(
            (
                Update({}, 1, {}, {"prototypes": means, "classes": classes}),
                "wanted: float32 for whole numbers, one axis",
            )
            for means, classes in (
                (np.ones((2, 24), np.float32), np.array([[0], [1]])),
                (np.ones((1, 24), np.float32), np.array(0)),
                (np.ones((2, 24), np.float32), np.array([0.0, 1.0], np.float32)),
                (np.ones((2, 24), np.float32), np.array([False, True])),
                (np.ones((2, 24), np.float64), np.array([0, 1])),
            )
        ),
    ],
)
def test_what_is_no_prototype_is_refused(update: Update, told: str) -> None:
    server: PrototypeServer[Any] = FedSAServer(FedSASettings(), _site())
    with pytest.raises(RefusedUpdateError, match=told):
        server.add(server.begin(), "client-0", update)


@pytest.mark.parametrize(("half", "settings"), [(FedSAServer, FedSASettings()), (FedTGPServer, FedTGPSettings())])
def test_a_client_that_ran_away_counts_in_no_class_and_ends_no_run(half: Any, settings: Any) -> None:
    """Finite, but beyond what can be summed: as the features of a model are before they are NaN."""
    server = half(settings, _site())
    total = server.begin()
    with pytest.raises(SumRangeError):
        server.add(total, "client-0", _update({0: 1.0, 4: 1e13}))
    server.add(total, "client-1", _update({7: 2.0}))
    server.finish(total, 1)
    assert server.known.nonzero()[0].tolist() == [7]


def test_fedproto_pulls_to_known_classes_only() -> None:
    features, labels = torch.tensor([[1.0, 2.0], [5.0, 5.0]]), torch.tensor([0, 1])
    points = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    assert apart(features, labels, points, torch.tensor([True, False])).item() == pytest.approx((1 + 4) / 2)
    assert apart(features, labels, points, torch.tensor([False, False])).item() == 0.0


def test_fedtgp_trains_prototypes_towards_the_clients() -> None:
    server = FedTGPServer(FedTGPSettings(epochs=50, lr=0.05), _site())
    total = server.begin()
    sent = {label: float(label) for label in range(10)}
    for name in ("client-1", "client-0"):
        server.add(total, name, _update(sent))
    means = torch.tensor([[float(label)] * 24 for label in range(10)])
    labels, margin = torch.arange(10), torch.tensor(1.0)
    with torch.no_grad():
        before = contrastive(means, labels, server.trained(), margin).item()
    server.finish(total, 1)
    after = contrastive(means, labels, torch.from_numpy(server.prototypes), margin).item()
    assert after < before - 0.1
    other = FedTGPServer(FedTGPSettings(), _site())
    other.restore(server.state())
    assert torch.equal(other.trained(), server.trained())


def test_fedtgps_margin_is_that_of_the_classes_that_were_sent() -> None:
    """Of 24 features each, two sent means that lie 1 and 3 from each other in every feature: 2 sqrt(24) apart."""
    server = FedTGPServer(FedTGPSettings(epochs=1), _site())
    server.prototypes[5], server.known[5] = 100.0, True  # known from an earlier round, far off
    total = server.begin()
    server.add(total, "client-0", _update({0: 1.0, 1: 3.0}))
    margins: list[float] = []
    given = server._margin
    server._margin = lambda sent: (margins.append(given(sent).item()), given(sent))[1]  # type: ignore[method-assign]
    server.finish(total, 1)
    assert margins == pytest.approx([2 * 24**0.5])


def test_the_nearest_known_prototype_names_the_class() -> None:
    site = _site()
    samples, model = site.labelled, site.model
    points = torch.full((10, 24), 1e6)
    with torch.no_grad():
        model.eval()
        points[3] = model.features(samples.x(slice(None))).mean(0)  # type: ignore[operator]
    share = float((samples.truth == 3).float().mean())
    known = torch.zeros(10, dtype=torch.bool)
    known[[3, 4]] = True
    assert nearest(site, samples, points, known) == pytest.approx(share)


def test_bytes_are_those_of_the_prototypes(tmp_path: Path) -> None:
    """Each way at most classes x d x 4 bytes and 2 %, at the paper's d of 512."""
    family = [{"name": name, "options": {"features": 512}} for name in ("mlp", "cnn")]
    result = fedbox.run(TOY, model=family, out=tmp_path / "run", quiet=True, report=False, **{"evaluate.every": 2})
    first = result.rounds[0]
    assert first["bytes_up"] <= 5 * 10 * 512 * 4 * 1.02
    assert 5 * 10 * 512 * 4 < first["bytes_down"] <= 5 * 10 * 512 * 4 * 1.02


@pytest.mark.parametrize("strategy", ["fedsa", "fedproto", "fedtgp", "feddistill", "lg-fedavg"])
def test_different_networks_learn_together(strategy: str, tmp_path: Path) -> None:
    result = fedbox.run(TOY, strategy=strategy, out=tmp_path / "one", quiet=True, report=False)
    metrics = result.metrics
    assert metrics["accuracy"] == pytest.approx(metrics["client_accuracy"])  # on the clients' own test sets
    assert "shared_accuracy" in metrics
    assert ("prototype_accuracy" in metrics) == (strategy in {"fedsa", "fedproto", "fedtgp"})
    two = fedbox.run(TOY, strategy=strategy, out=tmp_path / "two", quiet=True, report=False, workers=2)
    assert two.summary["model_sha256"] == result.summary["model_sha256"]


@pytest.mark.parametrize("strategy", ["fedsa", "fedproto"])
def test_families_must_agree_on_the_number_of_features(strategy: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"strategy": strategy, "model": [FAMILY[0], "cnn"]}
    result = fedbox.run(TOY, out=tmp_path / "run", quiet=True, report=False, **changes)
    for record in result.rounds:  # they fail to train, and to be measured
        assert {row["client"] for row in record["failures"]} == {"client-1", "client-3"}
        for row in record["failures"]:
            assert "its model gives 32 features, the global prototypes have 24" in row["reason"]


def test_one_class_at_each_client_is_no_fault(tmp_path: Path) -> None:
    partition = {"kind": "pathological", "classes_per_client": 1, "clients": 10}
    result = fedbox.run(TOY, out=tmp_path / "run", quiet=True, report=False, **{"data.partition": partition})
    assert result.summary["status"] == "completed"
    assert math.isfinite(result.metrics["loss"])
