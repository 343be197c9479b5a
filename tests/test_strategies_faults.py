"""Strategies with one mistake each: what is told of it, and that it spoils nothing else."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins_for_tests import TOY, lines, run
from torch.nn import functional

from fedbox.configs import ConfigError
from fedbox.server.loop import RunFailedError
from fedbox.simulations.run import check
from fedbox.strategies.contract import Ask, Batch, ClientHalf, Metrics, Plugin, ServerHalf, Settings, Site, Update
from fedbox.strategies.fedmatch import FedMatchClient, FedMatchServer, FedMatchSettings
from fedbox.strategies.registry import PluginError
from fedbox.strategies.samples import Samples


class Change(ClientHalf[Settings]):
    """Trains as FedAvg does; subclasses change what it gives."""

    change: Callable[[Site, Update], Update]

    def train(self, site: Site) -> Update:
        return type(self).change(site, super().train(site))


class Telling(Change):
    change = staticmethod(lambda site, update: replace(update, metrics={"accuracy": 1.0, "loss": 0.0}))


class Part(Change):
    change = staticmethod(lambda site, update: replace(update, examples=0.3))


class Many(Change):
    change = staticmethod(lambda site, update: replace(update, metrics={"odd": torch.ones(2)}))


class Text(Change):
    @staticmethod
    def change(site: Site, update: Update) -> Update:
        site.state["word"] = np.array("text")
        return update


class Silent(ClientHalf[Settings]):
    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        return None  # type: ignore[return-value]


class Resting(ClientHalf[Settings]):
    def train(self, site: Site) -> Update:
        fit = site.fit(steps=0)
        return Update(site.weights(), fit.examples, fit.metrics)


class InPlace(ServerHalf[Settings]):
    """Changes its mapping of weights in place, and fails in round 3 after it has."""

    def finish(self, total: Any, round_: int) -> None:
        self.weights |= total.mean()

    def refine(self, site: Site) -> Metrics:
        if site.round == 3:
            raise RuntimeError("the mains went off")
        return {}


class Nothing(ServerHalf[Settings]):
    def refine(self, site: Site) -> Metrics:
        return None  # type: ignore[return-value]


class Tensors(ServerHalf[Settings]):
    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        return {"vector": torch.ones(3)}  # type: ignore[dict-item]


class Double(ServerHalf[Settings]):
    def finish(self, total: Any, round_: int) -> None:
        self.weights = {name: value.astype(np.float64) for name, value in total.mean().items()}


class Shorter(ServerHalf[Settings]):
    def refine(self, site: Site) -> Metrics:
        self.weights = dict(list(self.weights.items())[1:])
        return {}


class Flat(ServerHalf[Settings]):
    def finish(self, total: Any, round_: int) -> None:
        self.weights = {name: value.reshape(-1) for name, value in total.mean().items()}


class Torch(ServerHalf[Settings]):
    def finish(self, total: Any, round_: int) -> None:
        self.weights = {name: torch.from_numpy(value) for name, value in total.mean().items()}  # type: ignore[misc]


class Giving(ServerHalf[Settings]):
    def finish(self, total: Any, round_: int) -> None:
        return total.mean()  # type: ignore[no-any-return]


class Dict(ServerHalf[Settings]):
    def ask(self, round_: int) -> Ask:
        return self.weights  # type: ignore[return-value]


class NoOwn(ServerHalf[Settings]):
    def ask_client(self, round_: int, client: str) -> Any:
        return None


class NoAsk(ServerHalf[Settings]):
    def ask_evaluate(self, round_: int) -> Ask:
        return None  # type: ignore[return-value]


class Listing(ServerHalf[Settings]):
    def expects(self) -> Any:
        return list(self.weights)


class Plainly(ServerHalf[Settings]):
    def begin(self) -> Any:
        return {}


class Adding(ServerHalf[Settings]):
    def add(self, total: Any, client: str, update: Update) -> None:
        return {client: update}  # type: ignore[return-value]


class Remembering(ServerHalf[Settings]):
    def state(self) -> Any:
        return {"round": 3, "seen": {"client-0": 1}}


class Reserved(ServerHalf[Settings]):
    def state(self) -> Any:
        return {"__metadata__": np.zeros(2)}


class Precise(ServerHalf[Settings]):
    def state(self) -> Any:
        return {"sum": np.zeros(2, np.longdouble)}


class Lists(ServerHalf[Settings]):
    def expects(self) -> Any:
        return {3: self.weights}


class Vast(ServerHalf[Settings]):
    def refine(self, site: Site) -> Metrics:
        return {"moves": 10**400}


class First(ServerHalf[Settings]):
    def first_ask(self) -> Any:
        return "two"


class Plainest(ClientHalf[Settings]):
    def plain(self) -> Any:
        return True


class Verbose(ClientHalf[Settings]):
    def train(self, site: Site) -> Update:
        raise ValueError("x" * 10**6)


class Stateless(Change):
    @staticmethod
    def change(site: Site, update: Update) -> Update:
        site.state = None  # type: ignore[assignment]
        return update


class Unweighted(Change):
    change = staticmethod(lambda site, update: replace(update, extra=None))


class Bare(ServerHalf[Settings]):
    def __init__(self, settings: Settings, site: Site) -> None:
        self.sites = [site]


class Vector(ClientHalf[Settings]):
    def loss(self, site: Site, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(site.model(batch.x), batch.y, reduction="none")


class Number(ClientHalf[Settings]):
    def train(self, site: Site) -> Update:
        fit = site.fit(lambda batch: self.loss(site, batch).item())  # type: ignore[arg-type, return-value]
        return Update(site.weights(), fit.examples)


class Detached(ClientHalf[Settings]):
    def loss(self, site: Site, batch: Batch) -> torch.Tensor:
        return super().loss(site, batch).detach()


class Through(ClientHalf[Settings]):
    def loss(self, site: Site, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(site.model(batch.x[:, :, :2]), batch.y)


class Numpy(ServerHalf[Settings]):
    def ask(self, round_: int) -> Ask:
        return Ask(self.weights, values={"lr": np.float32(0.1)})  # type: ignore[dict-item]


class Withholding(FedMatchClient):
    """Trains, and keeps back what the server half needs beside the weights."""

    def train(self, site: Site) -> Update:
        return replace(super().train(site), extra={} if site.name == "client-1" else self.odd(site))

    def odd(self, site: Site) -> dict[str, Any]:
        return {"signature": np.full((32, 10), 0.1, np.float32 if site.name != "client-2" else np.int64)}


telling, part, many, text, silent, resting, vector, number, detached, through = (
    Plugin(client=half) for half in (Telling, Part, Many, Text, Silent, Resting, Vector, Number, Detached, Through)
)
plainest, verbose, unweighted, stateless = (Plugin(client=half) for half in (Plainest, Verbose, Unweighted, Stateless))
reserved, precise, lists, vast, first = (Plugin(server=half) for half in (Reserved, Precise, Lists, Vast, First))
in_place, nothing, tensors, numpy, double, shorter, flat, tensor, giving, ask_dict, no_own, no_ask = (
    Plugin(server=half)
    for half in (InPlace, Nothing, Tensors, Numpy, Double, Shorter, Flat, Torch, Giving, Dict, NoOwn, NoAsk)
)
listing, plainly, adding, remembering, bare = (
    Plugin(server=half) for half in (Listing, Plainly, Adding, Remembering, Bare)
)
withholding = Plugin(FedMatchSettings, Withholding, FedMatchServer)


def _named(name: str) -> str:
    return f"test_strategies_faults:{name}"


def test_what_clients_report_never_stands_in_for_the_global_models_score(tmp_path: Path) -> None:
    """Measured at once with one worker, beside the next round with two: the same figures, and the model's own."""
    plain = run(tmp_path / "plain")
    one = run(tmp_path / "one", strategy=_named("telling"))
    two = run(tmp_path / "two", strategy=_named("telling"), workers=2)
    for result in (one, two):
        for record, wanted in zip(result.rounds, plain.rounds, strict=True):
            assert {key: record["metrics"][key] for key in ("accuracy", "loss")} == {
                key: wanted["metrics"][key] for key in ("accuracy", "loss")
            }
    assert lines(one.folder) == lines(two.folder)


