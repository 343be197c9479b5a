"""A Plugin itself given as the strategy: found by its name in a module, or refused with what to do."""

from pathlib import Path

import pytest
from plugins_for_tests import TOY

import fedbox
from fedbox.server.session import check
from fedbox.strategies import fedavg, fedprox
from fedbox.strategies.contract import ClientHalf, Plugin, ServerHalf, Settings
from fedbox.strategies.registry import PluginError, find, place_of


class Mine(ClientHalf[Settings]):
    """A client half of this module."""


mine = Plugin(Settings, Mine, ServerHalf)
# No part of it is written here.
bare = Plugin(Settings, ClientHalf, ServerHalf)


@pytest.mark.parametrize("plugin", [mine, bare, fedprox.plugin, fedavg.plugin])
def test_its_name_leads_back_to_it(plugin: Plugin) -> None:
    assert find(place_of(plugin)) is plugin
    assert find(check(TOY, {"strategy": plugin}).strategy) is plugin


def test_a_run_of_it_is_that_of_its_name(tmp_path: Path) -> None:
    named, given = (
        fedbox.run(TOY, strategy=strategy, rounds=1, out=tmp_path / str(n), quiet=True, report=False)
        for n, strategy in enumerate(("fedprox", fedprox.plugin))
    )
    assert named.summary["model_sha256"] == given.summary["model_sha256"]
    assert given.summary["strategy"] == "fedbox.strategies.fedprox:plugin"


def test_one_that_stands_nowhere_is_refused() -> None:
    with pytest.raises(PluginError, match=r"no variable of a module: put it into one"):
        check(TOY, {"strategy": [Plugin(Settings, Mine, ServerHalf)][0]})
