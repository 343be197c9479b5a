"""A finished model at work: it sees pictures as its run did, has the same figures, and says what is amiss."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from boxes_for_tests import run_scenes
from PIL import ExifTags, Image
from safetensors.numpy import load_file
from trees_for_tests import BOX, make_coco

import fedbox
from fedbox.client.state import StateStore
from fedbox.data import DataError
from fedbox.data.annotations_coco import read_coco
from fedbox.data.inputs import Inputs
from fedbox.server.checkpoint import Frozen, commit_checkpoint, draft_checkpoint, load_checkpoint
from fedbox.server.folder import FolderError
from fedbox.server.records import digest, nested
from fedbox.simulations.finished import evaluate
from fedbox.simulations.run import check
from fedbox.strategies.federation import Federation

TOY: dict[str, Any] = {
    "rounds": 1,
    "data": {"options": {"limit": 200, "test_limit": 60}, "partition": {"clients": 3, "kind": "iid"}},
    "model": "mlp",
    "engine": {"workers": 1},
}
Here = Callable[..., tuple[int, str, str]]


def train(out: Path, config: dict[str, Any] = TOY, **changes: Any) -> Path:
    fedbox.run(config, out=out, quiet=True, report=False, **changes)
    return out


def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def make_pictures(root: Path, seed: int = 0, each: int = 6) -> Path:
    """Real files of two classes in several sizes, modes and formats: bright ones and dark ones."""
    rng = np.random.default_rng(seed)
    for number in range(4 * each):
        part, name = ("train", "test")[number % 2], ("dark", "light")[number // 2 % 2]
        path = root / part / name / f"{number}.{('png', 'jpg')[number % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (int(rng.integers(8, 40)), int(rng.integers(8, 40)), 3)
        pixels = rng.integers(0, 120, size, np.uint8) + (120 if name == "light" else 0)
        Image.fromarray(pixels.astype(np.uint8)).convert("L" if number % 4 == 0 else "RGB").save(path)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def classifier(pictures: Path) -> Path:
    data = {"dataset": "image_folder", "root": str(pictures), "options": {"size": [10, 12]}}
    data |= {"partition": {"clients": 2, "kind": "iid"}, "server": {"count": 2}}
    return train(pictures.parent / "classifier", {**TOY, "data": data, "rounds": 3})


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("boxes") / "detector"
    run_scenes(out, strategy="centralized", rounds=1, train__epochs=8, train__lr=0.01, data__labels__share=1.0)
    return out


def test_a_classifier_sees_pictures_as_its_run_did(classifier: Path, pictures: Path) -> None:
    model = fedbox.load(classifier)
    assert repr(model) == "FinishedModel(fedavg, mlp, round 3, 2 classes)"
    config = check(classifier / "config.yaml")
    samples = Federation.undealt(config).server_samples(torch.device("cpu"))
    files = [file for name in ("dark", "light") for file in sorted((pictures / "test" / name).iterdir())]
    assert model.classes == ("dark", "light")
    assert model.config == config
    assert not model.model.training
    with torch.no_grad():
        wanted = model.model(samples.x(slice(None))).softmax(1)
    found = model.predict(files)
    assert [each.category_id for (each,) in found] == wanted.argmax(1).tolist()
    assert [each.score for (each,) in found] == pytest.approx(wanted.max(1).values.tolist(), abs=1e-6)
    assert {each.category for (each,) in found} == {"dark", "light"}
    assert found[0][0].bbox is None
    # The same pictures in other forms.
    opened = [Image.open(file) for file in files]
    assert model.predict([*map(str, files)]) == found
    assert model.predict(opened) == found
    tensor = samples.images(torch.arange(len(files)))
    assert [each[0].category for each in model.predict(tensor)] == [each[0].category for each in found]
    assert model.predict(files, threshold=1.0) == [[]] * len(files)
    assert model.predict([]) == model.predict(tensor[:0]) == []
    with pytest.raises(DataError, match=r"images is one path; wanted: a list of pictures, as \['a.png'\]"):
        model.predict("a.png")


def test_what_no_model_can_look_at_is_told(classifier: Path, tmp_path: Path) -> None:
    model = fedbox.load(classifier)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    for images, told in (
        ([broken], "broken.jpg does not decode as a picture"),
        ([tmp_path / "none.png"], "none.png cannot be read"),
        ([deep], "deep.png has more than 8 bits"),
        ([3], "image 0 is a int; wanted: a path"),
        (torch.zeros(1, 3, 5, 5), r"\[1, 3, 5, 5\]; wanted floats"),
        (torch.zeros(1, 3, 10, 12, dtype=torch.uint8), "torch.uint8"),
        (torch.full((1, 3, 10, 12), 255.0), "values from 255 to 255; wanted: within 0 and 1"),
    ):
        with pytest.raises(DataError, match=told):
            model.predict(images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold is 2"):
        model.predict([], threshold=2)


@pytest.mark.parametrize("name", ["classifier", "detector"])
def test_evaluated_again_a_model_has_the_figures_of_its_run(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    threads = torch.get_num_threads()
    model, metrics, told = evaluate(run)
    wanted = summary(run)["metrics"]
    found = nested(metrics)
    assert found.items() <= wanted.items()
    assert set(found) >= ({"map50", "map50_by_domain", "map50_by_class"} if model.boxed else {"accuracy", "loss"})
    assert found["map50" if model.boxed else "accuracy"] > 0
    assert "test samples of" in told
    assert torch.get_num_threads() == threads


def test_the_servers_own_statistics_are_those_of_the_run(tmp_path: Path) -> None:
    """Under buffers=local they are no part of the weights; without them the figures are others."""
    net = {"name": "resnet", "options": {"norm": "batch"}, "buffers": "local"}
    run = train(tmp_path / "run", {**TOY, "model": net, "strategy": "centralized"})
    assert nested(evaluate(run)[1]).items() <= summary(run)["metrics"].items()
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(FolderError, match="lacks its checkpoint/"):
        fedbox.load(run)


def test_evaluation_takes_other_data_scaled_as_the_runs_own(classifier: Path, tmp_path: Path) -> None:
    other = make_pictures(tmp_path / "other", seed=1)
    model, metrics, _ = evaluate(classifier, [f"data.root={other}", "data.partition.clients=5"])
    files = [file for name in ("dark", "light") for file in sorted((other / "test" / name).iterdir())]
    right = [each.category == file.parent.name for (each,), file in zip(model.predict(files), files, strict=True)]
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    shifted = evaluate(classifier, [f"data.root={other}", "data.options.mean=[0, 0, 0]"])[1]
    assert shifted == metrics
    for change, told in (
        ("train.lr=1", "train.lr: does not say what is measured"),
        ("model=cnn", "model.name: does not say"),
        ("data.options.size=8", "takes images of 3 x 10 x 12 .* are 3 x 8 x 8"),
        ("data.options.classes=[light, dark]", "knows the classes dark, light, in this order"),
        ("data.options.test_limit=0", "has no test samples"),
    ):
        with pytest.raises((fedbox.ConfigError, DataError), match=told):
            evaluate(classifier, [change])
    (other / "test" / "dark").rename(other / "test" / "grey")
    (other / "train" / "dark").rename(other / "train" / "grey")
    with pytest.raises(DataError, match="has grey, light"):
        evaluate(classifier, {"data.root": str(other)})


def test_a_strategys_own_evaluation_is_the_one_that_measures(tmp_path: Path) -> None:
    run = train(tmp_path / "run", strategy="plugins_for_tests:measuring")
    metrics = evaluate(run)[1]
    assert metrics["more"] == 1.0
    assert metrics.items() <= summary(run)["metrics"].items()


@pytest.mark.parametrize(
    ("strategy", "model"),
    [
        ("local", "mlp"),
        ("lg-fedavg", "mlp"),
        ("fedproto", [{"name": "cnn", "options": {"features": 8}}, {"name": "mlp", "options": {"features": 8}}]),
    ],
)
def test_personal_models_are_had_by_the_clients_name(tmp_path: Path, strategy: str, model: Any) -> None:
    run = train(tmp_path / "run", strategy=strategy, model=model, rounds=2, data__test_share=0.25)
    with pytest.raises(FolderError, match=r"leaves no global model, .* client-0, client-1, client-2"):
        fedbox.load(run)
    with pytest.raises(FolderError, match="no model of 'client-9'; clients that kept one: client-0,"):
        fedbox.load(run, client="client-9")
    last = json.loads((run / "rounds.jsonl").read_text().splitlines()[-1])["clients"]
    for client in ("client-0", "client-1"):
        loaded, metrics, _ = evaluate(run, client=client)
        assert metrics["accuracy"] == last[client]["shared_accuracy"]
        assert metrics["loss"] == last[client]["shared_loss"]
        _, metrics, told = evaluate(run, client=client, own=True)
        assert (metrics["accuracy"], metrics["loss"]) == (last[client]["accuracy"], last[client]["loss"])
        assert told.endswith(f"test samples of {client}, digits")
        assert len(loaded.predict(torch.rand(2, 1, 8, 8))) == 2


def test_a_student_that_a_client_keeps_beside_the_global_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_scenes(run, data__test_share=0.0)
    own, shared = fedbox.load(run, client="client-0").model, fedbox.load(run).model
    kept = fedbox.simulations.finished.StateStore(run / "clients").read("client-0", 3)
    assert kept
    same = [torch.equal(a, b) for a, b in zip(own.parameters(), shared.parameters(), strict=True)]
    assert not all(same)
    for name, value in own.state_dict().items():
        assert np.array_equal(value.numpy(), kept[f"state/student/{name}"])
    with pytest.raises(FolderError, match="'client-0' keeps no model of its own under 'fedavg'; for the global one"):
        fedbox.load(train(tmp_path / "plain"), client="client-0")


def test_a_run_that_has_not_ended_gives_the_model_of_its_last_round(tmp_path: Path) -> None:
    run = train(tmp_path / "run", rounds=2)
    before = fedbox.load(run)
    assert (before.note, before.round) == ("", 2)
    ended = summary(run)
    (run / "summary.json").write_text(json.dumps({**ended, "status": "interrupted"}))
    assert fedbox.load(run).note == "the run is interrupted: this is its model after round 2"
    (run / "summary.json").unlink()
    (run / "model.safetensors").unlink()
    killed = fedbox.load(run)
    assert killed.note == "the run has not ended: this is its model after round 2"
    assert killed.inputs == before.inputs
    for a, b in zip(killed.model.state_dict().values(), before.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(FolderError, match="the run has no whole round yet; go on with it by fedbox run --resume"):
        fedbox.load(run)
    with pytest.raises(FolderError, match="holds no run; give the folder that a run wrote"):
        fedbox.load(tmp_path)
    with pytest.raises(FolderError, match="none is no folder"):
        fedbox.load(tmp_path / "none")


def _goes_on(run: Path, stop: Event) -> None:
    """Do what a run does to its folder: each round has a client's state and a checkpoint, and older ones go."""
    config = check(run / "config.yaml")
    first, store = load_checkpoint(run / "checkpoint", config), StateStore(run / "clients")
    assert first is not None
    kept = store.read("client-0", 10**6)
    for round_ in count(first.round + 1):
        if stop.is_set():
            return
        store.write("client-0", round_, kept)
        commit_checkpoint(draft_checkpoint(run / "checkpoint", Frozen.of(replace(first, round=round_)), config))


