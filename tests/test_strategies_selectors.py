"""Selectors: each one's property, what is refused, what it costs, and the same cohorts after a stop and a resume."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins_for_tests import TOY, lines, run

from fedbox.configs import ConfigError
from fedbox.server.callbacks import Callback
from fedbox.simulations.run import check
from fedbox.strategies import Selector, SelectorPlugin, Settings
from fedbox.strategies.federation import Federation
from fedbox.strategies.order import allowed
from fedbox.strategies.registry import PluginError
from fedbox.strategies.seeds import derive
from fedbox.strategies.selection import find_selector

find = cache(find_selector)  # looked up once: that reads the metadata of every installed package

LOSSES = st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=30)


def _names(count: int) -> list[str]:
    return [f"client-{number}" for number in range(count)]


def make_selector(name: str, settings: dict[str, Any], clients: list[str], seed: int, rounds: int) -> Selector[Any]:
    plugin = find(name)
    return plugin.selector(plugin.settings(**settings), clients, seed, rounds)


def _choose(name: str, losses: list[float], size: int, round_: int = 1, rounds: int = 10, **settings: Any) -> list[str]:
    names = _names(len(losses))
    selector = make_selector(name, settings, names, 0, rounds)
    told = dict(zip(names, losses, strict=True))
    answers = {each: told[each] for each in selector.asks(round_, size)}
    chosen = list(selector.choose(round_, size, answers))
    assert len(set(chosen)) == len(chosen) == size
    assert set(chosen) <= set(names)
    return chosen


def test_uniform_draws_as_ever() -> None:
    rng = np.random.default_rng(derive(0, "cohort", 4))
    wanted = [f"client-{number}" for number in sorted(rng.choice(20, 5, replace=False))]
    assert _choose("uniform", [0.0] * 20, 5, 4) == wanted


@given(st.integers(1, 30), st.data())
def test_round_robin_asks_all_equally_often(count: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, count))
    times = dict.fromkeys(_names(count), 0)
    for round_ in range(1, count + 1):
        for name in _choose("round-robin", [0.0] * count, size, round_):
            times[name] += 1
    assert set(times.values()) == {size}


@given(LOSSES, st.data(), st.sampled_from(["curr", "anti"]))
def test_the_curriculum_draws_from_the_pool_of_the_easiest_or_hardest(
    losses: list[float], data: st.DataObject, order: str
) -> None:
    size, round_ = data.draw(st.integers(1, len(losses))), data.draw(st.integers(1, 10))
    chosen = _choose("curriculum", losses, size, round_, order=order)
    pool = allowed("linear", round_ - 1, 10, len(losses), 0.8, 0.2, size)
    limit = sorted(losses, reverse=order == "anti")[pool - 1]
    found = [losses[int(name.partition("-")[2])] for name in chosen]
    assert all(loss <= limit if order == "curr" else loss >= limit for loss in found)


def test_the_curriculum_reaches_everybody_in_the_end() -> None:
    chosen = {name for seed in range(40) for name in _choose("curriculum", [0.1] * 9 + [9.0], 2, round_=9 + seed % 2)}
    assert chosen <= set(_names(10))
    selectors = [make_selector("curriculum", {}, _names(10), seed, 10) for seed in range(40)]
    told = dict(zip(_names(10), range(10), strict=True))
    assert any("client-9" in each.choose(10, 2, told) for each in selectors)
    assert not any("client-9" in each.choose(1, 2, told) for each in selectors)


def test_a_random_pool_asks_nobody_and_only_grows() -> None:
    selector = make_selector("curriculum", {"order": "rand"}, _names(50), 0, 10)
    assert not selector.asks(1, 5)
    first = {
        name
        for _ in range(200)
        for name in make_selector("curriculum", {"order": "rand"}, _names(50), 0, 10).choose(1, 5, {})
    }
    assert len(first) <= 10  # the pool of the first round has a fifth of the clients


def test_a_curriculum_asks_in_the_first_round_that_takes_clients() -> None:
    """A server that warmed up takes them from a later round on, which need be none of those with questions."""
    names = _names(6)
    selector = make_selector("curriculum", {"every": 3}, names, 0, 20)
    told = dict.fromkeys(names, 0.5)
    asks = {}
    for round_ in range(3, 9):
        asks[round_] = bool(selector.asks(round_, 2))
        selector.see(round_, told if asks[round_] else {}, {})
    assert [round_ for round_, asked in asks.items() if asked] == [3, 4, 7]


@given(LOSSES, st.data())
def test_power_of_choice_takes_the_largest_losses_of_its_candidates(losses: list[float], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(losses)))
    wanted = data.draw(st.integers(1, 40))
    selector = make_selector("power-of-choice", {"candidates": wanted}, _names(len(losses)), 0, 10)
    asked = list(selector.asks(3, size))
    assert len(asked) == min(max(wanted, size), len(losses))
    told = dict(zip(_names(len(losses)), losses, strict=True))
    chosen = _choose("power-of-choice", losses, size, 3, candidates=wanted)
    assert (
        sorted((told[name] for name in chosen), reverse=True) == sorted((told[n] for n in asked), reverse=True)[:size]
    )


@pytest.mark.parametrize("name", ["curriculum", "power-of-choice"])
def test_reported_losses_cost_nothing_and_the_unheard_come_first(name: str) -> None:
    selector = make_selector(name, {"losses": "reported"}, _names(6), 0, 10)
    assert not selector.asks(1, 2)
    selector.see(1, {}, {f"client-{n}": {"train_loss": float(n), "examples": 5} for n in range(4)})
    selector.see(2, {}, {"client-0": {"examples": 0}})  # nothing reported: the old loss stands
    assert set(selector.choose(1, 2, {})) == {"client-4", "client-5"}
    selector.see(3, {}, {"client-4": {"train_loss": 9.0}, "client-5": {"train_loss": 8.0}})
    wanted = {"client-0", "client-1"} if name == "curriculum" else {"client-4", "client-5"}
    assert set(selector.choose(1, 2, {})) == wanted


@pytest.mark.parametrize("order", ["curr", "anti"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clients_with_no_loss_to_learn_from_come_last_in_either_order(order: str, bad: float) -> None:
    told = dict(zip(_names(6), [1.0, bad, 3.0, bad, 0.5, 2.0], strict=True))
    first = make_selector("curriculum", {"order": order, "b": 0.01}, _names(6), 0, 10)
    assert set(first.choose(1, 4, told)) == {name for name, loss in told.items() if math.isfinite(loss)}
    assert set(_choose("power-of-choice", list(told.values()), 4, 1, candidates=6)) == set(first.choose(1, 4, told))


@pytest.mark.parametrize("losses", ["asked", "reported"])
def test_clients_without_samples_do_not_lead_the_cohorts(losses: str, tmp_path: Path) -> None:
    """Nobody can know their loss: they must not be taken for clients that are still to be heard, round after round."""
    data = {
        "data.partition": {"kind": "dirichlet", "alpha": 0.05, "clients": 24, "min_size": 0},
        "data.options": {"limit": 100, "test_limit": 50},
        "clients": {"selector": "curriculum", "selector_settings": {"losses": losses, "a": 1.0}, "per_round": 6},
        "rounds": 20,
    }
    rounds = run(tmp_path / "run", **{key.replace(".", "__"): value for key, value in data.items()}).rounds
    held = Federation.prepare(check(TOY, data))
    empty = {f"client-{n}" for n in range(24) if not len(held.roles(f"client-{n}").labelled)}
    assert len(empty) == 5
    if losses == "asked":
        assert {name for name, loss in rounds[0]["asked"].items() if loss is None} == empty
    cohorts = [{name for name, row in record["clients"].items() if "examples" in row} for record in rounds]
    first = 0 if losses == "asked" else 6  # by then everybody was heard
    assert not any(cohort & empty for cohort in cohorts[first:9])  # the pool grows to 14 of the 24


@pytest.mark.parametrize("selector", ["curriculum", "power-of-choice"])
def test_a_client_whose_asked_loss_is_not_finite_comes_last(selector: str, tmp_path: Path) -> None:
    """Its model ran away: what it was before, the easiest or the one with the largest loss, counts no more."""
    clients = {"selector": selector, "selector_settings": {}, "per_round": 2}
    done = run(tmp_path / "run", strategy="local", rounds=2, train__lr=1e30, clients=clients)
    first, second = ({name for name, row in record["clients"].items() if "examples" in row} for record in done.rounds)
    asked = done.rounds[1]["asked"]
    assert {name for name, loss in asked.items() if loss is None} == first
    assert len(asked) == 5
    assert not first & second


@pytest.mark.parametrize("order", ["curr", "anti"])
def test_clients_that_trained_and_told_no_loss_are_not_unheard_for_good(order: str) -> None:
    """A loss that is not finite is not in the record; a client of FedLabel without labels reports none at all."""
    settings = {"losses": "reported", "order": order, "b": 0.01}
    selector = make_selector("curriculum", settings, _names(6), 0, 10)
    rows: dict[str, dict[str, float | None]] = {
        f"client-{n}": {"train_loss": float(n), "examples": 5} for n in range(4)
    }
    selector.see(1, {}, rows | {"client-4": {"examples": 5}, "client-5": {"test_examples": 3}})
    easiest = ["client-0", "client-1", "client-2"] if order == "curr" else ["client-3", "client-2", "client-1"]
    assert set(selector.choose(1, 4, {})) == {"client-5", *easiest}  # only client-5 was never heard


class Wrong(Selector[Settings]):
    """Gives what the round's number says."""

    def choose(self, round_: int, size: int, losses: Mapping[str, float]) -> Sequence[str]:
        given: list[Any] = [
            ["client-99", "client-0"],
            ["client-1", "client-1"],
            ["client-0"],
            None,
            "client-0",
            [0, [1]],
        ]
        return given[round_ - 1]  # type: ignore[no-any-return]


