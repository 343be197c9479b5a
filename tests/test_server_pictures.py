"""Example pictures: which images are chosen, whose boxes lie on them, and that they never harm a run."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grpc_for_tests import serve_to
from PIL import Image
from runs_for_tests import Tags, page

import fedbox
from fedbox.client.join import SiteWork
from fedbox.models import FlatModel
from fedbox.server.callbacks import Callback
from fedbox.server.examples import read_examples
from fedbox.server.pictures import Shown, choose, save_examples
from fedbox.server.session import check
from fedbox.simulations.examples import kept_models
from fedbox.strategies.federation import Federation

WEATHERS = ["cloudy", "overcast", "rainy", "snowy"]
SCENES: dict[str, Any] = {
    "name": "scenes",
    "rounds": 3,
    "strategy": "fedsto",
    "settings": {"fedsto": {"warmup": 1, "selective": 1}},
    "data": {
        "dataset": "scenes",
        "options": {"samples": 24, "test_samples": 16, "size": 64},
        "partition": {"kind": "natural", "key": "weather", "clients": 3},
        "server": {"value": "cloudy"},
        "labels": {"share": 0.0},
    },
    "model": {"name": "detector", "options": {"norm": "batch"}, "buffers": "local"},
    "train": {"batch_size": 8, "optimizer": "adamw", "lr": 0.002},
    "engine": {"workers": 1},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation.prepare(check(SCENES))


def _examples(folder: Path) -> list[dict[str, Any]]:
    told = json.loads((folder / "examples" / "examples.json").read_text())
    assert told["version"] == 1
    entries: list[dict[str, Any]] = told["examples"]
    return entries


def _inclined(flat: FlatModel, label: int, mean: float) -> dict[str, Any]:
    """Give arrays of a detector that finds objects of one class everywhere; `mean` sets one running mean."""
    arrays = flat.state(flat.module.state_dict())
    arrays["head.box.bias"][4] = 1.0  # objectness
    arrays["head.classes.bias"][:] = -4.0
    arrays["head.classes.bias"][label] = 3.0
    first = next(name for name in arrays if name.endswith("running_mean"))
    arrays[first][:] = mean
    return arrays


def test_images_are_chosen_by_hand() -> None:
    counts = np.array([1, 0, 3, 2, 2, 1, 0, 1, 1])
    names = np.array(["b", "a", "a", "b", "a", "a", "c", "d", "d"])
    chosen = choose(counts, names)
    assert {name: places.tolist() for name, places in chosen.items()} == {"a": [2, 4], "b": [3, 0], "d": [7, 8]}
    assert {name: places.tolist() for name, places in choose(counts, None).items()} == {None: [2, 3]}
    assert list(choose(np.full(9, 2), np.array([*"ihgfedcba"]))) == [*"abcdef"]
    assert choose(np.zeros(2, int), None) == {}


def test_each_kind_of_box_is_found_by_its_own_model(tmp_path: Path, federation: Federation) -> None:
    flat = federation.model(torch.device("cpu"))
    models = {kind: _inclined(flat, label, label / 10) for label, kind in enumerate(("model", "teacher", "student"))}
    # Without its buffers, as where the policy is to drop them: nobody else's may take their place.
    models["model"] = {name: models["model"][name] for name, _ in flat.module.named_parameters()}
    own = {f"state/{kind}/{name}": models[kind][name] for kind in ("teacher", "student") for name in models[kind]}
    kept = {"client-1": {**own, "state/other": np.zeros(2)}}
    shown = Shown(4, models["model"], kept, lambda client: kept_models(kept[client], models["model"]))
    random = torch.get_rng_state(), str(np.random.get_state())
    save_examples(tmp_path, federation, shown)
    assert (torch.get_rng_state() == random[0]).all()
    assert str(np.random.get_state()) == random[1]
    entries = _examples(tmp_path)
    assert [(entry["domain"], entry["client"]) for entry in entries] == [
        (weather, "client-1" if weather == "rainy" else None) for weather in WEATHERS for _ in range(2)
    ]
    test = federation.server_samples(torch.device("cpu"))
    places = [place for weather in WEATHERS for place in np.flatnonzero(np.array(test.domains) == weather)[:2]]
    for place, entry in zip(places, entries, strict=True):
        kinds = ["model", "teacher", "student"] if entry["domain"] == "rainy" else ["model"]
        assert list(entry["boxes"]) == ["truth", *kinds]
        for label, kind in enumerate(kinds):
            fresh = federation.model(torch.device("cpu"))
            fresh.load(models[kind])
            (found,) = fresh.module.detect(test.x(torch.tensor([place])), confidence=0.3, most=20)
            rows = np.array(entry["boxes"][kind])
            assert 0 < len(rows) <= 20
            assert set(rows[:, 4]) == {label}
            np.testing.assert_allclose(rows[:, :4], found.boxes.numpy(), atol=0.02)
            np.testing.assert_allclose(rows[:, 5], found.scores.numpy(), atol=1e-4)
    before = (tmp_path / "examples" / "examples.json").read_bytes()
    torch.manual_seed(7)
    save_examples(tmp_path, federation, shown)
    assert (tmp_path / "examples" / "examples.json").read_bytes() == before
    notes: list[str] = []
    assert len(read_examples(tmp_path, notes)) == 8
    assert notes == []


class _Stop(Callback):
    def on_round(self, record: Any) -> None:
        """End the run as Ctrl-C does."""
        if record["round"] == 2:
            raise KeyboardInterrupt


def test_a_run_leaves_pictures_and_a_report_with_them_also_when_stopped(tmp_path: Path, federation: Federation) -> None:
    with pytest.raises(KeyboardInterrupt):
        fedbox.run(SCENES, out=tmp_path / "run", quiet=True, callbacks=[_Stop()])
    assert len(_examples(tmp_path / "run")) == 8
    result = fedbox.run(SCENES, out=tmp_path / "run", quiet=True, resume=True)
    entries = _examples(result.folder)
    test = federation.dataset.test
    clients = dict(zip(federation.clients.keys or (), ("client-0", "client-1", "client-2"), strict=True))
    for i, entry in enumerate(entries):
        places = np.flatnonzero(test.attributes["weather"] == entry["domain"])
        image = np.asarray(Image.open(result.folder / "examples" / entry["image"])).transpose(2, 0, 1)
        assert image.shape == (3, entry["height"], entry["width"])
        source = places[i % 2]  # every scene has three objects or more
        assert np.abs(image.astype(int) - test.images[source]).mean() < 12
        boxes, labels = test.of(source)
        np.testing.assert_allclose(np.array(entry["boxes"]["truth"])[:, :4], boxes, atol=0.01)
        assert [row[4] for row in entry["boxes"]["truth"]] == labels.tolist()
        assert entry["client"] == clients.get(entry["domain"])
        kinds = ["truth", "model"] + (["teacher", "student"] if entry["client"] else [])
        assert list(entry["boxes"]) == kinds
    text = (result.folder / "report.html").read_text()
    tags = Tags(text)
    assert not tags.open
    assert sum(attrs.get("class") == "picture" for _, attrs in tags.seen) == 8
    assert "Upright lines mark the phases: server from round 1, selective from round 2, full from round 3." in text
    assert page([result.folder], tmp_path) == text


def test_a_served_run_shows_the_boxes_of_its_global_model(tmp_path: Path) -> None:
    work = {f"client-{number}": SiteWork(f"client-{number}", None, None, tmp_path / str(number)) for number in range(3)}
    result, _ = serve_to(work, check(SCENES), tmp_path / "served")
    fedbox.run(SCENES, out=tmp_path / "run", quiet=True, report=False)
    for served, simulated in zip(_examples(result.folder), _examples(tmp_path / "run"), strict=True):
        assert list(served["boxes"]) == ["truth", "model"]
        assert served["client"] is None
        assert served["boxes"] == {kind: simulated["boxes"][kind] for kind in served["boxes"]}
    tags = Tags((result.folder / "report.html").read_text())
    assert sum(attrs.get("class") == "picture" for _, attrs in tags.seen) == 8


def test_pictures_never_fail_a_run_and_classes_have_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Block(Callback):
        def on_start(self, config: Any, folder: Path, first: int) -> None:
            (folder / "examples").write_text("not a folder")

    with caplog.at_level(logging.WARNING):
        result = fedbox.run(SCENES, out=tmp_path / "run", quiet=True, rounds=1, callbacks=[Block()])
    assert result.summary["status"] == "completed"
    assert "no example pictures, as they could not be made: " in caplog.text
    toy = {"rounds": 1, "data.options.limit": 100, "data.partition.clients": 2, "data.partition.kind": "iid"}
    classes = fedbox.run("quickstart", out=tmp_path / "classes", quiet=True, workers=1, **toy)
    assert not (classes.folder / "examples").exists()


def test_personal_models_are_shown_as_students(tmp_path: Path) -> None:
    changes = {"strategy": "local", "settings": {}, "data.labels.share": 1.0, "rounds": 1}
    result = fedbox.run(SCENES, out=tmp_path / "run", quiet=True, report=False, **changes)
    kinds = {entry["domain"]: list(entry["boxes"]) for entry in _examples(result.folder)}
    assert kinds == {"cloudy": ["truth"]} | {weather: ["truth", "student"] for weather in WEATHERS[1:]}
