"""Just One Byte: the byte, the directions, the estimate, catching up, digests and repair."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbox
from fedbox.configs import TrainConfig
from fedbox.simulations.plan import plan
from fedbox.simulations.run import check
from fedbox.strategies import Site, UnsuitableError, Update
from fedbox.strategies.contract import Plugin
from fedbox.strategies.onebyte import OneByteClient, OneByteServer, OneByteSettings, replay
from fedbox.strategies.scalar_log import ScalarLog
from fedbox.strategies.trainable import Trainable
from fedbox.strategies.zeroth import NOT_FINITE, decode, digest, direction, encode, hashes

RUN: dict[str, Any] = {
    "name": "bytes",
    "rounds": 6,
    "strategy": "onebyte",
    "settings": {"onebyte": {"samples": 2}},
    "data": {
        "dataset": "digits",
        "options": {"limit": 200, "test_limit": 50},
        "partition": {"kind": "iid", "clients": 5},
    },
    "model": {"name": "mlp", "options": {"hidden": 8}},
    "engine": {"workers": 1},
    "evaluate": {"every": 50},
}
LARGEST, SMALLEST = 64.0, 64.0 * math.exp(-126 / 16)


@given(st.floats(SMALLEST, LARGEST), st.sampled_from([1, -1]))
def test_the_byte_is_within_half_a_step(size: float, sign: int) -> None:
    value = sign * size
    code = encode(np.array([value]), LARGEST)
    back = float(decode(code, LARGEST)[0])
    assert code.dtype == np.uint8
    assert code.nbytes == 1
    assert math.copysign(1, back) == sign
    assert abs(math.log(abs(back) / size)) <= 1 / 32 + 1e-9


def test_the_bytes_edges_are_defined() -> None:
    values = np.array([0.0, 1e-9, -1e-9, 1e9, -1e9, np.nan, np.inf, -np.inf])
    codes = encode(values, LARGEST)
    assert codes.tolist() == [0, 0, 0, 127, 255, NOT_FINITE, NOT_FINITE, NOT_FINITE]
    np.testing.assert_allclose(decode(codes, LARGEST), [0, 0, 0, 64, -64, np.nan, np.nan, np.nan])


def test_every_byte_comes_back_as_itself() -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert encode(decode(codes, LARGEST), LARGEST).tolist() == codes.tolist()


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=30)
def test_hashes_are_splitmix64(key: int) -> None:
    mask, state, wanted = 2**64 - 1, key, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        wanted.append(z ^ (z >> 31))
    assert [value & mask for value in hashes(key, 3).tolist()] == wanted


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_the_estimate_is_unbiased_on_a_quadratic(law: Any) -> None:
    # On l(w) = w'Hw / 2 the central difference is exactly z'Hw; its mean times z over directions is Hw.
    w, h = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([1.0, 2.0, 3.0, 0.5])
    count, eps = 4000, 1e-2
    z = torch.stack([direction(key * 7919, 4, law) for key in range(count)]).double()
    losses = [((w + sign * eps * z).square() * h).sum(1) / 2 for sign in (1, -1)]
    total = (((losses[0] - losses[1]) / (2 * eps))[:, None] * z).mean(0)
    error = 5 * float((h * w).norm()) * math.sqrt(2 / count)  # five standard errors
    assert (total - h * w).abs().max() < error


def test_replay_in_parts_is_replay_at_once() -> None:
    log, rng = ScalarLog(3), np.random.default_rng(0)
    for _ in range(5):
        log.append({number: rng.integers(0, 127, 3).astype(np.uint8) for number in (9, 2, 5)})
    given_, train, start = OneByteSettings(samples=3), TrainConfig(lr=0.1, lr_decay=0.9), torch.ones(50)
    whole = replay(start, log, given_, train, 1)
    first = ScalarLog(3, 0, log.entries[:2])
    rest = ScalarLog.of(3, log.since(2))
    assert torch.equal(replay(replay(start, first, given_, train, 1), rest, given_, train, 1), whole)
    assert not torch.equal(whole, start)
    assert log.size(2) == sum(value.nbytes for value in log.since(2).values())


def test_a_type_below_float32_is_refused() -> None:
    with pytest.raises(ValueError, match="float16; wanted float32"):
        Trainable(torch.nn.Linear(3, 2).half(), 0, 0)


def test_lora_begins_at_the_base_and_trains_less() -> None:
    model = torch.nn.Linear(40, 30)
    low = Trainable(model, 2, 0)
    assert low.initial().numel() == 2 * 70
    assert torch.equal(low.weights(low.initial())["weight"], model.weight)


class Watched(OneByteClient):
    """Notes which client saw which digest; client-1's model is spoiled in the rounds named."""

    seen: dict[tuple[str, int], bytes] = {}  # noqa: RUF012
    sizes: dict[tuple[str, int], float] = {}  # noqa: RUF012
    spoiled: set[int] = set()  # noqa: RUF012

    def train(self, site: Site) -> Update:
        if site.name == "client-1" and site.round in self.spoiled:
            site.state["vector"] = site.state["vector"] + 1
        self.seen[site.name, site.round] = digest(torch.from_numpy(site.state["vector"])).tobytes()
        return super().train(site)


