"""The example package does what a third party would do: it is built, installed beside fedbox's own wheel, and run.

The fresh environment also tests the packaging of fedbox itself: nothing in it comes from the source tree.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean  # type: ignore[import-untyped]

from fedbox.configs import TrainConfig
from fedbox.models import FlatModel
from fedbox.strategies import ServerHalf, Site, Update
from fedbox.strategies.samples import Samples
from fedbox.strategies.site import Holdings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "fedbox-median"
FILE = EXAMPLE / "fedbox_median.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = [name.partition(".")[2] for name in PROJECT["tool"]["setuptools"]["packages"] if "." in name]


# The method, on values worked out by hand and against scipy.


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fedbox_median", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


median = _module()


def _nothing() -> Samples:
    none = np.zeros((0, 1, 1, 2), np.uint8)
    return Samples(none, np.zeros(0, np.int64), mean=(0.5,), std=(0.5,), device=torch.device("cpu"))


def _server(beta: float) -> ServerHalf[Any]:
    """Give a server half over a model with the arrays weight [1, 2] and bias [1]."""
    site = Site("server", FlatModel(torch.nn.Linear(2, 1)), TrainConfig(), Holdings(_nothing, _nothing, _nothing), 2, 0)
    server: ServerHalf[Any] = median.plugin.server(median.plugin.settings(beta=beta), site)
    return server


def _aggregate(values: np.ndarray, beta: float = 0.5, order: list[int] | None = None) -> np.ndarray:
    """Aggregate the clients' values [clients, 3], which arrive in `order`; give the three new values."""
    server = _server(beta)
    total = server.begin()
    for number in range(len(values)) if order is None else order:
        row = values[number].astype(np.float32)
        server.add(total, f"client-{number}", Update({"weight": row[None, :2], "bias": row[2:]}, examples=number + 1))
    server.finish(total, 1)
    assert {name: (value.shape, value.dtype.str) for name, value in server.weights.items()} == {
        "weight": ((1, 2), "<f4"),
        "bias": ((1,), "<f4"),
    }
    return np.concatenate([server.weights["weight"][0], server.weights["bias"]])


@pytest.mark.parametrize(
    ("beta", "column", "wanted"),
    [
        (0.5, [7], 7),
        (0.5, [1, 100, 2], 2),
        (0.5, [1, 2, 100, 3], 2.5),
        (0.0, [1, 2, 100, 3], 26.5),
        (0.25, [1, 2, 100, 3], 2.5),
        (0.2, [0, 1000, 1, 2, 3], 2),
        (0.3, [0, 1000, 1, 2, 3, 6], 3),  # 0.3 * 6 = 1.8: one value at each end goes, (1 + 2 + 3 + 6) / 4 is left
    ],
)
def test_values_worked_out_by_hand(beta: float, column: list[float], wanted: float) -> None:
    values = np.array([column, [-value for value in column], [10 * value for value in column]]).T
    assert _aggregate(values, beta).tolist() == [wanted, -wanted, 10 * wanted]


COLUMNS = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=12)


@given(COLUMNS, st.data())
@settings(deadline=None)
def test_it_is_numpys_median_in_any_order_of_arrival(rows: list[list[float]], data: st.DataObject) -> None:
    values = np.array(rows)
    order = data.draw(st.permutations(range(len(rows))))
    assert np.array_equal(_aggregate(values, order=order), np.median(values, axis=0).astype(np.float32))


@given(COLUMNS, st.sampled_from([0.0, 0.125, 0.25, 0.375]))
@settings(deadline=None)
def test_it_is_scipys_trimmed_mean(rows: list[list[float]], beta: float) -> None:
    values = np.array(rows)
    np.testing.assert_allclose(_aggregate(values, beta), trim_mean(values, beta, axis=0), rtol=1e-6, atol=1e-4)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=4, max_size=4))
@settings(deadline=None)
def test_a_minority_cannot_pull_it_out_of_the_honest_range(lies: list[float]) -> None:
    honest = np.arange(15.0).reshape(5, 3)
    result = _aggregate(np.concatenate([np.repeat(lies, 3).reshape(4, 3), honest]))
    assert (honest.min(axis=0) <= result).all()
    assert (result <= honest.max(axis=0)).all()


def test_clients_without_samples_change_nothing() -> None:
    server = _server(0.5)
    before = {name: value.copy() for name, value in server.weights.items()}
    total = server.begin()
    server.add(total, "client-0", Update())
    server.finish(total, 1)
    assert all(np.array_equal(value, before[name]) for name, value in server.weights.items())


def test_the_file_has_at_most_40_lines() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 40


# The packages, in an environment of their own.