wrong = SelectorPlugin(Settings, Wrong)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (0, r"round 1: chose client-99; the clients are client-0 to client-4"),
        (1, r"round 1: chose client-1 more than once"),
        (2, r"round 1: chose 1 clients; wanted: 2 \(clients\.per_round\)"),
        (3, r"round 1: chose None \(NoneType\); wanted: a list of names of clients"),
        (4, r"round 1: chose 'client-0' \(str\); wanted: a list of names of clients"),
        (5, r"round 1: chose 0, \[1\]; the clients are client-0 to client-4"),
    ],
)
def test_what_is_no_cohort_is_refused(
    first: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = Wrong.choose
    monkeypatch.setattr(Wrong, "choose", lambda self, round_, size, losses: choose(self, round_ + first, size, losses))
    with pytest.raises(PluginError, match=message) as caught:
        run(tmp_path / "run", clients={"selector": "test_strategies_selectors:wrong", "per_round": 2})
    assert caught.value.exit_code == 4


class Asking(Selector[Settings]):
    """Asks whom `wanted` names."""

    wanted: ClassVar[Any] = None

    def asks(self, round_: int, size: int) -> Sequence[str]:
        return self.wanted  # type: ignore[no-any-return]

    def choose(self, round_: int, size: int, losses: Mapping[str, float]) -> Sequence[str]:
        return list(losses)


asking = SelectorPlugin(Settings, Asking)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (None, r"round 1: asked None \(NoneType\); wanted: a list of names of clients"),
        ("client-0", r"round 1: asked 'client-0' \(str\); wanted: a list of names"),
        (["client-0", "client-7", 1], r"round 1: asked client-7, 1; the clients are client-0 to client-4"),
        (["client-0", "client-0", "client-3"], ""),
    ],
)
def test_who_is_asked_for_a_loss_must_be_a_client(
    wanted: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asking, "wanted", wanted)
    clients = {"selector": "test_strategies_selectors:asking", "per_round": 2}
    if message:
        with pytest.raises(PluginError, match=message):
            run(tmp_path / "run", clients=clients)
    else:  # twice is once
        assert list(run(tmp_path / "run", clients=clients, rounds=1).rounds[0]["asked"]) == ["client-0", "client-3"]


