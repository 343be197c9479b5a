"""Strategies that end the program, spoil what they were given, or cannot be made: an error comes of them."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from plugins_for_tests import TOY, lines, run, summary
from pydantic import Field

from fedbox.configs import ConfigError
from fedbox.server.hooks import DivergedError
from fedbox.server.loop import RunFailedError
from fedbox.server.records import digest
from fedbox.simulations.run import check
from fedbox.strategies.contract import ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site, Update
from fedbox.strategies.registry import PluginError


class Leaving(ServerHalf[Settings]):
    """Ends the program, as if all had gone well."""

    def finish(self, total: Any, round_: int) -> None:
        sys.exit(0)


class Early(ServerHalf[Settings]):
    def __init__(self, settings: Settings, site: Site) -> None:
        sys.exit(0)


class Transposed(ServerHalf[Settings]):
    """Keeps a matrix as LAPACK and `.T` give it, and makes such weights."""

    seen: ClassVar[list[Any]] = []

    def finish(self, total: Any, round_: int) -> None:
        super().finish(total, round_)
        self.weights = {name: np.asfortranarray(value) for name, value in self.weights.items()}

    def state(self) -> Any:
        return {"turned": np.arange(6.0).reshape(2, 3).T, "back": np.arange(6)[::-2]}

    def restore(self, state: Any) -> None:
        self.seen.append(state)


class Spoiling(ServerHalf[Settings]):
    def refine(self, site: Site) -> Metrics:
        self.weights = {name: value * np.float32("nan") for name, value in self.weights.items()}
        return {}


class Clearing(ClientHalf[Settings]):
    """Takes out of the message what it has read."""

    def train(self, site: Site) -> Update:
        update = super().train(site)
        site.received.clear()  # type: ignore[attr-defined]
        return update


class Lacking(Settings):
    mu: float


class Wrong(Settings):
    mu: float = "much"  # type: ignore[assignment]


class Raising(Settings):
    mu: float = Field(default_factory=lambda: {}["mu"])


leaving, early, transposed, spoiling = (Plugin(server=half) for half in (Leaving, Early, Transposed, Spoiling))
clearing = Plugin(client=Clearing)
lacking, wrong, raising = (Plugin(settings=kind) for kind in (Lacking, Wrong, Raising))


def _named(name: str) -> str:
    return f"test_strategies_hostile:{name}"


@pytest.mark.parametrize("name", ["leaving", "early"])
def test_a_server_half_that_ends_the_program_does_not_end_it_as_if_all_were_well(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        RunFailedError, match=r"test_strategies_hostile.py, line \d+: sys.exit\(0\) was called"
    ) as caught:
        run(tmp_path / "run", strategy=_named(name))
    assert caught.value.exit_code == 1
    begun = (tmp_path / "run" / "config.yaml").exists()
    assert begun == (name == "leaving")  # a run that could not even start leaves its folder to the next one


def test_arrays_that_lie_otherwise_in_memory_are_what_they_were_after_a_resume(tmp_path: Path) -> None:
    """And so they are in model.safetensors: safetensors itself would write the bytes as they lie."""
    whole = run(tmp_path / "whole", strategy=_named("transposed"))
    run(tmp_path / "run", strategy=_named("transposed"), rounds=2)
    Transposed.seen.clear()
    resumed = run(tmp_path / "run", strategy=_named("transposed"), resume=True)
    assert {name: value.tolist() for name, value in Transposed.seen[0].items()} == {
        "turned": [[0, 3], [1, 4], [2, 5]],
        "back": [5, 3, 1],
    }
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"] == digest(whole.weights())
    assert lines(resumed.folder) == lines(whole.folder)


def test_a_server_that_spoils_its_weights_ends_the_run_by_name(tmp_path: Path) -> None:
    """In its last round, too: nobody would be refused by them any more."""
    said = r"round 1: Spoiling left self.weights\['.*'\] with \d+ of \d+ values that are not finite"
    with pytest.raises(DivergedError, match=said) as caught:
        run(tmp_path / "run", strategy=_named("spoiling"), rounds=1)
    assert caught.value.exit_code == 1
    assert summary(tmp_path / "run")["status"] == "failed"


def test_what_a_client_does_to_its_message_is_nothing_to_the_next_one(tmp_path: Path) -> None:
    plain, clearing = run(tmp_path / "plain"), run(tmp_path / "run", strategy=_named("clearing"))
    assert clearing.summary["model_sha256"] == plain.summary["model_sha256"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("lacking", ConfigError, r"settings\.test_strategies_hostile\.mu: got {}; allowed: a value"),
        ("wrong", ConfigError, r"settings\.test_strategies_hostile\.mu: got 'much'; allowed: a number"),
        (
            "raising",
            PluginError,
            r"strategy 'test_strategies_hostile:raising': its Raising cannot be made: KeyError: 'mu'",
        ),
    ],
)
def test_settings_that_cannot_be_made_are_told_before_the_run(name: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        check(TOY, {"strategy": _named(name)})
