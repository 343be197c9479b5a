"""Ordered learning: pacing and order by hand, the budget of steps, and the same bits with every kind of strategy."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plugins_for_tests import TOY, lines, run
from torch import nn

from fedbox.configs import ConfigError, OrderConfig, TrainConfig
from fedbox.models import FlatModel, ModelError
from fedbox.server.callbacks import Callback
from fedbox.server.loop import RunFailedError
from fedbox.simulations.run import check
from fedbox.strategies.order import Order, allowed, paced, ranked, whole
from fedbox.strategies.samples import Samples
from fedbox.strategies.site import Holdings, Site

PACINGS = ["linear", "quad", "sqrt", "step", "exp", "log"]
CPU = torch.device("cpu")


# N = 100, b = 0.2, a = 0.8, 50 steps: s = 20 and T = 40. At step 10 t/T = 1/4, at step 20 t/T = 1/2.
@pytest.mark.parametrize(
    ("pacing", "quarter", "half"),
    [
        ("linear", 40, 60),  # 20 + 80 / 4, 20 + 80 / 2
        ("quad", 25, 40),  # 20 + 80 / 16, 20 + 80 / 4
        ("sqrt", 60, 76),  # 20 + 80 * 0.5, 20 + 80 * 0.70711 = 76.57
        ("step", 20, 20),
        ("exp", 20, 20),  # 20 + 80 * 11.182 / 22025.5 = 20.04, 20 + 80 * 147.41 / 22025.5 = 20.54
        ("log", 88, 94),  # 20 + 80 * (1 - 0.13861) = 88.91, 20 + 80 * (1 - 0.06931) = 94.46
    ],
)
def test_the_pacing_functions_by_hand(pacing: Any, quarter: int, half: int) -> None:
    at = {t: allowed(pacing, t, 50, 100, 0.8, 0.2) for t in (0, 10, 20, 40, 49)}
    assert at == {0: 20, 10: quarter, 20: half, 40: 100, 49: 100}


def test_the_late_rise_of_exp_by_hand() -> None:
    # t/T = 0.9: 20 + 80 * 8102.08 / 22025.47 = 49.43
    assert allowed("exp", 36, 50, 100, 0.8, 0.2) == 49


def test_a_step_comes_at_its_time_whatever_the_rounding() -> None:
    assert [allowed("step", t, 100, 100, 0.55, 0.2) for t in (54, 55)] == [20, 100]


@given(
    st.sampled_from(PACINGS),
    st.integers(1, 300),
    st.integers(1, 500),
    st.floats(0.01, 3),
    st.floats(0.001, 1),
    st.integers(1, 64),
)
def test_a_pacing_never_falls_and_keeps_its_bounds(
    pacing: Any, total: int, count: int, a: float, b: float, least: int
) -> None:
    sizes = [allowed(pacing, t, total, count, a, b, least) for t in range(total)]
    assert sizes == sorted(sizes)
    assert min(least, count) <= sizes[0]
    assert sizes[-1] <= count
    assert all(size == count for t, size in enumerate(sizes) if t >= a * total + 1e-6)


@pytest.mark.parametrize("wrong", [{"a": 0.0}, {"b": 0.0}, {"least": 0}, {"count": 0}])
def test_a_pacing_that_allows_no_sample_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allows none"):
        allowed(**{"pacing": "linear", "t": 0, "total": 5, "count": 9, "a": 0.8, "b": 0.2, "least": 1, **wrong})


def test_the_order_by_hand() -> None:
    scores = torch.tensor([0.5, 0.1, 0.9, 0.3])
    assert ranked(scores, "curr", torch.Generator()).tolist() == [1, 3, 0, 2]
    assert ranked(scores, "anti", torch.Generator()).tolist() == [2, 0, 3, 1]


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30), st.integers(0, 99))
def test_equals_are_in_any_order_within_their_score(errors: list[float], seed: int) -> None:
    scores = torch.tensor(errors)
    order = ranked(scores, "curr", torch.Generator().manual_seed(seed))
    assert sorted(order.tolist()) == list(range(len(errors)))
    assert scores[order].tolist() == sorted(errors)
    others = {tuple(ranked(scores, "rand", torch.Generator().manual_seed(seed)).tolist()) for seed in range(20)}
    assert len(others) > 1 or len(errors) < 4


@given(
    st.integers(1, 90),
    st.integers(1, 20),
    st.integers(1, 60),
    st.sampled_from(PACINGS),
    st.floats(0.05, 1),
    st.randoms(),
)
def test_batches_come_from_the_allowed_part_and_repeat_none_too_early(
    count: int, size: int, total: int, pacing: Any, b: float, rng: Any
) -> None:
    order = torch.tensor(rng.sample(range(count), count))
    config = OrderConfig(kind="curr", pacing=pacing, b=b, least=5)
    batches = list(paced(order, config, size, total, torch.Generator().manual_seed(1)))
    assert len(batches) == total  # the budget is the same however few samples are allowed
    done: set[int] = set()
    for t, batch in enumerate(batches):
        part, now = set(order[: allowed(pacing, t, total, count, 0.8, b, 5)].tolist()), set(batch.tolist())
        assert len(batch) == len(now) == min(size, len(part))
        assert now <= part
        if again := now & done:  # a sample comes again only when all that are allowed have come, or come in this batch
            assert done | now == part
            done = again
        else:
            done |= now


class Tiny(nn.Module):
    """Two classes; the score of class 1 is `w` times the pixel, that of class 0 is 0."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w]))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.drop(self.w * x.flatten(1))
        return torch.cat((torch.zeros_like(score), score), 1)


