"""FixMatch, UDA, SemiFL and FedMatch on images with one class: their terms against formulas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from test_strategies_fedlabel import _site

from fedbox.simulations.plan import plan
from fedbox.simulations.run import check, run_config
from fedbox.strategies.contract import UnsuitableError, Update
from fedbox.strategies.fedmatch import FedMatchClient, FedMatchServer, FedMatchSettings, vote
from fedbox.strategies.fixmatch import FixMatchClient, FixMatchSettings
from fedbox.strategies.logs import warn_once
from fedbox.strategies.pseudo import LabelQuality, class_samples, scores_of
from fedbox.strategies.registry import find, registered
from fedbox.strategies.semifl import SemiFLClient, SemiFLServer, SemiFLSettings
from fedbox.strategies.uda import UDAClient, UDASettings


def test_quality_counts_what_was_accepted() -> None:
    quality = LabelQuality(torch.tensor([3, 1, 4, 1]))
    assert quality.metrics() == {}
    labels, accepted = torch.tensor([1, 1, 4]), torch.tensor([True, True, False])
    quality.add(torch.tensor([0, 1, 2]), labels, accepted, torch.tensor([True, False, True]))
    assert quality.metrics() == {
        "pseudo_accepted": 2 / 3,
        "pseudo_accuracy": 1 / 2,
        "pseudo_class_accuracy": 1 / 2,
        "pseudo_local": 1 / 2,
        "pseudo_local_accuracy": 0.0,
        "pseudo_global_accuracy": 1.0,
    }


def test_a_rare_class_that_is_never_seen_costs_as_much_as_a_frequent_one() -> None:
    quality = LabelQuality(torch.tensor([0] * 9 + [2]))
    for index in (torch.arange(4), torch.arange(4, 10)):
        quality.add(index, torch.zeros(len(index), dtype=torch.int64), torch.ones(len(index), dtype=torch.bool))
    found = quality.metrics()
    assert (found["pseudo_accuracy"], found["pseudo_class_accuracy"]) == (0.9, 0.5)
    assert not any("local" in name for name in found)


def test_uda_is_the_divergence_from_sharpened_scores() -> None:
    rng = np.random.default_rng(0)
    strong, weak = rng.normal(size=(2, 5, 4))
    found = UDAClient(UDASettings(temperature=0.4)).apart(
        torch.from_numpy(strong), torch.from_numpy(weak), torch.zeros(5, dtype=torch.int64)
    )
    expected = rel_entr(softmax(weak / 0.4, axis=1), softmax(strong, axis=1)).sum(1)
    assert np.allclose(found.numpy(), expected)


@pytest.mark.parametrize(("threshold", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_fixmatch_takes_what_reaches_the_threshold(threshold: float, share: float) -> None:
    site = _site(**{"train.view": "none"})
    client = FixMatchClient(FixMatchSettings(threshold=threshold))
    update = client.train(site)
    assert update.metrics["pseudo_accepted"] == share
    assert update.examples == len(site.labelled) + len(site.unlabelled)


def test_fixmatch_by_hand() -> None:
    """The unlabelled loss from views drawn again with the same generator."""
    site, twin = _site(), _site()
    index = torch.arange(6)
    quality = LabelQuality(site.unlabelled.truth)
    found = FixMatchClient(FixMatchSettings(threshold=0.11)).unknown(site, index, quality)
    views, images = twin.views(twin.unlabelled), twin.unlabelled.images(index)
    with torch.no_grad():
        weak = twin.model(twin.unlabelled.normalize(views.weak(images, twin.generator))).softmax(1)
        strong = twin.model(twin.unlabelled.normalize(views.strong(images, twin.generator))).log_softmax(1)
    each = [-strong[i, weak[i].argmax()] if weak[i].max() >= 0.11 else torch.zeros(()) for i in range(6)]
    assert found.item() == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)
    assert site.model.training


def test_boxes_are_refused_by_name() -> None:
    from boxes_for_tests import site_of

    with pytest.raises(UnsuitableError, match="uda needs images with one class"):
        class_samples(site_of().unlabelled, "uda")


def test_semifl_without_a_sure_label_counts_for_nothing() -> None:
    site = _site()
    start = site.flat.flat.clone()
    update = SemiFLClient(SemiFLSettings(threshold=1.0)).train(site)
    assert (update.examples, update.metrics["pseudo_accepted"]) == (0, 0.0)
    assert torch.equal(site.flat.flat, start)


def test_semifl_labels_once_and_mixes() -> None:
    """The loss of a batch from views drawn again: l weak(x) + (1 - l) weak(u), both classes by their share."""
    site, twin = _site(), _site()
    samples = site.unlabelled
    labels = scores_of(site, samples).argmax(1)
    mine, other = torch.tensor([0, 3, 5]), torch.tensor([7, 7, 1])
    client = SemiFLClient(SemiFLSettings(mix=0.5))
    found = client._fixed_and_mixed(site, samples, (mine, other), labels, 0.3)
    held, views = twin.unlabelled, twin.views(twin.unlabelled)
    twin.model.eval()
    strong = held.viewed(mine, views.strong, twin.generator).x
    first = held.viewed(mine, views.weak, twin.generator).x
    second = held.viewed(other, views.weak, twin.generator).x
    logs = twin.model(0.3 * first + 0.7 * second).log_softmax(1)
    rows = torch.arange(3)
    mixed = -(0.3 * logs[rows, labels[mine]] + 0.7 * logs[rows, labels[other]]).mean()
    fixed = -twin.model(strong).log_softmax(1)[rows, labels[mine]].mean()
    assert found.item() == pytest.approx((fixed + 0.5 * mixed).item(), rel=1e-5)


def test_semifl_needs_a_label_somewhere() -> None:
    with pytest.raises(UnsuitableError, match=r"data\.server\.share.*or settings\.semifl\.labels=clients"):
        SemiFLServer(SemiFLSettings(), _site(labelled=False))
    bare = _site(labelled=False)
    bare.holdings.pooled_labelled = bare.holdings.labelled
    with pytest.raises(UnsuitableError, match="nobody holds a labelled sample"):
        SemiFLServer(SemiFLSettings(labels="clients"), bare)


@pytest.mark.parametrize(("average", "wanted"), [("samples", (1 * 3 + 5 * 1) / 4), ("clients", (1 + 5) / 2)])
def test_semifl_averages_by_fixed_sets_or_counts_every_client_once(average: Any, wanted: float) -> None:
    site = _site()
    site.holdings.pooled_labelled = site.holdings.labelled
    server = SemiFLServer(SemiFLSettings(labels="clients", average=average), site)
    total = server.begin()
    for name, value, examples in (("client-0", 1.0, 3), ("client-1", 5.0, 1), ("client-2", 9.0, 0)):
        weights = {key: np.full_like(array, value) for key, array in server.weights.items()}
        server.add(total, name, Update(weights, examples))
    server.finish(total, 1)
    assert all((value == np.float32(wanted)).all() for value in server.weights.values())


def test_semifl_sees_the_clients_labels_only_when_told_to() -> None:
    with pytest.raises(UnsuitableError, match="the server holds no labelled samples"):
        plan(check("quickstart", ["strategy=semifl"]))
    assert plan(check("quickstart", ["strategy=semifl", "settings.semifl.labels=clients"]))


@pytest.mark.parametrize("strategy", ["fixmatch", "uda", "fedlabel", "fedmatch", "fedavg"])
def test_nothing_unlabelled_is_warned_of(strategy: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Once in a process, whether it plans, runs, or runs again with another seed; FedAvg wants none."""
    warn_once.cache_clear()
    few = ["data.partition.clients=2", "rounds=1", "train.steps=1", "engine.workers=1", f"strategy={strategy}"]
    plan(check("quickstart", [*few, "data.labels.share=0.5"]))
    plan(check("quickstart", [*few, "data.labels.by_client={client-1: 0.5}"]))
    assert "holds unlabelled samples" not in caplog.text
    warned = f"strategy {strategy} learns from unlabelled samples, but no client holds unlabelled samples"
    plan(check("quickstart", few))
    plan(check("quickstart", [*few, "data.labels={share: 1.0, count: 100000}"]))
    assert caplog.text.count(warned) == (strategy != "fedavg")
    warn_once.cache_clear()
    for seed in (0, 1):
        run_config(check("quickstart", [*few, f"seed={seed}"]), out=tmp_path / f"{seed}", progress=False, report=False)
    assert caplog.text.count(warned) == 2 * (strategy != "fedavg")