def test_a_run_that_fails_ends_with_the_weights_of_the_last_round_that_it_tells_of(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the mains went off"):
        run(tmp_path / "run", strategy=_named("in_place"))
    whole = run(tmp_path / "whole", strategy=_named("in_place"), rounds=2)
    left, wanted = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole"))
    assert hashlib.sha256(left).digest() == hashlib.sha256(wanted).digest()
    assert whole.summary["rounds"] == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("part", r"Update.examples is 0.3 \(float\); wanted: a whole number"),
        ("many", r"Many.train: metric 'odd' is tensor\(\[1., 1.\]\) \(Tensor\); wanted: one number"),
        ("vector", r" PluginError: Vector.loss returned shape \(16,\); wanted a scalar, such as its mean\(\)\n"),
        (
            "number",
            r"<lambda> of Number.train returned float; wanted a scalar tensor \(test_strategies_faults.py, line",
        ),
        ("detached", r"Detached.loss returned a tensor without a gradient"),
        ("through", r"RuntimeError: .*\(test_strategies_faults.py, line"),
        (
            "unweighted",
            r"TypeError: Update.extra is NoneType; wanted: a mapping by name \(test_strategies_faults.py, line",
        ),
        (
            "verbose",
            r"ValueError: x{1000,1500} \[... 998,\d\d\d characters ...\] x{300,500} \(test_strategies_faults.py",
        ),
        ("stateless", "PluginError: Stateless.train left site.state as NoneType; wanted: arrays by name"),
        ("text", r"client-\d wants to keep state/word of type <U4; wanted: numbers or booleans"),
    ],
)
def test_a_clients_mistake_is_its_failure_by_name(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=said):
        run(tmp_path / "run", strategy=_named(name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "Nothing.refine returned NoneType; the contract wants metrics by name, {} for none"),
        ("tensors", r"Tensors.evaluate: metric 'vector' is tensor\(.*\) \(Tensor\); wanted: one number"),
        ("double", r"round 1: Double.finish left self.weights\['.*'\] in float64; wanted: float32"),
        ("shorter", "round 1: Shorter.refine left self.weights without '"),
        ("flat", r"round 1: Flat.finish left self.weights\['.*'\] with shape \(\d+,\); wanted: \(\d+, \d+\)"),
        ("tensor", r"round 1: Torch.finish left self.weights\['.*'\] as Tensor; wanted: a NumPy array"),
        ("giving", "Giving.finish returned dict; the contract wants None: set self.weights"),
        ("ask_dict", "Dict.ask returned dict; the contract wants an Ask or None"),
        ("no_own", "NoOwn.ask_client returned NoneType; the contract wants arrays by name, {} for none"),
        ("no_ask", "NoAsk.ask_evaluate returned NoneType; the contract wants an Ask"),
        ("listing", "Listing.expects returned list; the contract wants arrays by name"),
        (
            "plainly",
            "Plainly.begin returned dict; the contract wants an ExactSum, or a half with add and finish of its",
        ),
        ("adding", "Adding.add returned dict; the contract wants None: change the total in place"),
        ("remembering", "Remembering.state: 'seen' is dict; wanted: texts for names, and arrays"),
        ("reserved", "Reserved.state: '__metadata__' of type float64 cannot be written to a checkpoint; wanted: "),
        ("precise", r"Precise.state: 'sum' of type float128 cannot be written .* numbers of at most 64 bits"),
        ("lists", "Lists.expects: 3 is dict; wanted: texts for names, and arrays"),
        ("vast", r"Vast.refine: metric 'moves' is 1\d+ \(int\); wanted: one number"),
        ("first", "First.first_ask returned str; the contract wants the number of a round, or None"),
        ("plainest", "Plainest.plain returned bool; the contract wants a Plain or None"),
        ("bare", r"Bare.__init__ left no self.weights; call super\(\).__init__\(settings, site\) first"),
    ],
)
def test_a_server_halfs_mistake_names_the_method_and_the_key(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=said) as caught:
        run(tmp_path / "run", strategy=_named(name), data__test_share=0.2, evaluate__clients="all")
    assert caught.value.exit_code == 4


