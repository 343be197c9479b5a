"""The example made from `fedbox new`: SCAFFOLD against a plain loop of the paper's algorithm, and the public suite."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedbox
from fedbox.simulations.plan import plan
from fedbox.simulations.pool import Pool
from fedbox.simulations.run import check
from fedbox.strategies import UnsuitableError
from fedbox.strategies.federation import Federation
from fedbox.testing import CHECKS, Check, Subject

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "fedbox-scaffold"
STRATEGY = "fedbox_scaffold:plugin"  # conftest.py puts its folder on the path
FULL = 64
CONFIG: dict[str, Any] = {
    "rounds": 4,
    "strategy": STRATEGY,
    "data": {
        "dataset": "digits",
        "options": {"limit": 90, "test_limit": 20},
        "partition": {"kind": "dirichlet", "clients": 3, "alpha": 0.5},
    },
    "model": {"name": "mlp", "options": {"hidden": 8}},
    "train": {"epochs": 3, "batch_size": FULL, "lr": 0.3, "lr_decay": 0.9},
    "clients": {"per_round": 2},
    "track": [],
}


@pytest.fixture(scope="module")
def subject(pool: Pool) -> Iterator[Subject]:
    with Subject(STRATEGY, pool=pool) as subject:
        yield subject


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms(subject: Subject, check: Check) -> None:
    check(subject)


def _reference(cohorts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Run algorithm 1 with option II and a server's step of 1, on whole batches, in float64, by torch alone."""
    config = check(CONFIG)
    federation, device = Federation.prepare(config), torch.device("cpu")
    model = federation.model(device).module.double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    data = []
    for number in range(len(federation)):
        samples = federation.samples(federation.roles(federation.name(number)).labelled, device)
        index = torch.arange(len(samples))
        assert 0 < len(samples) <= FULL  # one batch is the whole set, so its order does not matter
        data.append((samples.x(index).double(), samples.y))
    x = [value.detach().clone() for value in parameters]
    common = [torch.zeros_like(value) for value in x]
    own = [[torch.zeros_like(value) for value in x] for _ in data]
    for round_, cohort in enumerate(cohorts):
        lr, steps = config.train.lr * config.train.lr_decay**round_, config.train.epochs
        ends, changes = [], []
        for client in cohort:
            images, labels = data[client]
            y = [value.clone() for value in x]
            for _ in range(steps):
                with torch.no_grad():
                    for parameter, value in zip(parameters, y, strict=True):
                        parameter.copy_(value)
                loss = torch.nn.functional.cross_entropy(model(images), labels)
                gradients = torch.autograd.grad(loss, parameters)
                y = [v - lr * (g - i + c) for v, g, i, c in zip(y, gradients, own[client], common, strict=True)]
            new = [i - c + (a - b) / (steps * lr) for i, c, a, b in zip(own[client], common, x, y, strict=True)]
            ends.append(y)
            changes.append([n - i for n, i in zip(new, own[client], strict=True)])
            own[client] = new
        share = len(cohort) / len(data)
        x = [torch.stack(values).mean(0) for values in zip(*ends, strict=True)]
        means = [torch.stack(values).mean(0) for values in zip(*changes, strict=True)]
        common = [c + share * mean for c, mean in zip(common, means, strict=True)]
    return dict(zip(names, x, strict=True))


def test_it_is_the_algorithm_of_the_paper(tmp_path: Path) -> None:
    result = fedbox.run(CONFIG, out=tmp_path / "run", quiet=True, report=False, workers=1)
    trained = [[name for name, row in line["clients"].items() if "examples" in row] for line in result.rounds]
    cohorts = [[int(name.rpartition("-")[2]) for name in names] for names in trained]
    assert len({tuple(cohort) for cohort in cohorts}) > 1  # clients come back with the c_i of an earlier round
    weights, wanted = result.weights(), _reference(cohorts)
    assert weights.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(weights[name], value.numpy(), rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    "change", [{"momentum": 0.9}, {"optimizer": "adam"}, {"schedule": "cosine"}, {"clip_norm": 1.0}]
)
def test_it_refuses_steps_that_its_formula_does_not_hold_for(change: dict[str, Any]) -> None:
    with pytest.raises(UnsuitableError, match="scaffold needs plain steps"):
        plan(check({**CONFIG, "train": {**CONFIG["train"], **change}}))


def test_the_strategy_has_at_most_60_lines() -> None:
    assert len((FOLDER / "fedbox_scaffold.py").read_text(encoding="utf-8").splitlines()) <= 60
