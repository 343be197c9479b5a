"""The ServerApp, called as Flower's runtime calls it: a Grid and a Context."""

from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

import fedbox
from fedbox.client.workspace import forget
from fedbox.server.app import app
from fedbox.server.records import read_rounds
from fedbox.simulations.inprocess import InProcessGrid
from fedbox.simulations.run import check
from fedbox.strategies.base import identity, run_config

TOY: dict[str, Any] = {
    "name": "app",
    "rounds": 2,
    "data": {"options": {"limit": 200, "test_limit": 100}, "partition": {"kind": "iid", "clients": 3}},
    "model": {"name": "mlp", "options": {"hidden": 8}},
    "engine": {"workers": 1},
}


def _serve(folder: Path, **changes: Any) -> None:
    text = check(TOY, changes).model_dump_json()
    with identity(1):
        grid = InProcessGrid(3, text, str(folder))
        app(grid, Context(1, 1, {}, RecordDict(), run_config(text, str(folder))))
    forget()


def test_it_gives_the_model_of_a_simulation_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    whole = fedbox.run(TOY, out=tmp_path / "simulated", quiet=True, report=False)
    _serve(tmp_path / "served", rounds=1)
    assert len(read_rounds(tmp_path / "served" / "rounds.jsonl")) == 1
    _serve(tmp_path / "served")
    served = fedbox.Result(tmp_path / "served", whole.summary)
    assert len(served.rounds) == 2
    weights = whole.weights()
    assert {name: value.tobytes() for name, value in served.weights().items()} == {
        name: value.tobytes() for name, value in weights.items()
    }