@dataclass(frozen=True)
class Fresh:
    """A fresh environment: its folder, and the wheel of fedbox that is installed in it."""

    folder: Path
    wheel: Path

    def fedbox(self, *words: str, also: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the fedbox command of this environment; packages in the folder `also` count as installed."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        variables |= {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
        if also is not None:
            variables["PYTHONPATH"] = str(also)
        command = [str(self.folder / "bin" / "fedbox"), *words]
        return subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _wheel(source: Path, folder: Path) -> Path:
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """A new environment with the wheels of fedbox and of the example in it."""
    pytest.importorskip("setuptools", minversion="77", reason="builds wheels without the network")
    base = tmp_path_factory.mktemp("fresh")
    # A build leaves files in the tree that it builds from: it gets a copy.
    source = base / "fedbox"
    source.mkdir()
    for path in [
        *ROOT.glob("*.py"),
        *(ROOT / name for name in ["py.typed", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]),
    ]:
        shutil.copy(path, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(EXAMPLE, base / "example", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    wheels = _wheel(source, base / "wheels"), _wheel(base / "example", base / "example-wheels")

    folder = base / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    _pip("--python", python, "install", "--no-deps", "--no-index", *map(str, wheels))
    # The heavy packages (torch, Flower) are borrowed: to install them anew would take gigabytes, minutes and the
    # network. Lines of a .pth file come behind the environment's own packages, and .pth files in the borrowed folders
    # are not read, so an editable fedbox there stays out of sight.
    borrowed = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return Fresh(folder, wheels[0])


def test_the_wheel_holds_the_rooms_and_their_data_and_nothing_else(fresh: Fresh) -> None:
    names = zipfile.ZipFile(fresh.wheel).namelist()
    modules = {f"fedbox/{room}/{path.name}" for room in ROOMS for path in (ROOT / room).glob("*.py")}
    data = {"fedbox/py.typed", "fedbox/data/digits.npz"}
    data |= {f"fedbox/server/{path.name}" for path in (ROOT / "server").iterdir() if path.suffix in (".html", ".js")}
    data |= {f"fedbox/strategies/{path.name}" for path in (ROOT / "strategies").glob("*.pyi")}
    data |= {f"fedbox/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    assert "fedbox/configs/quickstart.yaml" in data
    package = {name for name in names if name.startswith("fedbox/")}
    assert package == modules | data | {"fedbox/__init__.py", "fedbox/__main__.py"}
    rest = {re.sub(r"^fedbox-[\w.]+\.dist-info/", "", name) for name in names} - package
    assert rest == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "top_level.txt",
        *(f"licenses/{n}" for n in ("LICENSE", "NOTICE")),
    }


def test_fedbox_comes_from_the_wheel(fresh: Fresh) -> None:
    code = "import fedbox; print(fedbox.__file__)"
    done = subprocess.run(
        [str(fresh.folder / "bin" / "python"), "-c", code], cwd=fresh.folder, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(fresh.folder / "lib")


def test_the_strategy_is_listed_with_summary_and_origin(fresh: Fresh) -> None:
    done = fresh.fedbox("strategies")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "median " in line)
    assert median.plugin.summary in row
    assert "fedbox-median 0.1.0" in row
    assert any("fedavg" in line and "fedbox 0" in line for line in done.stdout.splitlines())


def test_its_setting_is_shown(fresh: Fresh) -> None:
    done = fresh.fedbox("strategies", "median")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "beta" in line)
    assert "0.5" in row
    assert "share of the values left out at each end" in row


def test_its_settings_are_checked(fresh: Fresh) -> None:
    done = fresh.fedbox("run", "strategy=median", "settings.median.beta=0.7", "settings.median.betta=1")
    assert done.returncode == 2
    assert "settings.median.beta: got 0.7; allowed: a number at most 0.5" in done.stderr
    assert "settings.median.betta: unknown key; did you mean 'beta'?" in done.stderr


@pytest.mark.slow
def test_it_runs_and_gives_the_same_model_on_one_worker_and_on_two(fresh: Fresh, tmp_path: Path) -> None:
    hashes = {}
    for workers in ("1", "2"):
        out = tmp_path / workers
        words = ("run", "quickstart", "strategy=median", "rounds=2", "--workers", workers, "--out", str(out))
        done = fresh.fedbox(*words)
        assert done.returncode == 0, done.stderr
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        assert summary["strategy"] == "median"
        assert (out / "report.html").is_file()
        hashes[workers] = summary["model_sha256"]
    assert hashes["1"] == hashes["2"]


@pytest.fixture(scope="module")
def broken(fresh: Fresh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package whose strategy raises as it is imported."""
    source, target = tmp_path_factory.mktemp("broken"), tmp_path_factory.mktemp("broken-installed")
    project = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8").replace('readme = "README.md"\n', "")
    project = project.replace("fedbox-median", "fedbox-broken").replace("fedbox_median", "shattered")
    (source / "pyproject.toml").write_text(project.replace("median = ", "broken = "), encoding="utf-8")
    (source / "shattered.py").write_text('raise RuntimeError("the licence server does not answer")\n', encoding="utf-8")
    _pip("install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source))
    return target


def test_a_broken_package_is_told_and_hides_no_other(fresh: Fresh, broken: Path) -> None:
    done = fresh.fedbox("strategies", also=broken)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert any("broken" in row and "cannot be used" in row and "fedbox-broken 0.1.0" in row for row in rows)
    for name in ("fedavg", "fedprox", "median"):
        assert any(name in row and "cannot be used" not in row for row in rows)
    assert "RuntimeError: the licence server does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_package_cannot_be_run(fresh: Fresh, broken: Path, tmp_path: Path) -> None:
    done = fresh.fedbox("run", "strategy=broken", "--out", str(tmp_path / "run"), also=broken)
    assert done.returncode == 4
    assert "shattered" in done.stderr
    assert "RuntimeError: the licence server does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_message_names_the_broken_strategy_as_it_was_asked_for(fresh: Fresh, broken: Path) -> None:
    assert "'broken'" in fresh.fedbox("run", "strategy=broken", also=broken).stderr


def test_a_broken_package_does_not_disturb_the_others(fresh: Fresh, broken: Path) -> None:
    done = fresh.fedbox("strategies", "median", also=broken)
    assert done.returncode == 0, done.stderr
    assert "beta" in done.stdout