# Pixels -1, 0, 1 after normalisation, all of class 1: the loss is ln(1 + e^(-w x)).
PIXELS = Samples(
    np.array([0, 51, 102], np.uint8).reshape(3, 1, 1, 1), np.array([1, 1, 1]), mean=[0.2], std=[0.2], device=CPU
)


def _scores(w: float, **config: Any) -> tuple[list[float], FlatModel]:
    flat = FlatModel(Tiny(w))
    flat.module.train()
    given = {name: {"w": np.array([value], np.float32)} for name, value in (("last", -2.0), ("expert", 3.0))}
    order = Order(OrderConfig(kind="curr", **config), given["last"], given["expert"])
    order.begin(flat)
    flat.flat.mul_(5)  # training has begun elsewhere: G stays what it was
    before = whole(flat)["w"]
    scores = order._scores(PIXELS, flat, 2).tolist()
    assert whole(flat)["w"] == before
    assert all(module.training for module in flat.module.modules())
    return scores, flat


@pytest.mark.parametrize(("score", "weights"), [("G", [1.0]), ("L", [-2.0]), ("LG", [1.0, -2.0]), ("E", [3.0])])
def test_the_scores_by_hand(score: str, weights: list[float]) -> None:
    found, _ = _scores(1.0, score=score)
    assert found == pytest.approx([sum(math.log1p(math.exp(-w * x)) for w in weights) for x in (-1, 0, 1)], rel=1e-5)


def test_the_error_by_hand() -> None:
    # argmax takes class 0 where both scores are 0
    assert _scores(1.0, measure="error")[0] == [1.0, 1.0, 0.0]
    assert _scores(1.0, measure="error", score="LG")[0] == [1.0, 2.0, 1.0]


def test_a_client_without_a_last_model_is_scored_by_the_global_one() -> None:
    flat = FlatModel(Tiny(1.0))
    order = Order(OrderConfig(kind="curr", score="L"))
    assert order._scores(PIXELS, flat, 9).tolist() == pytest.approx([math.log1p(math.exp(-x)) for x in (-1, 0, 1)])


def _site(samples: Samples, order: OrderConfig | None = None, **train: Any) -> Site:
    torch.manual_seed(0)
    return Site(
        name="client-0",
        flat=FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(1, 2))),
        train_config=TrainConfig(batch_size=2, **train),
        holdings=Holdings(lambda: samples, lambda: samples, lambda: samples),
        classes=2,
        seed=0,
        order=None if order is None else Order(order),
    )


@pytest.mark.parametrize("kind", ["curr", "anti", "rand"])
@pytest.mark.parametrize(("length", "steps"), [({"epochs": 3}, 6), ({"steps": 7}, 7)])
def test_fit_takes_as_many_steps_as_without_an_order(kind: Any, length: dict[str, int], steps: int) -> None:
    plain = _site(PIXELS, **length).fit()
    ordered = _site(PIXELS, OrderConfig(kind=kind, b=0.3, least=1), **length).fit()
    assert plain.steps == ordered.steps == steps
    assert plain.examples == ordered.examples == 3


def test_the_first_step_of_fit_sees_the_easiest_sample_alone() -> None:
    site = _site(PIXELS, OrderConfig(kind="curr", b=0.3, least=1), epochs=3)
    losses = PIXELS.difficulty(site.model, 9)
    seen = []
    site.fit(lambda batch: seen.append(batch.index.tolist()) or PIXELS.loss(site.model, batch))  # type: ignore[func-returns-value]
    assert seen[0] == [int(losses.argmin())]
    assert {place for batch in seen for place in batch} == {0, 1, 2}


def test_unlabelled_samples_have_no_order() -> None:
    bare = Samples(PIXELS._bytes.numpy(), np.ones(3, np.int64), mean=[0.2], std=[0.2], device=CPU, labelled=False)
    order = OrderConfig(kind="curr", b=0.3, least=1)
    plain, other = (
        [batch.index.tolist() for batch in site.batches(bare)] for site in (_site(bare), _site(bare, order))
    )
    assert plain == other