def test_all_faults_of_a_selector_are_told_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"did you mean 'curriculum'\? allowed: curriculum, power-of-choice"
    ) as caught:
        check(TOY, {"clients.selector": "curiculum", "clients.order.b": 0, "train.lr": -1})
    assert {fault.path for fault in caught.value.faults} == {"clients.selector", "clients.order.b", "train.lr"}
    settings = {"a": 0, "every": 0, "losses": "guessed", "candidates": 3}
    with pytest.raises(ConfigError) as caught:
        check(TOY, {"clients.selector": "curriculum", "clients.selector_settings": settings})
    assert {fault.path for fault in caught.value.faults} == {f"clients.selector_settings.{key}" for key in settings}
    with pytest.raises(PluginError, match="is a int, not a"):
        check(TOY, {"clients.selector": "os:O_RDONLY"})
    with pytest.raises(PluginError, match=r"cannot be imported: .* looked for where fedbox was started"):
        check(TOY, {"clients.selector": "absent:plugin"})


class _Stop(Callback):
    def on_round(self, record: Mapping[str, Any]) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt


SELECTORS: dict[str, dict[str, Any]] = {
    "round robin": {"selector": "round-robin"},
    "asked": {"selector": "curriculum", "selector_settings": {"b": 0.4}},
    "asked now and then": {"selector": "curriculum", "selector_settings": {"b": 0.4, "every": 3}},
    "reported": {"selector": "curriculum", "selector_settings": {"b": 0.4, "losses": "reported"}},
    "power": {"selector": "power-of-choice", "selector_settings": {"candidates": 4}},
    "power, reported": {"selector": "power-of-choice", "selector_settings": {"candidates": 4, "losses": "reported"}},
}


