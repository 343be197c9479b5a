"""What becomes of a configuration's options when a change names another data set or model."""

import logging
from typing import Any

import pytest

from fedbox.configs import load_config
from fedbox.server.session import check
from fedbox.strategies.federation import Federation
from fedbox.strategies.logs import warn_once

BASE: dict[str, Any] = {
    "data": {"dataset": "scenes", "options": {"samples": 64, "shift": 1.5, "limit": 40}},
    "model": {"name": "detector", "options": {"size": "nano", "norm": "batch"}},
}


@pytest.fixture(autouse=True)
def told_anew() -> None:
    warn_once.cache_clear()


def test_options_of_another_data_set_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    changed = check(BASE, ["data.dataset=digits"])
    assert changed.data.options == {"limit": 40}  # every data set takes it
    assert "left out data.options.samples, data.options.shift: the configuration gives scenes this" in caplog.text
    assert len(caplog.records) == 1


def test_options_of_another_model_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert check(BASE, ["model.name=resnet"]).model.options == {"norm": "batch"}
    assert "left out model.options.size: the configuration gives detector this, but model resnet" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        ["data.dataset=digits", "data.options.shift=3"],
        ["data.options={shift: 3}", "data.dataset=digits"],
        ["data={dataset: digits, options: {shift: 3}}"],
    ],
)
def test_an_option_that_the_user_wrote_stays_a_fault(changes: list[str], caplog: pytest.LogCaptureFixture) -> None:
    config = check(BASE, changes)
    assert config.data.options["shift"] == 3
    assert "shift" not in caplog.text
    with pytest.raises(ValueError, match="data set 'digits' has no option 'shift'"):
        Federation.prepare(config)


def test_the_root_of_another_data_set_is_left_out_where_none_is_read(caplog: pytest.LogCaptureFixture) -> None:
    base = {"data": {"dataset": "image_folder", "root": "pictures"}}
    assert check(base, ["data.dataset=digits"]).data.root is None
    assert "left out data.root: data set digits reads no files" in caplog.text
    assert check(base, ["data.dataset=mnist"]).data.root == "pictures"
    for given in (check(base, ["data.dataset=digits", "data.root=mine"]), check({}, ["data.root=mine"])):
        with pytest.raises(ValueError, match="data set 'digits' reads no files, yet root is 'mine'"):
            Federation.prepare(given)


@pytest.mark.parametrize("changes", [[], ["data.dataset=scenes"], ["rounds=3"], ["data.dataset=no_such_set"]])
def test_what_is_no_other_data_set_keeps_its_options(changes: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = check(BASE, changes)
    assert config.data.options == BASE["data"]["options"]
    assert config.model.options == BASE["model"]["options"]
    assert not caplog.records


def test_a_data_set_that_takes_any_option_keeps_them_all() -> None:
    config = check(BASE, [f"data.dataset={__name__}:read", f"model.name={__name__}:build"])
    assert (config.data.options, config.model.options) == (BASE["data"]["options"], BASE["model"]["options"])


def test_a_bundled_configuration_runs_on_another_data_set() -> None:
    changes = {"data.dataset": "digits", "data.partition.kind": "iid", "data.server.value": None}
    config = check("scenes-fedsto", {**changes, "evaluate.clients": "none", "evaluate.client_split": "own"})
    assert len(Federation.prepare(config)) == 3
    assert load_config("scenes-fedsto").data.options["shift"] == 1.5


def read(root: object, **options: object) -> None:
    """Stand for a reader that takes what it is given."""


def build(shape: object, classes: int, **options: object) -> None:
    """Stand for a model that takes what it is given."""