def test_every_method_that_takes_pseudo_labels_wants_something_to_label() -> None:
    wanting = {name for name in registered() if find(name).client.wants_unlabelled}
    classes = {"fedlabel", "fedmatch", "fixmatch", "semifl", "uda"}
    assert wanting == classes | {"ema-teacher", "fedavg-ema", "fedpac-ema", "fedsto", "unbiased-teacher"}


def test_helpers_are_outvoted_or_not() -> None:
    def sure(*classes: int) -> torch.Tensor:
        return torch.eye(4)[torch.tensor(classes)]

    own = sure(0, 0, 0, 2)
    helpers = torch.stack([sure(1, 1, 0, 3), sure(1, 2, 3, 1)])
    # both against it; three opinions: its own; one with it; three opinions
    assert vote(own, helpers).tolist() == [1, 0, 0, 2]
    assert vote(own, torch.zeros(0, 4, 4)).tolist() == [0, 0, 0, 2]


def _fedmatch(**values: Any) -> FedMatchServer:
    return FedMatchServer(FedMatchSettings.model_validate(values), _site())


def test_fedmatch_splits_and_joins_the_weights() -> None:
    server = _fedmatch(psi_share=0.25)
    for name, value in server.weights.items():
        assert np.allclose(server.parts["psi/" + name], value / 4)
        assert np.allclose(server.parts["sigma/" + name] + server.parts["psi/" + name], value)


