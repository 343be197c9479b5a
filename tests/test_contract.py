"""The contract suite over every registered strategy: `fedbox.testing`, and what the built-in ones owe beyond it.

A strategy gets these tests by being registered.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from fedbox.simulations.pool import Pool
from fedbox.strategies.registry import registered
from fedbox.testing import CHECKS, Check, Subject

NAMES = list(registered())
DETECTION = {"adabn", "ema-teacher", "fedavg-ema", "fedpac-ema", "fedsto", "unbiased-teacher"}
ALONE = {"centralized", "ema-teacher", "local", "server-only", "unbiased-teacher"}
"""Strategies in which nothing of a model travels to the server."""
SMALL = {"feddistill", "fedproto", "fedsa", "fedtgp", "lg-fedavg"}
"""Strategies in which a part of a model or class means travel."""
BYTES = {"onebyte"}
"""Strategies in which a byte a sample travels."""


@pytest.fixture(scope="module", params=NAMES)
def subject(request: pytest.FixtureRequest, pool: Pool) -> Iterator[Subject]:
    with Subject(request.param, pool=pool) as subject:
        yield subject


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms(subject: Subject, check: Check) -> None:
    alike = DETECTION - {"fedsto", "fedavg-ema"}
    if check.name == "workers" and subject.strategy in alike and not os.environ.get("FEDBOX_SOAK"):
        pytest.skip("the other strategies on boxes share these two's machinery: FEDBOX_SOAK=1 runs them as well")
    check(subject)


def test_it_learns_well(subject: Subject) -> None:
    strategy, rounds = subject.strategy, subject.whole.rounds
    first, last = rounds[0]["metrics"], rounds[-1]["metrics"]
    if strategy in DETECTION:  # boxes take longer than this toy lasts; what the server learns from its labels shows
        name = "train_loss" if strategy in {*ALONE, "adabn"} else "server_train_loss"
        assert rounds[1]["metrics"][name] < first[name]
        return
    name = "server_train_loss" if strategy == "semifl" else "train_loss"  # its clients' loss grows with what they mix
    # What is pulled to prototypes has its second term from the second round on.
    assert last[name] < first[name] or strategy in {"fedproto", "fedtgp"}
    # Ten classes: 0.1 is chance. After three rounds on a few hundred images all are far above it.
    assert last["accuracy"] > 0.4
    assert last["client_accuracy"] > 0.4


def test_it_leaves_what_a_run_leaves(subject: Subject) -> None:
    whole = subject.whole
    names = {path.name for path in whole.folder.iterdir()}
    assert {"config.yaml", "rounds.jsonl", "summary.json", "model.safetensors", "checkpoint"} <= names
    about = {"name", "strategy", "engine", "workers", "seed", "rounds", "clients", "status", "versions"}
    found = {"metrics", "best", "bytes_up", "bytes_down", "seconds", "peak_rss_mb", "model_sha256"}
    assert set(whole.summary) >= about | found
    assert whole.summary["status"] == "completed"
    assert whole.weights()
    assert all(np.isfinite(value).all() for value in whole.weights().values())


def test_its_bytes_are_those_of_the_method(subject: Subject) -> None:
    whole, strategy = subject.whole, subject.strategy
    model = sum(value.nbytes for value in whole.weights().values())
    up = [record["bytes_up"] for record in whole.rounds]
    if strategy in ALONE:
        assert max(up) < 6000
    elif strategy in BYTES:
        assert 0 < max(up) < 12_000
    elif strategy in SMALL:
        own = model / whole.summary["clients"]  # the final weights are those of every client
        assert 0 < max(up) < whole.summary["clients"] * own / 2
    elif strategy == "fedsto":  # three clients; the first round of theirs sends the backbone only
        backbone = sum(value.nbytes for name, value in whole.weights().items() if name.startswith("backbone."))
        assert 3 * backbone < up[2] < 3 * (backbone + 20_000) < 3 * model < up[3]
    elif strategy == "adabn":  # three clients send the statistics in the last round
        statistics = sum(value.nbytes for name, value in whole.weights().items() if ".running_" in name)
        assert max(up[:3]) < 6000
        assert 3 * statistics < up[3] < 3 * (statistics + 60_000)
    elif strategy in DETECTION:
        assert min(up[2:]) >= 3 * model
    else:
        assert min(up) >= whole.summary["clients"] * model  # every client sends the whole model
    assert whole.summary["bytes_up"] == sum(up)
