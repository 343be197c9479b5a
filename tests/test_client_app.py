"""Flower at the border: its own strategy over our Grid, our app under a foreign Grid, and the messages between them."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from plugins_for_tests import TOY, run

from fedbox.client.app import app
from fedbox.client.workspace import forget
from fedbox.configs import load_config
from fedbox.server.folder import RunFolder
from fedbox.server.loop import Coordinator
from fedbox.server.outcome import finish
from fedbox.server.records import read_rounds
from fedbox.server.roster import roster_of
from fedbox.simulations.inprocess import InProcessGrid
from fedbox.strategies.base import identity
from fedbox.strategies.federation import Federation
from fedbox.strategies.registry import find

own = ClientApp()


@own.train()
def _train(message: Message, context: Context) -> Message:
    """Add this client's number + 1 to every weight."""
    number = int(context.node_config["partition-id"]) + 1
    arrays = [array + np.float32(number) for array in message.content.array_records["arrays"].to_numpy_ndarrays()]
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 10 * number, "loss": 1.0})}
    return Message(RecordDict(content), reply_to=message)


@own.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    total = float(message.content.array_records["arrays"].to_numpy_ndarrays()[0].sum())
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "total": total})}), reply_to=message)


def test_flowers_own_fedavg_drives_our_grid() -> None:
    with identity(1):
        grid = InProcessGrid(3, "{}", "", app=own)
        initial = ArrayRecord([np.zeros((2, 2), np.float32)])
        result = FedAvg(fraction_train=1.0, fraction_evaluate=1.0).start(
            grid=grid, initial_arrays=initial, num_rounds=2
        )
    # Clients add 1, 2, 3 with weights 10, 20, 30: 14/6 a round.
    np.testing.assert_allclose(result.arrays.to_numpy_ndarrays()[0], np.full((2, 2), 28 / 6), rtol=1e-6)
    assert result.evaluate_metrics_clientapp[2]["total"] == pytest.approx(4 * 28 / 6)


class ForeignGrid(Grid):
    """A Grid as others make them: random node ids, replies in any order, neither a roster nor a stream."""

    def __init__(self, inner: InProcessGrid, seed: int) -> None:
        self._inner = inner
        self._rng = random.Random(seed)
        self._ids = {self._rng.getrandbits(62): node for node in inner.get_node_ids()}

    def set_run(self, run: Any) -> None:
        self._inner.set_run(run)

    @property
    def run(self) -> Any:
        return self._inner.run

    def create_message(self, *given: Any, **named: Any) -> Message:
        return self._inner.create_message(*given, **named)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        back = {inner: outer for outer, inner in self._ids.items()}
        replies = []
        for message in self._rng.sample(list(messages), k=len(list(messages))):
            inside = Message(
                message.content, self._ids[message.metadata.dst_node_id], message.metadata.message_type, group_id="1"
            )
            replies += self._inner.send_and_receive([inside], timeout=timeout)
        for reply in replies:
            reply.metadata.__dict__["_src_node_id"] = back[reply.metadata.src_node_id]
        self._rng.shuffle(replies)
        return replies


@pytest.mark.parametrize("strategy", ["fedavg", "plugins_for_tests:keeping"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_foreign_grid_gives_the_same_model(tmp_path: Path, strategy: str, seed: int) -> None:
    changes: dict[str, Any] = {"strategy": strategy, "clients.per_round": 3, "data.partition.clients": 12}
    expected = run(tmp_path / "ours", **{key.replace(".", "__"): value for key, value in changes.items()})
    config = load_config(TOY, changes)
    folder = RunFolder(tmp_path / "foreign", False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a sum over two threads has other bits
    try:
        with identity(1):
            inner = InProcessGrid(12, config.model_dump_json(), str(folder.path))
            grid = ForeignGrid(inner, seed)
            roster = roster_of(grid)
            assert [roster.name(number) for number in range(12)] == [f"client-{number}" for number in range(12)]
            coordinator = Coordinator(Federation.prepare(config), find(strategy), grid, folder.path)
            coordinator.run()
            summary = finish(coordinator, folder, coordinator.status)
    finally:
        torch.set_num_threads(threads)
        forget()
        folder.close()
    assert summary["model_sha256"] == expected.summary["model_sha256"]
    assert [record["clients"] for record in read_rounds(folder.path / "rounds.jsonl")] == [
        r["clients"] for r in expected.rounds
    ]


def test_a_client_says_who_it_is_and_what_it_holds(tmp_path: Path) -> None:
    config = load_config(TOY, {"data.labels.share": 0.5, "data.test_share": 0.2})
    federation = Federation.prepare(config)
    with identity(1):
        message = Message(RecordDict(), 4, "query")
        context = Context(1, 4, {"partition-id": 2}, RecordDict(), {"fedbox": config.model_dump_json(), "folder": ""})
        reply = app(message, context)
    forget()
    assert reply.content.config_records["who"]["client"] == "client-2"
    roles = federation.roles("client-2")
    assert dict(reply.content.metric_records["holds"]) == {
        "labelled": len(roles.labelled),
        "unlabelled": len(roles.unlabelled),
        "test": len(roles.test),
    }
    assert len(roles.unlabelled) > 0
