"""The conformance suite over scaffold; `fedbox check scaffold` is the same on the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedbox.simulations.run import check as check_config
from fedbox.testing import CHECKS, Check, Subject


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    # A method for unlabelled samples or for boxes: Subject("scaffold", toy="few-labels"), or toy="boxes".
    with Subject("scaffold") as subject:
        yield subject


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms(subject: Subject, check: Check) -> None:
    check(subject)


def test_its_configuration_is_right() -> None:
    assert check_config(Path(__file__).with_name("scaffold.yaml")).strategy == "scaffold"


# Beyond the suite: hold the method against its formula, on numbers worked out by hand.
