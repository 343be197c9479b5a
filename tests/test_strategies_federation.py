"""Who is measured on what: a client's own samples, or its domain's part of the split."""

from typing import Any

import numpy as np
import pytest
from boxes_for_tests import SCENES

from fedbox.configs import ConfigError
from fedbox.data.arrays import DataError
from fedbox.simulations.run import check
from fedbox.strategies.federation import Federation

DOMAIN = {"evaluate.clients": "all", "evaluate.client_split": "domain"}


def _federation(**changes: Any) -> Federation:
    return Federation.prepare(check(SCENES, {**DOMAIN, **changes}))


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_domains_part_of_the_split_is_all_that_has_the_clients_weather(split: str) -> None:
    changes: dict[str, Any] = {"evaluate.split": split}
    if split == "validation":
        changes["data.validation_share"] = 0.5
    federation = _federation(**changes)
    part = federation.dataset.test if split == "test" else federation.dataset.train
    rows = np.arange(len(part)) if split == "test" else federation.validation
    seen = []
    for number in range(len(federation)):
        found, index = federation.client_test_index(federation.name(number))
        assert found == ("test" if split == "test" else "train")
        own = federation.clients.indices(number)
        weathers = set(federation.dataset.train.attributes["weather"][own].tolist())
        assert len(weathers) == 1
        assert index.tolist() == [row for row in rows.tolist() if part.attributes["weather"][row] in weathers]
        seen += index.tolist()
    cloudy = [row for row in rows.tolist() if part.attributes["weather"][row] == "cloudy"]
    assert sorted(seen + cloudy) == sorted(rows.tolist())  # the server's weather is no client's


def test_several_clients_of_a_weather_share_its_samples() -> None:
    federation = _federation(**{"data.partition": {"kind": "natural", "key": "weather", "clients": 6}})
    index = [federation.client_test_index(federation.name(number))[1].tolist() for number in range(6)]
    assert len({tuple(each) for each in index}) == 3


def test_without_a_domain_the_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"client_split: domain needs data\.partition\.kind=natural"):
        _federation(**{"data.partition": {"kind": "iid", "clients": 3}, "data.server": {"share": 0.25}})


def test_pooled_unlabelled_is_everything_but_the_servers() -> None:
    federation = _federation()
    pooled, bare = federation.pooled().tolist(), federation.pooled_unlabelled().tolist()
    assert sorted(bare + federation.server.tolist()) == pooled == list(range(len(federation.dataset.train)))


def test_a_client_that_does_not_exist_has_no_share() -> None:
    with pytest.raises(DataError, match=r"by_client names client-3, node-0; the clients are client-0 to client-2"):
        _federation(**{"data.labels": {"share": 0.0, "by_client": {"client-0": 1.0, "client-3": 0.5, "node-0": 0.5}}})


def test_pooled_labelled_is_what_the_clients_know() -> None:
    federation = _federation(**{"data.labels": {"share": 0.0, "by_client": {"client-0": 0.5, "client-2": 0.25}}})
    known = [*federation.roles("client-0").labelled, *federation.roles("client-2").labelled]
    assert sorted(known) == federation.pooled_labelled().tolist()
    assert len(known) == 6 + 3
