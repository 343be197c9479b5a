"""What is told of a strategy before it runs: hooks that cannot be called, names that were likely meant as hooks."""

import logging
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import run
from pydantic import Field

from fedbox.server.collected import Collected, Failure
from fedbox.strategies.contract import ClientHalf, Plugin, ServerHalf, Settings, Site, Update
from fedbox.strategies.halves import unheard
from fedbox.strategies.registry import PluginError, find, registered
from fedbox.testing import CHECKS, CheckFailed, Subject


class Mistyped(ClientHalf[Settings]):
    """Has a hook misspelt, a declaration misspelt, one of the other half, and helpers."""

    need = "boxes"

    def trian(self, site: Site) -> Update:
        return Update()

    def finish(self, total: Any, round_: int) -> None:
        """Belongs to the server."""

    def local_train(self, site: Site) -> Update:
        """Nothing calls it either, but no hook is meant."""
        return Update()

    def trains(self, site: Site) -> bool:
        """Is called below."""
        return bool(site.labelled)

    def loss(self, site: Site, batch: Any) -> Any:
        return super().loss(site, batch) * self.trains(site)


class Flowery(ServerHalf[Settings]):
    """Is written from memory of Flower; one of its names is only a helper's."""

    def aggregate_fit(self, server_round: int, results: list[Any], failures: list[Any]) -> None:
        """Is never called."""

    def configure_fit(self, server_round: int) -> None:
        """Neither."""

    def aggregate(self, total: Any) -> Any:
        return total.mean()

    def finish(self, total: Any, round_: int) -> None:
        self.weights = {**self.weights, **self.aggregate(total)}


class Bound(Settings):
    weight: float = Field(1.0, description="a weight")


class Short(ClientHalf[Bound]):
    def train(self) -> Update:  # type: ignore[override]
        return Update()

    def loss(self, *given: Any) -> Any:
        return super().loss(*given)


class Long(ServerHalf[Bound]):
    def __init__(self, settings: Bound, site: Site, more: int) -> None:
        super().__init__(settings, site)

    def ask(self, round_: int, more: int = 0) -> Any:
        return super().ask(round_)


stray, misfit = Plugin(Settings, Mistyped, Flowery, "strays"), Plugin(Bound, Short, Long, "misfits")
WANTED = [
    "Mistyped.need is called by nothing: did you mean 'needs'?",
    "Mistyped.trian is called by nothing: did you mean 'train'?",
    "Mistyped.finish is called by nothing: it is a hook of ServerHalf",
    "Flowery.aggregate_fit is called by nothing: the name is Flower's; here it is add and finish",
    "Flowery.configure_fit is called by nothing: the name is Flower's; here it is ask",
]


def test_names_that_look_like_hooks_and_are_none_are_told_and_helpers_are_not() -> None:
    assert unheard(stray) == WANTED


def test_a_run_warns_of_them_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fedbox"):
        for name in ("one", "two"):
            run(tmp_path / name, strategy="test_strategies_halves:stray", rounds=1)
    assert [record.getMessage() for record in caplog.records] == WANTED


def test_the_check_fails_for_them() -> None:
    check = next(check for check in CHECKS if check.name == "hooks")
    with Subject("test_strategies_halves:stray") as subject, pytest.raises(CheckFailed, match="did you mean 'train'"):
        check(subject)
    with Subject("fedavg") as subject:
        assert check(subject)


@pytest.mark.parametrize("name", list(registered()))
def test_nothing_is_told_of_the_built_in_ones(name: str) -> None:
    assert unheard(find(name)) == []


def test_a_hook_that_cannot_be_called_is_told_before_anything_runs() -> None:
    with pytest.raises(PluginError) as caught:
        find("test_strategies_halves:misfit")
    assert str(caught.value).endswith(
        "breaks the contract: its Short.train takes (self); wanted: (self, site); "
        "its Long.__init__ takes (self, settings, site, more); wanted: (self, settings, site)"
    )


def test_clients_that_failed_alike_share_a_line() -> None:
    failures = [Failure(f"client-{number}", "raised", "the same") for number in range(5)]
    failures += [Failure("client-5", "refused", "the same"), Failure("client-6", "refused", "the same")]
    failures += [Failure(f"client-{number}", "raised", f"reason {number}") for number in range(7, 12)]
    assert Collected(failures=failures).reasons(most=4).splitlines() == [
        "  client-0, client-1 and 3 more (raised): the same",
        "  client-5 and client-6 (refused): the same",
        "  client-7 (raised): reason 7",
        "  client-8 (raised): reason 8",
        "  and 3 more",
    ]
