"""Clients in one pass, and updates that are added up where they were made: the same as one by one."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins_for_tests import TOY, lines, run, run_trouble
from sites_for_tests import small_site

from fedbox.client.workspace import Visit, Workspace
from fedbox.configs import load_config
from fedbox.models import FlatModel, build_model
from fedbox.models.stacked import Stack, StackError
from fedbox.server.callbacks import Callback
from fedbox.simulations import calibrate
from fedbox.simulations.pool import Pool
from fedbox.simulations.run import Parts, check, run_config
from fedbox.strategies.contract import ClientHalf, Update
from fedbox.strategies.federation import Federation
from fedbox.strategies.fedprox import FedProxClient, FedProxSettings
from fedbox.strategies.graphs import Replays
from fedbox.strategies.site import Site
from fedbox.strategies.stack import StackTrainer

RAGGED = [6, 4, 0, 5, 6]


def _both(model: str, dtype: torch.dtype, train: dict[str, Any], exact: bool) -> tuple[list[Update], list[Update]]:
    """Train ragged clients one by one and in one pass."""
    config = load_config({"train": {"batch_size": 4, "lr": 0.05, **train}}).train
    flat = FlatModel(build_model(model, shape=(1, 8, 8), classes=10, seed=0).to(dtype))
    initial, half = flat.flat.clone(), FedProxClient(FedProxSettings(mu=0.1))
    looped = []
    for number, count in enumerate(RAGGED):
        flat.flat.copy_(initial)
        looped.append(half.train(small_site(flat, number, count, config, seed=number)))
    flat.flat.copy_(initial)
    sites = [small_site(flat, number, count, config, seed=number) for number, count in enumerate(RAGGED)]
    plain = half.plain()
    assert plain is not None
    trainer = StackTrainer(flat, plain, Replays(None), exact)
    return looped, trainer.train(sites, [site.labelled for site in sites])


FULL = {"epochs": 2, "momentum": 0.9, "weight_decay": 0.01, "schedule": "cosine"}
ROUNDED = {"mlp": 0.0, "cnn": 1e-5, "resnet": 1e-3}  # float32: what docs/decisions/0020 states


CASES = [(model, dtype, FULL) for model in ROUNDED for dtype in (torch.float64, torch.float32)]


@pytest.mark.parametrize(("model", "dtype", "train"), [*CASES, ("mlp", torch.float32, {"steps": 5, "view": "weak"})])
def test_stacked_clients_end_where_they_end_alone(model: str, dtype: torch.dtype, train: dict[str, Any]) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else ROUNDED[model]
    for alone, stacked in zip(*_both(model, dtype, train, exact=False), strict=True):
        assert alone.examples == stacked.examples
        assert alone.metrics == pytest.approx(stacked.metrics, rel=1e-4 if tolerance > 1e-12 else 1e-12)
        for name, value in alone.weights.items():
            np.testing.assert_allclose(stacked.weights[name], value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
def test_an_exact_stack_keeps_every_bit(model: str) -> None:
    for alone, stacked in zip(*_both(model, torch.float32, FULL, exact=True), strict=True):
        assert alone.examples == stacked.examples
        assert alone.metrics == stacked.metrics
        for name, value in alone.weights.items():
            np.testing.assert_array_equal(stacked.weights[name], value)


def test_a_choice_that_cannot_be_read_or_kept_is_made_once_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file, choice = calibrate._cache(), calibrate.Choice(True, "faster")
    assert file is not None
    for text in ("", "{", "[1]", "\x00", '{"key": null}', '{"key": {"stacked": "yes", "why": 3, "size": "x"}}'):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        assert calibrate._recall(file, "key") is None
        calibrate._remember(file, "key", choice)
        assert calibrate._recall(file, "key") == choice
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", _nowhere)
    calibrate._remember(calibrate._cache(), "key", choice)
    assert calibrate._recall(calibrate._cache(), "key") is None


def _nowhere() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_what_cannot_be_stacked_is_refused_and_named() -> None:
    batch_norm = FlatModel(build_model("resnet", shape=(1, 8, 8), classes=10, seed=0, options={"norm": "batch"}))
    with pytest.raises(StackError, match=r"BatchNorm2d \(backbone.norm\)"):
        Stack(batch_norm, 2)

    class Own(ClientHalf[Any]):
        def loss(self, site: Site, batch: Any) -> torch.Tensor:
            return super().loss(site, batch) * 2

    assert Own(FedProxSettings()).plain() is None


class Said(Callback):
    """Notes what the engine says."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def on_engine(self, text: str) -> None:
        """Note it."""
        self.words.append(text)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers for all runs of this file: they take longer to start than the runs."""
    workers = Pool(2)
    yield workers
    workers.close()


def _on(pool: Pool, out: Path, **changes: Any) -> Any:
    config = check(TOY, {**{key.replace("__", "."): value for key, value in changes.items()}, "engine.workers": 2})
    return run_config(config, out=out, progress=False, report=False, parts=Parts(pool=pool))


def _hash(result: Any) -> str:
    return str(result.summary["model_sha256"])


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_engine_changes_no_bit_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Pool, model: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "_GAIN", 1e9)  # the stack is taken wherever its bits are the same
    changes: dict[str, Any] = {"model": model, "strategy": "fedprox", "train__weight_decay": 0.01, "rounds": 3}
    plain = run(tmp_path / "plain", engine__stack="off", clients__timeout=600.0, **changes)
    said = Said()
    runs = {
        "off": run(tmp_path / "off", engine__stack="off", **changes),
        "auto": run(tmp_path / "auto", engine__stack="auto", callbacks=[said], **changes),
        "auto, 2 workers": _on(pool, tmp_path / "two", engine__stack="auto", **changes),
    }
    for name, result in runs.items():
        assert _hash(result) == _hash(plain), name
        assert lines(result.folder) == lines(plain.folder), name
    assert len(said.words) == 1
    assert "same bits" in said.words[0]
    remembered = json.loads((tmp_path / "cache" / "fedbox" / "stack.json").read_text())
    assert [choice["stacked"] for choice in remembered.values()] == [True]


def test_how_clients_run_is_told_once_and_noted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.DEBUG, logger="fedbox.engine")
    said = [Said(), Said(), Said(), Said()]
    kinds: list[dict[str, Any]] = [{}, {}, {"train__optimizer": "adam", "train__lr": 0.01}, {"engine__stack": "off"}]
    for number, (words, changes) in enumerate(zip(said, kinds, strict=True)):
        run(tmp_path / str(number), **{"engine__stack": "auto", "rounds": 2, **changes}, callbacks=[words])
    assert [len(words.words) for words in said] == [1, 0, 0, 0]  # tried here; remembered; by the rules; as asked
    assert caplog.messages[0] == said[0].words[0]
    assert "cannot be stacked (train.optimizer=adam" in caplog.messages[1]
    assert len(caplog.messages) == 3


def test_a_forced_stack_is_the_same_for_every_number_of_workers(tmp_path: Path, pool: Pool) -> None:
    changes: dict[str, Any] = {"model": {"name": "cnn", "options": {"width": 4}}, "rounds": 2, "engine__stack": 2}
    one, two = run(tmp_path / "one", **changes), _on(pool, tmp_path / "two", **changes)
    assert _hash(one) == _hash(two)
    assert lines(one.folder) == lines(two.folder)
    said = Said()
    loop = run(tmp_path / "adam", train__optimizer="adam", train__lr=0.01, callbacks=[said], **changes)
    assert loop.summary["status"] == "completed"
    assert said.words == [
        "clients one by one: they cannot be stacked (train.optimizer=adam: only sgd has a step over all clients)"
    ]


def test_what_a_stack_is_worth_is_told_where_only_bits_speak_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "_GAIN", 1e9)
    monkeypatch.setattr(calibrate, "_SHORT", 1e9)  # however busy the machine is
    monkeypatch.setattr(calibrate, "_same", lambda *_: False)
    said = Said()
    run(tmp_path / "run", model={"name": "cnn", "options": {"width": 4}}, rounds=1, callbacks=[said])
    told = r"clients one by one: stacked, they would differ in the last bits; engine\.stack=8 takes \d+\.\d\d times"
    assert re.match(told, said.words[0])


@pytest.mark.parametrize("kind", ["nan", "raises", "huge", "missing", "infinite-extra", "metric", "nothing"])
def test_a_bad_update_in_a_group_is_refused_as_it_is_alone(tmp_path: Path, kind: str) -> None:
    """With a time limit clients are asked one by one; without, from the second round on, in groups."""
    grouped = run_trouble(tmp_path / "grouped", kind, "client-1", rounds=3)
    alone = run_trouble(tmp_path / "alone", kind, "client-1", rounds=3, clients__timeout=600.0)
    assert _hash(grouped) == _hash(alone)
    assert lines(grouped.folder) == lines(alone.folder)


def test_samples_are_kept_from_round_to_round_only_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where clients hold a handful of small images, and what lies around these takes more than they do."""
    monkeypatch.setattr("fedbox.client.workspace._CACHED", 20_000)
    config = check(
        {
            "data": {
                "dataset": "synthetic",
                "options": {"samples": 60, "test_samples": 4, "size": 8},
                "partition": {"kind": "iid", "clients": 30},
            },
            "model": "mlp",
            "train": {"steps": 1, "batch_size": 2},
        }
    )
    federation = Federation.prepare(config)
    workspace = Workspace(federation, None)
    names = [federation.name(number) for number in range(30)]
    each = 2 * 64 + 1_600
    for end in (10, 20, 30):
        workspace.train_stacked([Visit(name, 1, "train", {}, {}) for name in names[end - 10 : end]])
        assert list(workspace._kept) == names[:end][-(20_000 // each) :]
        assert workspace._room == 20_000 - len(workspace._kept) * each
