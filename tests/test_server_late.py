"""What is collected of a cohort: late updates count less, or not at all; figures that no mean can hold are counted."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from fedbox.configs import ClientsConfig
from fedbox.server.collect import Collector
from fedbox.server.roster import NamedRoster
from fedbox.strategies.base import Message, identity, update_content
from fedbox.strategies.contract import Ask, Update
from fedbox.strategies.grids import StreamGrid

WEIGHTS = {"w": np.zeros(2, np.float32)}


class Half:
    def ask_client(self, round_: int, client: str) -> dict[str, Any]:
        return {}

    def expects(self) -> dict[str, Any]:
        return WEIGHTS


class SlowGrid(StreamGrid):
    """Client a answers in time, client b one call later."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Message] = []
        self.kept: list[bool] = []

    def get_node_ids(self) -> Iterable[int]:
        return [2, 3]

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, keep_late: bool = False
    ) -> Iterator[Message]:
        self.kept.append(keep_late)
        for message in messages:
            reply = Message(update_content(Update(WEIGHTS, 100)), reply_to=message)
            if message.metadata.dst_node_id == 2:
                yield reply
            else:
                self.late.append(reply)

    def late_replies(self) -> list[Message]:
        late, self.late = self.late, []
        return late


@pytest.mark.parametrize(("late", "staleness", "examples"), [("drop", 0.5, None), ("use", 0.5, 58), ("use", 0.0, 100)])
def test_a_late_update_counts_by_its_age(late: str, staleness: float, examples: int | None) -> None:
    grid, used = SlowGrid(), []
    clients = ClientsConfig(late=late, staleness=staleness, timeout=1.0)  # type: ignore[arg-type]
    collector = Collector(grid, NamedRoster({"a": 2, "b": 3}), Half(), clients)  # type: ignore[arg-type]
    with identity(1):
        for round_ in (1, 3):
            found = collector.collect(
                "train", round_, Ask(WEIGHTS), ["a", "b"], lambda name, update: used.append((name, update.examples))
            )
            assert [failure.client for failure in found.failures] == ["b"]
    aged = [(name, count) for name, count in used if name == "b"]
    # (1 + 2) ** -0.5 = 0.577: of 100 examples 58 are left.
    assert aged == ([] if examples is None else [("b", examples)])
    assert found.means().get("late_updates") == (None if examples is None else 1.0)
    assert set(grid.kept) == {late == "use"}


class Answering(SlowGrid):
    """Clients b and d cannot tell their loss; c has three times as many samples as the others."""

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, keep_late: bool = False
    ) -> Iterator[Message]:
        losses = {2: 1.0, 3: math.nan, 4: 3.0, 5: math.inf}
        for message in messages:
            node = message.metadata.dst_node_id
            update = Update(WEIGHTS, 300 if node == 4 else 100, {"train_loss": losses[node], "other": 2.0})
            yield Message(update_content(update), reply_to=message)


@pytest.mark.parametrize(("clients", "lacking"), [("abcd", {"train_loss_not_finite": 2.0}), ("ac", {})])
def test_a_mean_tells_how_many_clients_it_lacks(clients: str, lacking: dict[str, float]) -> None:
    roster = NamedRoster({"a": 2, "b": 3, "c": 4, "d": 5})
    collector = Collector(Answering(), roster, Half(), ClientsConfig())  # type: ignore[arg-type]
    with identity(1):
        found = collector.collect("train", 1, Ask(WEIGHTS), list(clients), lambda name, update: None)
    # (1.0 * 100 + 3.0 * 300) / 400
    assert found.means() == {"other": 2.0, "train_loss": 2.5} | lacking