def test_a_value_that_cannot_travel_is_told_where_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Ask.values\['lr'\] is .*0.1.* \(float32\); wanted: int, float, str or bool"):
        run(tmp_path / "run", strategy=_named("numpy"))
    with pytest.raises(TypeError, match=r"Ask\.arrays is list; wanted: a mapping by name"):
        Ask([])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Ask\.values has the name 3 \(int\); wanted: a text"):
        Ask({}, values={3: 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"Ask\.values\['seed'\] is 1\d+; wanted: a whole number of 64 bits"):
        Ask({}, values={"seed": 2**80})
    with pytest.raises(TypeError, match=r"Ask\.phase is None \(NoneType\); wanted: a text, such as 'train'"):
        Ask({}, phase=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Update\.metrics has the name 3 \(int\); wanted: a text"):
        Update({}, metrics={3: 1.0})  # type: ignore[dict-item]
    for examples in (None, float("nan"), float("inf"), "seven"):
        with pytest.raises(TypeError, match=r"Update\.examples is .* \(\w+\); wanted: a whole number of samples"):
            Update({}, examples)  # type: ignore[arg-type]


def test_an_evaluation_that_gives_nothing_is_told_as_such(tmp_path: Path) -> None:
    result = run(tmp_path / "run", strategy=_named("silent"), data__test_share=0.2, evaluate__clients="all", rounds=1)
    reasons = {failure["reason"] for failure in result.rounds[0]["failures"]}
    assert len(reasons) == 1
    assert "Silent.evaluate returned NoneType; the contract wants metrics by name" in reasons.pop()


def test_a_client_that_leaves_extra_arrays_out_is_refused_by_name(tmp_path: Path) -> None:
    result = run(tmp_path / "run", strategy=_named("withholding"), rounds=1)
    told = {failure["client"]: failure["reason"] for failure in result.rounds[0]["failures"]}
    assert told == {
        "client-1": "extra array 'signature' is missing; wanted: signature",
        "client-2": "extra array 'signature' has shape (32, 10) and type int64; wanted: floats of shape (32, 10)",
    }


def test_no_steps_are_no_training_and_no_error(tmp_path: Path) -> None:
    result = run(tmp_path / "run", strategy=_named("resting"), rounds=1)
    assert result.rounds[0]["failures"] == []
    assert "train_loss" not in result.rounds[0]["metrics"]


def test_a_module_that_lies_here_is_told_how_to_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nova.py").touch()
    with pytest.raises(ConfigError, match=r"named module:attribute: write nova:plugin for nova\.py"):
        check(TOY, {"strategy": "nova"})


@pytest.mark.parametrize("given", ["./nova.py", "nova.py", "/somewhere/nova.py"])
def test_a_file_in_place_of_a_name_is_told_how_to_write_it(given: str) -> None:
    with pytest.raises(ConfigError, match=r"named module:attribute: write nova:plugin for nova\.py"):
        check(TOY, {"strategy": given})