@pytest.mark.parametrize("name", SELECTORS)
def test_one_worker_two_and_a_resume_choose_the_same(name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rounds": 5, "clients": {**SELECTORS[name], "per_round": 2}}
    one = run(tmp_path / "one", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", callbacks=[_Stop()], **changes)
    cut = run(tmp_path / "cut", resume=True, **changes)
    assert one.summary["model_sha256"] == cut.summary["model_sha256"]
    assert lines(one.folder) == lines(cut.folder)
    if name in ("asked now and then", "power, reported"):
        two = run(tmp_path / "two", workers=2, **changes)
        assert one.summary["model_sha256"] == two.summary["model_sha256"]
        assert lines(one.folder) == lines(two.folder)


# A round of fedavg has two messages to clients; fedsa then measures all five.
@pytest.mark.parametrize(("strategy", "messages"), [("fedavg", 2), ("fedsa", 7)])
def test_the_bytes_of_questions_are_counted(strategy: str, messages: int, tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", strategy=strategy, clients={"per_round": 2}).rounds
    asked = run(
        tmp_path / "asked",
        strategy=strategy,
        clients={"per_round": 2, "selector": "curriculum", "selector_settings": {"every": 2}},
    ).rounds
    assert [len(record.get("asked", {})) for record in asked] == [5, 0, 5]
    each = plain[0]["bytes_down"] / messages  # a question carries what any of these carries
    assert asked[0]["bytes_down"] == pytest.approx((messages + 5) * each, rel=0.05)
    assert asked[1]["bytes_down"] == pytest.approx(messages * each, rel=0.05)
    assert 0 < asked[0]["bytes_up"] - asked[1]["bytes_up"] < 5000
    assert all(loss > 0 for loss in asked[2]["asked"].values())
