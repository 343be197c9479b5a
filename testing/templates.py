"""The files of a new package. `$$` is a dollar sign; what else begins with one is filled in (see scaffold.py)."""

PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$package"
version = "0.1.0"
description = "The $kind $name for fedbox."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["fedbox"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points."fedbox.$group"]
$name = "$module:plugin"

[tool.setuptools]
py-modules = ["$module"]
"""

STRATEGY = '''\
"""$name: what the method does, in one sentence (authors, year, where to read of it).

As it stands: FedAvg whose server takes only a part of the step, w <- w + rate (mean of the clients - w).
"""

from typing import Any

import numpy as np
from pydantic import Field

from fedbox.strategies import ClientHalf, Plugin, ServerHalf, Settings, Site, Update


class ${class_}Settings(Settings):
    """Settings of $name."""

    rate: float = Field(0.8, gt=0.0, le=1.0, description="share of the step to the clients' mean; 1 is FedAvg")


class ${class_}Client(ClientHalf[${class_}Settings]):
    """What a client does. Keep nothing on self: what must live from round to round goes into site.state."""

    def train(self, site: Site) -> Update:
        """Train on the labelled samples; the server's weights are in the model already."""
        fit = site.fit(lambda batch: self.loss(site, batch))
        return Update(site.weights(), fit.examples, fit.metrics)


class ${class_}Server(ServerHalf[${class_}Settings]):
    """What the server does. What must survive a restart, besides self.weights, goes into state() and restore()."""

    def finish(self, total: Any, round_: int) -> None:
        """Make the new global weights; the total has been filled in any order."""
        for name, mean in total.mean().items():
            old = self.weights[name]
            self.weights[name] = np.asarray(old + self.settings.rate * (mean - old), old.dtype)


plugin = Plugin(${class_}Settings, ${class_}Client, ${class_}Server, "one line for fedbox strategies")
'''

CONFIG = """\
# fedbox run $name.yaml
name: $name
rounds: 20
strategy: $name
settings:
  $name: {rate: 0.8}
data:
  dataset: digits
  partition: {kind: dirichlet, alpha: 0.3, clients: 20}
  test_share: 0.2
model: {name: mlp, options: {hidden: 64}}
train: {epochs: 2, batch_size: 16, lr: 0.1}
evaluate: {clients: all}
"""

STRATEGY_TEST = '''\
"""The conformance suite over $name; `fedbox check $name` is the same on the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedbox.simulations.run import check as check_config
from fedbox.testing import CHECKS, Check, Subject


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    # A method for unlabelled samples or for boxes: Subject("$name", toy="few-labels"), or toy="boxes".
    with Subject("$name") as subject:
        yield subject


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms(subject: Subject, check: Check) -> None:
    check(subject)


def test_its_configuration_is_right() -> None:
    assert check_config(Path(__file__).with_name("$name.yaml")).strategy == "$name"


# Beyond the suite: hold the method against its formula, on numbers worked out by hand.
'''

STRATEGY_README = """\
# $package

The strategy `$name` for fedbox, begun with `fedbox new strategy $name`.

```bash
pip install -e .
fedbox check $name
fedbox run $name.yaml
pytest
```

| file | what it holds |
|---|---|
| `$module.py` | the strategy |
| `$name.yaml` | a configuration to run it with |
| `test_$module.py` | the conformance suite; `pip install -e '.[test]'` brings pytest |
| `pyproject.toml` | the entry point by which fedbox finds it |

To compare it with others over seeds: `fedbox compare $name.yaml --sweep strategy=fedavg,$name`.
"""

CALLBACK = '''\
"""$name: what it tells, and to whom. As it stands: a line a round in DIR/$name.txt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedbox


class $class_(fedbox.Callback):
    """Writes a line for each round into DIR/$name.txt."""

    # Packages that it cannot do without, if any: needs = {"requests": "pip install requests"}

    def on_start(self, config: fedbox.Config, folder: Path, first: int) -> None:
        """Begin; a resumed run has the rounds before `first` behind it, and runs the others again."""
        self.file = folder / "$name.txt"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.file.write_text("".join(f"{line}\\n" for line in lines if int(line.split()[1]) < first), encoding="utf-8")

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Tell of a round; `record` is its line in rounds.jsonl."""
        told = ", ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items() if value is not None)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"round {record['round']} {told}\\n")


plugin = $class_
'''

CALLBACK_TEST = '''\
"""$name in a short run that is stopped and resumed: every round is told once."""

from pathlib import Path
from typing import Any

import fedbox


def _run(out: Path, **changes: Any) -> fedbox.Result:
    data = {"options": {"limit": 200, "test_limit": 50}, "partition": {"clients": 2}}
    config = {"data": data, "model": "mlp", "track": ["$name"]}
    return fedbox.run(config, out=out, quiet=True, report=False, workers=1, **changes)


def test_every_round_is_told_once(tmp_path: Path) -> None:
    _run(tmp_path / "run", rounds=2)
    _run(tmp_path / "run", rounds=3, resume=True)
    lines = (tmp_path / "run" / "$name.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in lines] == ["1", "2", "3"]
'''

CALLBACK_README = """\
# $package

The callback `$name` for fedbox, begun with `fedbox new callback $name`.

```bash
pip install -e .
fedbox run quickstart rounds=3 --track $name
pytest
```

A callback hears of a run and never changes it. One that fails in the middle of a run is told no more, and the run goes
on.
"""
