"""FedLabel: the choice and the loss against hand calculations, and what becomes of clients that lack something."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedbox
from fedbox.simulations.run import check
from fedbox.strategies.contract import RefusedUpdateError, Update
from fedbox.strategies.exact import SumRangeError
from fedbox.strategies.federation import Federation
from fedbox.strategies.fedlabel import (
    Choice,
    FedLabelClient,
    FedLabelServer,
    FedLabelSettings,
    choose,
    confidence,
    pseudo_loss,
)
from fedbox.strategies.site import Holdings, Site

LN = math.log
TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 2,
    "strategy": "fedlabel",
    "data": {
        "dataset": "digits",
        "options": {"limit": 300, "test_limit": 100},
        "partition": {"kind": "iid", "clients": 3},
        "labels": {"share": 0.2},
    },
    "model": {"name": "mlp", "options": {"hidden": 16}},
    "train": {"epochs": 2, "batch_size": 16, "lr": 0.2},
    "engine": {"workers": 1},
}


def _settings(**values: Any) -> FedLabelSettings:
    return FedLabelSettings.model_validate(values)


def _site(labelled: bool = True, unlabelled: bool = True, **changes: Any) -> Site:
    config = check(TOY, changes)
    federation, device = Federation.prepare(config), torch.device("cpu")
    roles = federation.roles("client-1")
    none = roles.labelled[:0]
    known = federation.samples(roles.labelled if labelled else none, device)
    bare = federation.samples(roles.unlabelled if unlabelled else none, device, labelled=False)
    return Site(
        name="client-1",
        flat=federation.model(device),
        train_config=config.train,
        holdings=Holdings(lambda: known, lambda: bare, lambda: known),
        classes=10,
        seed=0,
        round=1,
    )


# Two classes. Softmax of the rows: local (.8, .2), (.5, .5), (.3, .7); global (.6, .4), (.9, .1), (.3, .7).
LOCAL = torch.tensor([[LN(0.8), LN(0.2)], [LN(0.5), LN(0.5)], [LN(0.3), LN(0.7)]], dtype=torch.float64)
GLOBAL = torch.tensor([[LN(0.6), LN(0.4)], [LN(0.9), LN(0.1)], [LN(0.3), LN(0.7)]], dtype=torch.float64)


def test_variance_by_hand() -> None:
    """Variance of (p, 1 - p) is (p - 1/2)^2: .09, 0, .04 against .01, .16, .04."""
    settings = _settings(beta=0.75, consistency=0.5)
    assert confidence(LOCAL, settings).tolist() == pytest.approx([0.09, 0.0, 0.04])
    choice = choose(LOCAL, GLOBAL, settings)
    assert choice.local.tolist() == [True, False, False]  # equals go to the global model
    assert choice.labels.tolist() == [0, 0, 1]
    assert choice.accepted.tolist() == [True, True, False]  # .8, .9, .7
    # l0 h(s-) / h(s*): .5 * .01 / .09; the second partner prefers no class, argmax takes the first; equal ones: .5 * 1
    assert choice.weights.tolist() == pytest.approx([0.5 * 0.01 / 0.09, 0.0, 0.5])
    assert choice.partner.flatten().tolist() == pytest.approx([0.6, 0.4, 0.5, 0.5, 0.3, 0.7])


def test_entropy_by_hand() -> None:
    settings = _settings(confidence="entropy", beta=0.0)
    entropy = -(0.8 * LN(0.8) + 0.2 * LN(0.2)), -(0.6 * LN(0.6) + 0.4 * LN(0.4))
    assert confidence(LOCAL[:1], settings).item() == pytest.approx(1 / entropy[0])
    choice = choose(LOCAL[:1], GLOBAL[:1], settings)
    assert choice.local.item()
    assert choice.weights.item() == pytest.approx(entropy[0] / entropy[1])


def test_the_variance_of_logits() -> None:
    scores = torch.tensor([[1.0, 2.0, 6.0]])
    assert confidence(scores, _settings(scores="logits")).item() == pytest.approx(14 / 3)


def test_a_partner_of_another_opinion_holds_nobody() -> None:
    other = torch.tensor([[LN(0.4), LN(0.6)]], dtype=torch.float64)
    assert choose(LOCAL[:1], other, _settings()).weights.item() == 0
    assert choose(LOCAL[:1], other, _settings(adaptive=False, partner="local")).weights.item() == 1


@pytest.mark.parametrize(("labeller", "labels"), [("local", [0, 0, 1]), ("global", [0, 0, 1])])
def test_the_ablations_ask_one_model(labeller: str, labels: list[int]) -> None:
    choice = choose(LOCAL, GLOBAL, _settings(labeller=labeller))
    assert choice.local.tolist() == [labeller == "local"] * 3
    assert choice.labels.tolist() == labels
    assert (choice.weights <= 1).all()


def test_loss_and_gradient_by_hand() -> None:
    """One sample, two classes, one linear layer without bias on x = (1, 2); its view is v = (2, 1).

    loss = -log q_y + l sum_c p_c log(p_c / s_c), p = softmax(W x), q = softmax(W v):
    d/dW = (q - e_y) v' + l p o (log(p / s) - KL) x'.
    """
    weight = np.array([[0.3, -0.1], [0.2, 0.4]])
    x, v, s, l, y = np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.7, 0.3]), 0.6, 0  # noqa: E741
    p, q = (np.exp(weight @ z) / np.exp(weight @ z).sum() for z in (x, v))
    apart = (p * np.log(p / s)).sum()
    gradient = np.outer(q - np.eye(2)[y], v) + l * np.outer(p * (np.log(p / s) - apart), x)
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(torch.from_numpy(weight))
    loss = pseudo_loss(
        layer(torch.from_numpy(v))[None],
        layer(torch.from_numpy(x))[None],
        torch.tensor([y]),
        torch.tensor([l], dtype=torch.float64),
        torch.from_numpy(s)[None],
    )
    loss.backward()
    assert loss.item() == pytest.approx(-np.log(q[y]) + l * apart)
    assert np.allclose(layer.weight.grad, gradient)


def _after(**values: Any) -> tuple[Site, Update, torch.Tensor]:
    site = _site(**{key: values.pop(key) for key in ("labelled", "unlabelled") if key in values})
    start = site.flat.flat.clone()
    return site, FedLabelClient(_settings(**values)).train(site), start


def test_both_changes_start_from_the_global_weights_and_add_up() -> None:
    """beta 0 accepts all. Each pass alone, from w; their sum, mean and the two apart."""
    site, update, start = _after(beta=0.0)
    both = site.flat.flat - start
    first, _, _ = _after(beta=1.0)  # nothing is accepted: w_L
    alone = first.flat.flat - start
    mean, _, _ = _after(beta=0.0, combine="mean")
    assert torch.allclose(mean.flat.flat - start, both / 2, atol=1e-6)
    _, told, _ = _after(beta=0.0, combine="separate")
    name = next(iter(told.weights))
    at = site.flat.spans[name].start
    assert np.allclose(np.ravel(told.weights[name])[0], (start + alone)[at], atol=1e-6)
    assert np.allclose(np.ravel(told.extra["unlabelled/" + name])[0], (start + both - alone)[at], atol=1e-6)
    assert update.examples == len(site.labelled) + len(site.unlabelled)
    assert told.extra["accepted"].tolist() == [len(site.labelled), len(site.unlabelled)]


def test_a_client_that_lacks_something() -> None:
    site, update, start = _after(beta=1.0)  # no softmax score exceeds 1
    assert update.examples == len(site.labelled)
    assert update.metrics["pseudo_accepted"] == 0.0
    assert not torch.equal(site.flat.flat, start)
    site, update, _ = _after(labelled=False, beta=0.0)  # both models are the global one
    assert update.examples == len(site.unlabelled)
    assert update.metrics["pseudo_local"] == 0.0
    site, update, _ = _after(unlabelled=False)
    assert update.examples == len(site.labelled)
    assert "pseudo_accepted" not in update.metrics
    site, update, start = _after(labelled=False, unlabelled=False)
    assert update.examples == 0
    assert torch.equal(site.flat.flat, start)


def test_burn_in_leaves_the_unlabelled_alone() -> None:
    _, update, _ = _after(beta=0.0, burn_in=1)
    assert "pseudo_accepted" not in update.metrics


def test_the_server_averages_the_passes_apart() -> None:
    """Labelled passes count the same, unlabelled ones by their accepted samples; half and half."""
    server = FedLabelServer(_settings(combine="separate"), _site())
    total = server.begin()
    for number, (labelled, accepted) in enumerate(((1.0, 8.0), (3.0, 4.0))):
        weights = {name: np.full_like(value, labelled) for name, value in server.weights.items()}
        extra = {"unlabelled/" + name: np.full_like(value, accepted) for name, value in server.weights.items()}
        server.add(
            total, f"client-{number}", Update(weights, 9, {}, extra | {"accepted": np.array([5, 1 + 2 * number])})
        )
    server.finish(total, 1)
    # labelled: (1 + 3) / 2; unlabelled: (1 * 8 + 3 * 4) / 4
    assert all(np.allclose(value, (2 + 5) / 2) for value in server.weights.values())


def test_passes_that_do_not_look_like_the_model_are_refused() -> None:
    server = FedLabelServer(_settings(combine="separate"), _site())
    weights = {name: np.zeros_like(value) for name, value in server.weights.items()}
    counts = {"accepted": np.array([5, 4])}
    for extra, told in (({}, "extra array 'accepted' is missing"), (counts, "arrays are missing")):
        total = server.begin()
        with pytest.raises(RefusedUpdateError, match=told):
            server.add(total, "client-0", Update(weights, 9, {}, extra))
        assert [part.terms for part in total] == [0, 0]


def test_a_pass_that_ran_away_takes_the_other_one_with_it() -> None:
    """The client is refused: half of it must not count all the same."""
    server = FedLabelServer(_settings(combine="separate"), _site())
    weights = {name: np.zeros_like(value) for name, value in server.weights.items()}
    far = {"unlabelled/" + name: np.full_like(value, 1e13) for name, value in weights.items()}
    total = server.begin()
    with pytest.raises(SumRangeError):
        server.add(total, "client-0", Update(weights, 9, {}, far | {"accepted": np.array([5, 4])}))
    assert [part.terms for part in total] == [0, 0]


def test_communication_is_that_of_fedavg(tmp_path: Path) -> None:
    counted = {}
    for name in ("fedlabel", "fedavg"):
        model = {"name": "mlp", "options": {"hidden": 128}}  # beside a few metrics' names, any real model is large
        result = fedbox.run(TOY, strategy=name, model=model, out=tmp_path / name, quiet=True, report=False)
        counted[name] = (result.summary["bytes_up"], result.summary["bytes_down"])
    assert counted["fedlabel"] == pytest.approx(counted["fedavg"], rel=0.01)


def test_one_class_alone_is_no_fault(tmp_path: Path) -> None:
    partition = {"kind": "pathological", "classes_per_client": 1, "clients": 10}
    result = fedbox.run(TOY, out=tmp_path / "run", quiet=True, report=False, **{"data.partition": partition})
    assert result.summary["status"] == "completed"
    assert all(np.isfinite(value).all() for value in result.weights().values())


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_a_threshold_out_of_range_is_refused(beta: float, tmp_path: Path) -> None:
    with pytest.raises(fedbox.ConfigError, match=r"settings\.fedlabel\.beta"):
        fedbox.run(TOY, out=tmp_path / "run", quiet=True, settings={"fedlabel": {"beta": beta}})


def test_the_loss_is_that_of_the_accepted_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample is accepted: all other batches, whose loss is 0, are no part of the mean."""
    site = _site()
    number = len(site.unlabelled)

    def one(local: Tensor, global_: Tensor, settings: FedLabelSettings) -> Choice:
        found = choose(local, global_, settings)
        return replace(found, accepted=torch.arange(number) == 3)

    monkeypatch.setattr("fedbox.strategies.fedlabel.choose", one)
    monkeypatch.setattr("fedbox.strategies.fedlabel.pseudo_loss", lambda viewed, *_: viewed.sum() * 0 + 7.0)
    update = FedLabelClient(_settings()).train(site)
    assert number > 32  # several batches
    assert update.metrics["unlabelled_loss"] == 7.0