def test_a_folder_is_read_while_a_run_writes_to_it(tmp_path: Path) -> None:
    """A checkpoint that was just taken away is not damaged; a client's state that gave way is not gone."""
    run = train(tmp_path / "run", strategy="local")
    config, stop, seen = check(run / "config.yaml"), Event(), set()
    writer = Thread(target=_goes_on, args=(run, stop))
    writer.start()
    try:
        for _ in range(400):
            checkpoint = load_checkpoint(run / "checkpoint", config)
            assert checkpoint is not None
            seen.add(checkpoint.round)
        for _ in range(60):
            seen.add(fedbox.load(run, client="client-0").round)
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 20


def test_a_model_needs_no_data(classifier: Path, tmp_path: Path) -> None:
    """What it is given stands with its weights."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "model.safetensors", "summary.json"):
        text = (classifier / name).read_bytes()
        (run / name).write_bytes(text.replace(b"/pictures", b"/nowhere"))
    assert fedbox.load(run).classes == ("dark", "light")
    with pytest.raises(DataError, match="does not exist"):
        evaluate(run)


def test_boxes_come_back_to_the_picture(tmp_path: Path) -> None:
    """Images as the reader makes them; boxes of these in pixels of the picture, clipped to it."""
    make_coco(tmp_path)
    data = read_coco(tmp_path, size=64)
    inputs = Inputs.of(data)
    assert Inputs.from_json(inputs.to_json()) == inputs
    for row, name in enumerate(("a.png", "b.png")):
        picture = Image.open(tmp_path / "images" / name)
        assert np.array_equal(inputs.image(picture, name), data.train.images[row])
        assert inputs.boxes(data.train.of(row)[0], picture.size).tolist() == [list(BOX)]
    edge = np.array([[-5.0, 10.0, 70.0, 60.0], [0.0, 0.0, 64.0, 16.0]])
    assert inputs.boxes(edge, (80, 40)).tolist() == [[0, 0, 80, 40], [0, 0, 80, 0]]


def test_predict_on_the_command_line_gives_boxes(detector: Path, tmp_path: Path, fedbox_here: Here) -> None:
    config = check(detector / "config.yaml")
    federation = Federation.undealt(config)
    place = tmp_path / "shots"
    for row in range(3):
        pixels = np.asarray(federation.dataset.test.images[row]).transpose(1, 2, 0)
        path = place / ("b" if row else "a") / "shot.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Twice as large and wider than high: margins, and boxes in pixels of the picture.
        wide = Image.new("RGB", (160, 128))
        wide.paste(Image.fromarray(pixels).resize((128, 128)), (16, 0))
        wide.save(path if row < 2 else place / "shot.jpg", quality=95)
    words = ["shots", "shots/shot.jpg", "--threshold", "0.02", "--out", "new/found.json", "--draw", "drawn"]
    code, out, err = fedbox_here("predict", str(detector), *words)
    assert (code, err) == (0, "")
    rows = json.loads((tmp_path / "new" / "found.json").read_text())
    assert rows
    for row in rows:
        assert list(row) == ["file_name", "category", "category_id", "bbox", "score"]
        assert row["category"] == federation.dataset.classes[row["category_id"]]
        x, y, width, height = row["bbox"]
        assert 0 <= x < x + width <= 160.01
        assert 0 <= y < y + height <= 128.01
        assert 0.02 < row["score"] <= 1
    assert {row["file_name"] for row in rows} <= {"shots/a/shot.jpg", "shots/b/shot.jpg", "shots/shot.jpg"}
    assert max(row["bbox"][0] + row["bbox"][2] for row in rows) > 64
    assert "by class" in out
    assert "shots/a/shot.jpg" in out
    copies = sorted(path.relative_to(tmp_path / "drawn").as_posix() for path in (tmp_path / "drawn").rglob("*.jpg"))
    assert copies == ["a/shot.jpg", "b/shot.jpg", "shot.jpg"]
    seen = {row["file_name"] for row in rows}
    for name in copies:
        before, after = (np.asarray(Image.open(tmp_path / at / name), int) for at in ("shots", "drawn"))
        assert before.shape == after.shape
        assert (np.abs(before - after).max() > 60) == (f"shots/{name}" in seen)
    found = fedbox.load(detector).predict([place / "shot.jpg"], threshold=0.02)[0]
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    code, _, err = fedbox_here("predict", str(detector), "shots", "--draw", "shots")
    assert code == 3
    assert "shots/a/shot.jpg would be drawn over; give --draw another folder" in err


def test_predict_names_what_does_not_decode_and_goes_on(classifier: Path, tmp_path: Path, fedbox_here: Here) -> None:
    place = make_pictures(tmp_path / "more", each=12)
    (place / "broken.png").write_bytes(b"no picture")
    sideways = Image.Exif()
    sideways[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (30, 20), "white").save(place / "turned.jpg", exif=sideways.tobytes())
    code, out, err = fedbox_here("predict", str(classifier), "more", "--out", "found.json")
    assert code == 3
    assert err.splitlines() == ["error: more/broken.png does not decode as a picture: it is of no known format"]
    rows = json.loads((tmp_path / "found.json").read_text())
    assert len(rows) == 49
    assert list(rows[0]) == ["file_name", "category", "category_id", "score"]
    assert "more/train/dark/0.jpg" in out
    assert "written: found.json" in out
    (place / "empty").mkdir()
    for words, told in (
        (["more", "--draw", "drawn"], "this model finds none"),
        (["nowhere.png"], "nowhere.png does not exist; give a picture"),
        (["more/empty"], "more/empty holds no picture"),
    ):
        code, _, err = fedbox_here("predict", str(classifier), *words)
        assert code == 3
        assert told in err
    code, _, err = fedbox_here("predict", "more", "more")
    assert (code, err) == (5, "error: more holds no run; give the folder that a run wrote, with its config.yaml\n")


def test_names_that_are_no_text_come_back_as_they_are(
    classifier: Path, pictures: Path, tmp_path: Path, fedbox_here: Here
) -> None:
    """Names of files are bytes: those of an older system are often not in UTF-8."""
    place = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copy(next(pictures.rglob("*.png")), place)
    except OSError:  # a file system that takes texts only
        pytest.skip("there are no such names here")
    code, _, err = fedbox_here("predict", str(classifier), str(place), "--out", "found.json")
    assert code == 0, err
    (row,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert Path(row["file_name"]) == place


def test_evaluate_on_the_command_line(classifier: Path, fedbox_here: Here) -> None:
    code, out, _ = fedbox_here("evaluate", str(classifier))
    assert code == 0
    assert "the model after round 3, on 12 test samples of image_folder:" in out
    assert f"{summary(classifier)['metrics']['accuracy']:.4f}" in out
    code, _, err = fedbox_here("evaluate", str(classifier), "--own")
    assert code == 2
    assert "it goes with --client NAME" in err
    code, _, err = fedbox_here("evaluate", str(classifier), "data.root=nowhere")
    assert code == 3
    assert "'nowhere' does not exist" in err


def test_a_model_of_sentences_is_measured_but_sees_no_pictures(tmp_path: Path, fedbox_here: Here) -> None:
    data = {"dataset": "topics", "options": {"limit": 60, "test_limit": 20}, "partition": {"clients": 2, "kind": "iid"}}
    run = train(tmp_path / "run", {**TOY, "data": data, "model": "transformer"})
    assert nested(evaluate(run)[1]).items() <= summary(run)["metrics"].items()
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    code, _, err = fedbox_here("predict", "run", "a.png")
    assert (code, err) == (3, "error: the model reads sentences, and pictures hold none; fedbox evaluate measures it\n")


def test_what_personal_models_share_is_part_of_the_final_model_and_its_hash(tmp_path: Path) -> None:
    result = fedbox.run(TOY, out=tmp_path / "run", quiet=True, report=False, strategy="lg-fedavg")
    weights = result.weights()
    (file,) = (tmp_path / "run" / "checkpoint").glob("round-*/weights.safetensors")
    shared = load_file(file)
    assert shared
    for name, value in shared.items():
        np.testing.assert_array_equal(weights.pop(f"server/{name}"), value)
    assert {name.partition("/")[0] for name in weights} == {"client-0", "client-1", "client-2"}
    assert digest(weights) != result.summary["model_sha256"] == digest(result.weights())