def test_fedmatch_trains_each_summand_on_its_own_samples() -> None:
    server = _fedmatch()
    for labelled, unlabelled, moved in ((True, False, "sigma/"), (False, True, "psi/")):
        site = _site(labelled=labelled, unlabelled=unlabelled)
        site.received = server.parts
        update = FedMatchClient(FedMatchSettings(threshold=0.0)).train(site)
        for name, value in update.weights.items():
            same = np.allclose(value, server.parts[name], atol=1e-7)
            assert same == (not name.startswith(moved)), name


def test_fedmatch_finds_the_nearest_helpers_and_sends_them_now_and_then() -> None:
    server = _fedmatch(helpers=1, every=3)
    total = server.begin()
    for number, height in enumerate((0.0, 10.0, 1.0)):
        weights = {name: np.full_like(value, number) for name, value in server.parts.items()}
        signature = np.full((32, 10), height, np.float32)
        server.add(total, f"client-{number}", Update(weights, 4, {}, {"signature": signature}))
    server.finish(total, 1)
    assert all(np.allclose(value, 2.0) for value in server.weights.values())  # sigma 1 + psi 1
    assert server.ask_client(1, "client-0") == {}  # it is only measured, and would not keep them
    server.begin()
    assert server.ask_client(2, "client-0")  # its training fails, so that it keeps none
    total = server.begin()
    helpers = server.ask_client(2, "client-0")
    server.add(total, "client-0", Update())
    assert set(helpers) == {"helper-0/" + name for name in server.weights}
    assert all(np.allclose(value, 2) for value in helpers.values())  # client-2 is nearer than client-1
    assert server.ask_client(3, "client-0") == {}
    again = _fedmatch(helpers=1, every=3)
    again.restore(server.state())
    again.begin()
    assert again.ask_client(4, "client-0") == {}
    assert len(again.ask_client(5, "client-0")) == len(server.weights)
    assert server.ask_client(2, "client-9") == {}


def test_fedmatch_asks_its_helpers() -> None:
    """A helper is sigma + its psi, and is kept for the rounds in which none is sent."""
    server = _fedmatch()
    site = _site()
    own = {name: np.asarray(value * 3) for name, value in server.parts.items() if name.startswith("psi/")}
    site.received = {**server.parts, **{f"helper-0/{name.removeprefix('psi/')}": value for name, value in own.items()}}
    site.build = lambda: _site().flat
    twin = _site()
    twin.load({name: np.asarray(server.parts["sigma/" + name] + own["psi/" + name]) for name in server.weights})
    expected = scores_of(twin, twin.unlabelled).softmax(1)
    client = FedMatchClient(FedMatchSettings())
    client.prepare(site)
    sigma = torch.zeros_like(site.flat.flat)
    twin.load({name: server.parts["sigma/" + name] for name in server.weights})
    sigma.copy_(twin.flat.flat)
    for _ in range(2):
        found = client._helpers(site, sigma)
        assert found.shape == (1, len(site.unlabelled), 10)
        assert torch.allclose(found[0], expected, atol=1e-5)
        site.received = server.parts  # from the second time on
