"""Strategies with one mistake each: what is told of it, and that it spoils nothing else."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins_for_tests import TOY, lines, run

from fedbox.configs import ConfigError
from fedbox.server.loop import RunFailedError
from fedbox.simulations.run import check
from fedbox.strategies.contract import Ask, ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site, Update
from fedbox.strategies.fedmatch import FedMatchClient, FedMatchServer, FedMatchSettings
from fedbox.strategies.samples import Samples


class Change(ClientHalf[Settings]):
    """Trains as FedAvg does; subclasses change what it gives."""

    change: Callable[[Site, Update], Update]

    def train(self, site: Site) -> Update:
        return type(self).change(site, super().train(site))


class Telling(Change):
    change = staticmethod(lambda site, update: replace(update, metrics={"accuracy": 1.0, "loss": 0.0}))


class Part(Change):
    change = staticmethod(lambda site, update: replace(update, examples=0.3))


class Many(Change):
    change = staticmethod(lambda site, update: replace(update, metrics={"odd": torch.ones(2)}))


class Text(Change):
    @staticmethod
    def change(site: Site, update: Update) -> Update:
        site.state["word"] = np.array("text")
        return update


class Silent(ClientHalf[Settings]):
    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        return None  # type: ignore[return-value]


class Resting(ClientHalf[Settings]):
    def train(self, site: Site) -> Update:
        fit = site.fit(steps=0)
        return Update(site.weights(), fit.examples, fit.metrics)


class InPlace(ServerHalf[Settings]):
    """Changes its mapping of weights in place, and fails in round 3 after it has."""

    def finish(self, total: Any, round_: int) -> None:
        self.weights |= total.mean()

    def refine(self, site: Site) -> Metrics:
        if site.round == 3:
            raise RuntimeError("the mains went off")
        return {}


class Nothing(ServerHalf[Settings]):
    def refine(self, site: Site) -> Metrics:
        return None  # type: ignore[return-value]


class Tensors(ServerHalf[Settings]):
    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        return {"vector": torch.ones(3)}  # type: ignore[dict-item]


class Numpy(ServerHalf[Settings]):
    def ask(self, round_: int) -> Ask:
        return Ask(self.weights, values={"lr": np.float32(0.1)})  # type: ignore[dict-item]


class Bare(FedMatchClient):
    """Trains, and keeps back what the server half needs beside the weights."""

    def train(self, site: Site) -> Update:
        return replace(super().train(site), extra={} if site.name == "client-1" else self.odd(site))

    def odd(self, site: Site) -> dict[str, Any]:
        return {"signature": np.full((32, 10), 0.1, np.float32 if site.name != "client-2" else np.int64)}


telling, part, many, text, silent, resting = (
    Plugin(client=half) for half in (Telling, Part, Many, Text, Silent, Resting)
)
bare = Plugin(FedMatchSettings, Bare, FedMatchServer)
in_place, nothing, tensors, numpy = (Plugin(server=half) for half in (InPlace, Nothing, Tensors, Numpy))


def _named(name: str) -> str:
    return f"test_strategies_faults:{name}"


def test_what_clients_report_never_stands_in_for_the_global_models_score(tmp_path: Path) -> None:
    """Measured at once with one worker, beside the next round with two: the same figures, and the model's own."""
    plain = run(tmp_path / "plain")
    one = run(tmp_path / "one", strategy=_named("telling"))
    two = run(tmp_path / "two", strategy=_named("telling"), workers=2)
    for result in (one, two):
        for record, wanted in zip(result.rounds, plain.rounds, strict=True):
            assert {key: record["metrics"][key] for key in ("accuracy", "loss")} == {
                key: wanted["metrics"][key] for key in ("accuracy", "loss")
            }
    assert lines(one.folder) == lines(two.folder)


def test_a_run_that_fails_ends_with_the_weights_of_the_last_round_that_it_tells_of(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the mains went off"):
        run(tmp_path / "run", strategy=_named("in_place"))
    whole = run(tmp_path / "whole", strategy=_named("in_place"), rounds=2)
    left, wanted = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole"))
    assert hashlib.sha256(left).digest() == hashlib.sha256(wanted).digest()
    assert whole.summary["rounds"] == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("part", r"Update.examples is 0.3 \(float\); wanted: a whole number"),
        ("many", r"Many.train: metric 'odd' is tensor\(\[1., 1.\]\) \(Tensor\); wanted: one number"),
        ("text", r"client-\d wants to keep state/word of type <U4; wanted: numbers or booleans"),
    ],
)
def test_a_clients_mistake_is_its_failure_by_name(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=said):
        run(tmp_path / "run", strategy=_named(name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "Nothing.refine returned NoneType; the contract wants metrics by name, {} for none"),
        ("tensors", r"Tensors.evaluate: metric 'vector' is tensor\(.*\) \(Tensor\); wanted: one number"),
        ("numpy", r"Ask.values\['lr'\] is .*0.1.* \(float32\); wanted: int, float, str or bool"),
    ],
)
def test_a_server_halfs_mistake_names_the_method_and_the_key(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=said):
        run(tmp_path / "run", strategy=_named(name))


def test_an_evaluation_that_gives_nothing_is_told_as_such(tmp_path: Path) -> None:
    result = run(tmp_path / "run", strategy=_named("silent"), data__test_share=0.2, evaluate__clients="all", rounds=1)
    reasons = {failure["reason"] for failure in result.rounds[0]["failures"]}
    assert len(reasons) == 1
    assert "Silent.evaluate returned NoneType; the contract wants metrics by name" in reasons.pop()


def test_a_client_that_leaves_extra_arrays_out_is_refused_by_name(tmp_path: Path) -> None:
    result = run(tmp_path / "run", strategy=_named("bare"), rounds=1)
    told = {failure["client"]: failure["reason"] for failure in result.rounds[0]["failures"]}
    assert told == {
        "client-1": "extra array 'signature' is missing; wanted: signature",
        "client-2": "extra array 'signature' has shape (32, 10) and type int64; wanted: floats of shape (32, 10)",
    }


def test_no_steps_are_no_training_and_no_error(tmp_path: Path) -> None:
    result = run(tmp_path / "run", strategy=_named("resting"), rounds=1)
    assert result.rounds[0]["failures"] == []
    assert "train_loss" not in result.rounds[0]["metrics"]


def test_a_module_that_lies_here_is_told_how_to_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nova.py").touch()
    with pytest.raises(ConfigError, match=r"named module:attribute: write nova:plugin for nova\.py"):
        check(TOY, {"strategy": "nova"})


@pytest.mark.parametrize("given", ["./nova.py", "nova.py", "/somewhere/nova.py"])
def test_a_file_in_place_of_a_name_is_told_how_to_write_it(given: str) -> None:
    with pytest.raises(ConfigError, match=r"named module:attribute: write nova:plugin for nova\.py"):
        check(TOY, {"strategy": given})
