"""The bundled configurations at the paper's scale, tried dry on small trees in the data sets' real formats."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from trees_for_tests import HEIGHT, WIDTH, coco_file, make_bdd, make_cityscapes, make_soda, picture, write
from typer.testing import CliRunner

import fedbox
from fedbox.__main__ import app
from fedbox.data.annotations_driving import FEDSTO_CLASSES
from fedbox.simulations.run import check
from fedbox.strategies.registry import find

WEATHERS = ("partly cloudy", "overcast", "rainy", "snowy")


def _bdd(root: Path) -> None:
    make_bdd(root)
    box = {"x1": 20, "y1": 10, "x2": 50, "y2": 30}
    for part in ("train", "val"):
        frames = []
        for number, weather in enumerate(WEATHERS * 2):
            picture(root / "images" / "100k" / part / f"{number}.jpg")
            labels = [{"id": "0", "category": "car", "box2d": box}]
            where = {"weather": weather, "scene": "highway", "timeofday": "night"}
            frames.append({"name": f"{number}.jpg", "attributes": where, "labels": labels})
        write(root / "labels" / "det_20" / f"det_{part}.json", frames)


def _soda(root: Path) -> None:
    make_soda(root)
    base = root / "SSLAD-2D" / "labeled"
    names = [f"HT_TRAIN_{number}.jpg" for number in range(4)]
    write(base / "annotations" / "instance_train.json", coco_file(names))
    for name in names:
        picture(base / "train" / name)
    for number in range(6):
        picture(root / "unlabeled" / f"{number}.jpg")


def _cityscapes(root: Path) -> None:
    make_cityscapes(root)
    for number in range(8):
        stem = f"aachen_{number:06d}_000019"
        objects = [{"label": "car", "polygon": [[10, 10], [40, 10], [40, 30]]}]
        content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
        write(root / "gtFine" / "train" / "aachen" / f"{stem}_gtFine_polygons.json", content)
        picture(root / "leftImg8bit" / "train" / "aachen" / f"{stem}_leftImg8bit.png")


def _dry(cwd: Path, *arguments: str) -> str:
    """What `fedbox run ... --dry-run` shows, on smaller images than the paper's: their size changes no plan."""
    with contextlib.chdir(cwd):
        words = ["run", *arguments, "data.options.size=[64,96]", "--dry-run"]
        done = CliRunner(env={"COLUMNS": "160"}).invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        (
            "bdd100k-fedsto",
            _bdd,
            ("2 labelled; measures on 8 test images", "client-0 (overcast)", "2 unlabelled, 2 test"),
        ),
        (
            "soda10m-fedsto",
            _soda,
            ("4 labelled; measures on 1 test images", "client-2 (no)", "0 labelled, 2 unlabelled, 0 test"),
        ),
        ("cityscapes-fedsto", _cityscapes, ("labelled; measures on 1 test images", "0 labelled, 2 unlabelled, 0 test")),
    ],
)
def test_the_plan_is_the_papers(name: str, make: Callable[[Path], None], told: tuple[str, ...], tmp_path: Path) -> None:
    config = check(name)
    assert config.data.root is not None
    make(tmp_path / config.data.root)  # the path that the configuration names, from the current folder
    shown = _dry(tmp_path, name)
    for text in (*told, "1 to 50", "51 to 150", "151 to 300", "the server alone", "selective: each", "full: each"):
        assert text in shown, shown
    settings = config.settings["fedsto"]
    assert (settings["warmup"], settings["selective"], config.rounds) == (50, 100, 300)
    assert (settings["low"], settings["high"], settings["ema"], config.train.lr) == (0.1, 0.6, 0.999, 0.01)


def test_bdd100k_has_the_papers_classes() -> None:
    assert FEDSTO_CLASSES == ("person", "car", "bus", "truck", "traffic sign")
    assert "classes" not in check("bdd100k-fedsto").data.options  # they are the reader's default


REAL = {
    "foda-fedsto": (
        "foda_det",
        ("360 labelled; measures on 480 test", "client-2 (wet_dim)", "360 unlabelled, 120 test"),
    ),
    "carla-fedsto": ("carla_det", ("268 labelled; measures on 156 test", "client-2 (Town04)", "50 unlabelled, 8 test")),
}


@pytest.mark.parametrize("name", REAL)
def test_the_plan_on_real_images(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder, told = REAL[name]
    shown = _dry(tmp_path, name, f"data.root={shared_data / folder}")
    for text in (*told, "1 to 20", "21 to 26", "27 to 32"):
        assert text in shown, shown


@pytest.mark.parametrize("name", REAL)
def test_a_short_run_on_real_images(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Every phase once, on a few images: the domains are those of the data set, personal models and all."""
    shares = {"data.root": str(shared_data / REAL[name][0]), "data.options.limit": 48, "data.options.test_limit": 48}
    phases = {"settings.fedsto.warmup": 1, "settings.fedsto.selective": 1, "settings.fedsto.low": 0.0}
    small = {"data.options.size": 64, "settings.fedsto.high": 0.01, "rounds": 3, "engine.workers": 1}
    result = fedbox.run(name, out=tmp_path / "run", quiet=True, report=False, **shares, **phases, **small)
    assert [record["phase"] for record in result.rounds] == ["server", "selective", "full"]
    metrics = result.summary["metrics"]
    assert set(metrics["personal_map50_by_domain"]) < set(metrics["map50_by_domain"])
    assert len(metrics["map50_by_domain"]) == 4


TEACHERS = ("fedavg-ema", "fedpac-ema", "ema-teacher", "unbiased-teacher")
PAPERS = ["bdd100k-fedsto", "soda10m-fedsto", "cityscapes-fedsto"]


@pytest.mark.parametrize("name", ["scenes-fedsto", "foda-fedsto", "carla-fedsto", *PAPERS])
def test_every_comparator_has_the_same_number_of_steps(name: str) -> None:
    """Warm-up and the rest add up to the same rounds, so `strategy=NAME` alone compares like with like."""
    config = check(name)
    for strategy, settings in config.settings.items():
        assert find(strategy).settings.model_validate(settings)
        assert settings["warmup"] < config.rounds
    phases = config.settings["fedsto"]
    assert phases["warmup"] + phases["selective"] < config.rounds
    assert set(config.settings) == {"fedsto", "adabn", *TEACHERS}
    assert config.settings["adabn"]["warmup"] == config.rounds - 1
    own = {"high"} if name in PAPERS else set()  # there Unbiased Teacher has the threshold of its paper
    for key in {"warmup", "high", "iou"} - own:
        assert len({config.settings[teacher][key] for teacher in TEACHERS}) == 1
