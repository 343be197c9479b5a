"""Sentences that go the ways of images: no strategy mirrors or discolours them unnoticed."""

from pathlib import Path
from typing import Any

import pytest

import fedbox
from fedbox.data.arrays import DataError, TextSet
from fedbox.server.loop import RunFailedError
from fedbox.simulations.run import check
from fedbox.strategies.federation import Federation

RUN: dict[str, Any] = {
    "name": "texts",
    "rounds": 1,
    "model": {"name": "transformer", "options": {"width": 8}},
    "data": {
        "dataset": "topics",
        "options": {"samples": 60, "test_samples": 20},
        "partition": {"kind": "iid", "clients": 2},
        "labels": {"share": 0.5},
    },
}


def test_a_view_in_the_configuration_is_refused_before_the_run() -> None:
    assert isinstance(Federation.prepare(check(RUN)).dataset, TextSet)
    with pytest.raises(DataError, match=r"train\.view is strong, but topics holds sentences"):
        Federation.prepare(check(RUN, {"train.view": "strong"}))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_strategy_that_makes_views_is_refused_in_every_process(tmp_path: Path, workers: int) -> None:
    with pytest.raises(RunFailedError, match="there are no views of sentences"):
        fedbox.run(
            RUN, out=tmp_path / "run", quiet=True, report=False, strategy="fixmatch", engine={"workers": workers}
        )
