"""The choice of clients, the rules for ending early, and the figures over clients: by hand and by property."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbox.configs import StopConfig
from fedbox.server.collected import Collected, Failure
from fedbox.server.evaluation import client_metrics, spread
from fedbox.server.roster import NamedRoster, Roster, everyone, size_of
from fedbox.server.selecting import Names
from fedbox.server.stats import natural
from fedbox.server.stopping import Stopper
from fedbox.strategies import Settings
from fedbox.strategies.selectors import Uniform

NAMES = st.lists(st.text(min_size=1, max_size=6) | st.from_regex(r"[ab]-?0?[0-9]{1,2}", fullmatch=True), unique=True)


def choose(roster: Roster, size: int, seed: int, round_: int) -> list[str]:
    return list(Uniform(Settings(), Names(roster), seed, 10).choose(round_, size, {}))


@given(NAMES, st.integers(1, 12), st.integers(0, 2**63 - 1), st.integers(1, 1000), st.randoms())
def test_a_cohort_depends_on_names_seed_and_round_only(
    names: list[str], size: int, seed: int, round_: int, rng
) -> None:  # type: ignore[no-untyped-def]
    roster = NamedRoster({name: number for number, name in enumerate(names)})
    cohort = choose(roster, size, seed, round_)
    assert len(cohort) == len(set(cohort)) == min(size, len(names))
    assert set(cohort) <= set(names)
    order = list(everyone(roster))
    assert [order.index(name) for name in cohort] == sorted(order.index(name) for name in cohort)
    other = names.copy()
    rng.shuffle(other)
    assert choose(NamedRoster({name: rng.getrandbits(63) for name in other}), size, seed, round_) == cohort


def test_cohorts_differ_from_round_to_round_and_are_fair() -> None:
    roster = NamedRoster({f"client-{number}": number for number in range(20)})
    cohorts = [choose(roster, 5, 0, round_) for round_ in range(1, 401)]
    assert len({tuple(cohort) for cohort in cohorts}) > 390
    counts = [sum(f"client-{number}" in cohort for cohort in cohorts) for number in range(20)]
    # Each count is hypergeometric with mean 100 and standard deviation 8.7: six of these is beyond any luck.
    assert all(abs(count - 100) < 52 for count in counts)


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["client-10", "client-2", "client-02", "b", "7", "client-", "²"]
    assert sorted(names, key=natural) == ["7", "b", "client-", "client-02", "client-2", "client-10", "²"]


@pytest.mark.parametrize(
    ("wanted", "population", "size"),
    [
        (None, 7, 7),
        (3, 7, 3),
        (9, 7, 7),
        (1, 7, 1),
        (1.0, 7, 7),
        (0.5, 7, 4),
        (0.5, 8, 4),
        (0.1, 100_000, 10_000),
        (0.1, 30, 3),  # 0.1 * 30 is a little above 3 in binary
        (0.7, 10, 7),
        (0.6, 5, 3),
        (1e-9, 7, 1),
    ],
)
def test_size_of_a_cohort(wanted: float | None, population: int, size: int) -> None:
    assert size_of(wanted, population) == size


@given(st.floats(0.001, 1.0), st.integers(1, 10_000))
def test_a_share_is_rounded_up(share: float, population: int) -> None:
    size = size_of(share, population)
    assert 1 <= size <= population
    assert size - 1 < share * population + 1e-6
    assert size >= share * population - 1e-6


def _seen(config: StopConfig, values: list[float | None]) -> int | None:
    stopper = Stopper(config)
    for number, value in enumerate(values, 1):
        stopper.see({config.metric: value})
        if stopper.done:
            return number
    return None


@pytest.mark.parametrize(
    ("config", "values", "stops"),
    [
        (StopConfig(target=0.8), [0.1, 0.79, 0.8, 0.9], 3),
        (StopConfig(metric="loss", target=0.5), [2.0, 0.6, 0.5], 3),
        (StopConfig(patience=2), [0.1, 0.2, 0.2, 0.19, 0.3], 4),  # an equal value is no improvement
        (StopConfig(patience=2), [0.1, 0.1, 0.2, 0.2, 0.3], None),
        (StopConfig(metric="loss", patience=1), [2.0, 1.0, 1.1], 3),
        (StopConfig(patience=2), [0.5, None, None, None, 0.4, 0.4], 6),
        (StopConfig(patience=2), [math.nan, 0.1, math.nan, 0.2, math.inf, 0.2, 0.2], 7),
        (StopConfig(), [0.5] * 50, None),
        (StopConfig(target=0.8), [math.inf, math.nan], None),
    ],
)
def test_when_a_run_ends_early(
    tmp_path: Path, config: StopConfig, values: list[float | None], stops: int | None
) -> None:
    assert _seen(config, values) == stops
    file = tmp_path / "rounds.jsonl"
    for cut in range(1, (stops or len(values)) + 1):  # and a run that is resumed there ends with it
        clean = [value if value is not None and math.isfinite(value) else None for value in values[:cut]]
        file.write_text("".join(json.dumps({"round": 1, "metrics": {config.metric: v}}) + "\n" for v in clean))
        stopper = Stopper(config)
        stopper.replay(file)
        assert stopper.done == (cut == stops)


def test_spread_by_hand() -> None:
    assert spread([0.5]) == (0.5, 0.0, 0.5)
    assert spread([0.2, 0.4, 0.6, 0.8]) == pytest.approx((0.5, math.sqrt(0.05), 0.2))
    values = [0.01 * number for number in range(20, 0, -1)]  # the two lowest are 0.01 and 0.02
    assert spread(values)[2] == pytest.approx(0.015)
    assert spread(values[:19])[2] == pytest.approx(0.02)  # 19 clients: one in the worst decile


def test_means_over_clients_by_hand() -> None:
    clients = {
        "a": {"examples": 10.0, "accuracy": 0.5, "loss": 1.0, "shared_accuracy": 0.2},
        "b": {"examples": 30.0, "accuracy": 0.9, "loss": 2.0, "shared_accuracy": 0.4},
        "c": {"examples": 60.0},
    }
    collected = Collected(clients=clients)
    assert collected.mean("loss") == pytest.approx((10 * 1 + 30 * 2) / 40)
    assert collected.mean("loss", weight=None) == pytest.approx(1.5)
    assert collected.mean("absent") is None
    nobody = Collected(clients={"a": {"examples": 0, "loss": 1.0}, "b": {"examples": 0, "loss": 2.0}})
    assert nobody.mean("loss") == pytest.approx(1.5)  # nobody used a sample: all count the same
    metrics = client_metrics(collected, "server")
    assert metrics == pytest.approx(
        {
            "client_accuracy": 0.7,
            "client_accuracy_std": 0.2,
            "client_accuracy_worst_decile": 0.5,
            "client_loss": 1.5,
            "accuracy": 0.3,
        }
    )
    own = client_metrics(collected, "clients")
    assert own == pytest.approx({**metrics, "accuracy": 0.7, "loss": 1.5, "shared_accuracy": 0.3})
    assert "accuracy" not in client_metrics(collected, None)
    assert client_metrics(Collected(), "server") == {}


def test_what_a_strategy_measures_at_its_clients_has_a_mean() -> None:
    rows = {
        "a": {"examples": 9, "accuracy": 0.5, "f1": 0.25, "personal_f1": 1.0, "shared_f1": 0.125},
        "b": {"examples": 1, "accuracy": 0.5, "f1": 0.75, "map_by_class.car": 0.5},
    }
    metrics = client_metrics(Collected(clients=rows), "server")
    assert metrics["client_f1"] == pytest.approx(0.5)  # each client counts once
    assert metrics["personal_f1"] == 1.0
    assert metrics["f1"] == pytest.approx(0.125)
    assert not [name for name in metrics if "shared" in name or "car" in name]


def test_what_was_collected_is_put_in_order() -> None:
    clients = {f"client-{number}": {"examples": number} for number in (10, 2, 0)}
    failures = [Failure(f"client-{number}", "raised", "") for number in (11, 3)]
    collected = Collected(clients=clients, failures=failures)  # type: ignore[arg-type]
    collected.sort()
    assert list(collected.clients) == ["client-0", "client-2", "client-10"]
    assert [failure.client for failure in collected.failures] == ["client-3", "client-11"]