ORDER = {"clients__order": {"kind": "curr", "least": 8}}
SCENES: dict[str, Any] = {
    "data": {
        "dataset": "scenes",
        "options": {"samples": 24, "test_samples": 4, "size": 64},
        "partition": {"kind": "iid", "clients": 2},
    },
    "model": "detector",
    "train": {"steps": 3, "batch_size": 4, "optimizer": "adamw", "lr": 0.004},
}
RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {"train__epochs": 2, "train__view": "weak"},
    "fedavg, LG": {"clients__order": {"kind": "anti", "score": "LG", "least": 8}, "clients__per_round": 3},
    "fedavg, error of L": {"clients__order": {"kind": "curr", "score": "L", "measure": "error", "least": 8}},
    "fedlabel": {"strategy": "fedlabel", "data__labels__share": 0.5, "settings__fedlabel__beta": 0.0},
    "fixmatch": {"strategy": "fixmatch", "data__labels__share": 0.5},
    "personal": {"strategy": "local"},
    "detection": SCENES,
    "random": {"clients__order": {"kind": "rand", "least": 8}, "train__epochs": 2},
}


class _Stop(Callback):
    def on_round(self, record: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", RUNS)
def test_every_strategy_learns_in_order_with_the_same_bits(name: str, tmp_path: Path) -> None:
    changes = {"rounds": 2, **ORDER, **RUNS[name]}
    whole_run = run(tmp_path / "one", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", callbacks=[_Stop()], **changes)
    cut = run(tmp_path / "cut", resume=True, **changes)
    plain = run(tmp_path / "plain", **{**changes, "clients__order": {"kind": "none"}})
    assert not any(record["failures"] for record in whole_run.rounds)
    assert cut.summary["model_sha256"] == whole_run.summary["model_sha256"] != plain.summary["model_sha256"]
    assert lines(whole_run.folder) == lines(cut.folder)
    if name in ("fedavg, LG", "fedlabel"):
        other = run(tmp_path / "two", workers=2, **changes)
        assert other.summary["model_sha256"] == whole_run.summary["model_sha256"]
        assert lines(other.folder) == lines(whole_run.folder)


def test_an_expert_of_everybody_s_data_scores(tmp_path: Path) -> None:
    expert = run(tmp_path / "expert", strategy="centralized").folder / "model.safetensors"
    order = {"kind": "curr", "score": "E", "least": 8}
    given = run(tmp_path / "E", rounds=1, clients__order={**order, "expert": str(expert)})
    plain = run(tmp_path / "G", rounds=1, clients__order={**order, "score": "G"})
    assert given.summary["model_sha256"] != plain.summary["model_sha256"]
    with pytest.raises(ModelError, match=r"clients\.order\.expert: .*absent"):
        run(tmp_path / "absent", clients__order={**order, "expert": "absent.safetensors"})


def test_a_partition_by_difficulty_gives_the_first_client_the_easiest(tmp_path: Path) -> None:
    from fedbox.strategies.federation import Federation

    expert = run(tmp_path / "expert", strategy="centralized").folder / "model.safetensors"
    partition = {"kind": "inc", "clients": 5, "expert": str(expert)}
    federation = Federation.prepare(check(TOY, {"data.partition": partition}))
    means = [float(federation.hardness(federation.clients.indices(number)).mean()) for number in range(5)]
    assert means == sorted(means)
    assert means[4] > 2 * means[0]
    with pytest.raises(ModelError, match=r"data\.partition\.expert"):
        Federation.prepare(check(TOY, {"data.partition": partition, "model.options.hidden": 8}))


def test_detection_has_no_error_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"clients\.order\.measure=error needs one class an image"):
        run(tmp_path / "run", **SCENES, clients__order={"kind": "curr", "measure": "error"})


def test_all_faults_of_an_order_are_told_at_once() -> None:
    wrong = {
        "clients.order": {"kind": "curr", "score": "E", "a": 0, "b": 1.5, "least": 0, "pacing": "cubic"},
        "data.partition.kind": "inc",
    }
    with pytest.raises(ConfigError) as caught:
        check(TOY, wrong)
    assert {fault.path for fault in caught.value.faults} == {
        "clients.order.a",
        "clients.order.b",
        "clients.order.least",
        "clients.order.pacing",
        "clients.order.expert",
        "data.partition.expert",
    }


def test_the_configurations_are_sound() -> None:
    for name in ("digits-curriculum", "fashion-curriculum", "cifar-curriculum"):
        assert check(name).clients.order.kind == "curr"