watched = Plugin(OneByteSettings, Watched, OneByteServer)


def _run(tmp_path: Path, spoiled: set[int], **changes: Any) -> fedbox.Result:
    Watched.seen.clear()
    Watched.spoiled = spoiled
    own: dict[str, Any] = {"strategy": f"{__name__}:watched", "settings": {__name__: {"samples": 2}}}
    return fedbox.run(RUN, out=tmp_path / "run", quiet=True, report=False, **{**own, **changes})


def test_clients_that_come_and_go_end_with_the_same_digest(tmp_path: Path) -> None:
    result = _run(tmp_path, set(), rounds=12, **{"clients.per_round": 2})
    rounds = {round_ for _, round_ in Watched.seen}
    assert all(len({value for (_, at), value in Watched.seen.items() if at == round_}) == 1 for round_ in rounds)
    assert len(set(Watched.seen.values())) == len(rounds) == 12
    assert not [row for record in result.rounds for row in record["failures"]]


def test_another_digest_is_repaired_once_then_excluded(tmp_path: Path) -> None:
    result = _run(tmp_path, {2, 4})
    reasons = {record["round"]: [row["reason"] for row in record["failures"]] for record in result.rounds}
    assert [round_ for round_, found in reasons.items() if found] == [2, 4, 5, 6]
    assert "client-1" in reasons[2][0]
    assert "will be sent the model, once" in reasons[2][0]
    assert "differs again" in reasons[4][0]
    assert "client-1 is excluded" in reasons[5][0]


def test_late_bytes_are_refused_first() -> None:
    """They belong to an older model: honest clients would be taken for spoiled ones, and shut out."""
    with pytest.raises(UnsuitableError, match="belongs to its own round alone"):
        plan(check(RUN, {"clients.late": "use"}))


def test_a_sample_costs_one_byte(tmp_path: Path) -> None:
    result = fedbox.run(RUN, out=tmp_path / "run", quiet=True, report=False, rounds=2)
    assert result.rounds[1]["metrics"]["payload_up"] == 2 + 8  # two samples, the digest
    assert result.rounds[1]["metrics"]["payload_down"] == 8 + 4 + 5 * (4 + 2)


def test_text_and_lora_and_one_machine_run(tmp_path: Path) -> None:
    text = {"data": {"dataset": "topics", "options": {"samples": 60, "test_samples": 20}, "partition": {"clients": 2}}}
    for number, own in enumerate(({"lora_rank": 2}, {"machine": "server"})):
        result = fedbox.run(
            {**RUN, **text, "model": {"name": "transformer", "options": {"width": 8}}},
            out=tmp_path / str(number),
            quiet=True,
            report=False,
            rounds=2,
            settings={"onebyte": own},
        )
        assert result.summary["status"] == "completed"
        assert not [row for record in result.rounds for row in record["failures"]]
