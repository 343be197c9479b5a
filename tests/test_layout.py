"""The rules of the house: which room may import which, who may name Flower, how long a file may be."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {
    "configs": set(),
    "data": set(),
    "models": set(),
    "strategies": {"configs", "data", "models"},
    "client": {"strategies", "configs", "data", "models"},
    "server": {"strategies", "configs", "data", "models"},
    "simulations": {"client", "server", "strategies", "configs", "data", "models"},
    "testing": {"simulations", "client", "server", "strategies", "configs", "data", "models"},
}
FLOWER = {"strategies/base.py", "client/app.py", "server/app.py", "simulations/inprocess.py"}
GRPC = {"client/grpc_line.py", "server/grpc_service.py"}
MODULES = [path for room in BELOW for path in sorted((ROOT / room).glob("*.py")) if not path.stem.endswith("_pb2")]


def _imports(path: Path) -> list[tuple[str, int]]:
    """Give (dotted name, relative level) of every import in the file, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_run_downward_only(path: Path) -> None:
    room = path.parent.name
    for name, level in _imports(path):
        top = name.partition(".")[0]
        assert not (level == 0 and top == "fedbox"), f"{path.name}: inside the rooms imports are relative"
        if level == 2:
            assert top in BELOW[room], f"{room}/{path.name} imports {name}"
        assert level <= 2


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_flower_ray_and_grpc_stay_at_the_border(path: Path) -> None:
    here = f"{path.parent.name}/{path.name}"
    tops = {name.partition(".")[0] for name, level in _imports(path) if level == 0}
    assert "flwr" not in tops or here in FLOWER
    assert "ray" not in tops or here in {"simulations/ray_cluster.py", "simulations/ray_pool.py"}
    assert not tops & {"grpc", "grpc_health"} or here in GRPC


def test_the_packages_are_the_rooms() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = {f"fedbox.{path.parent.name}" for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"}
    assert set(project["tool"]["setuptools"]["packages"]) == {"fedbox"} | rooms
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_rooms_are_flat_and_files_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    assert not [folder for folder in path.parent.iterdir() if folder.is_dir() and folder.name != "__pycache__"]


def test_the_built_in_strategies_are_entry_points_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, target in project["project"]["entry-points"]["fedbox.strategies"].items():
        module, _, attribute = target.partition(":")
        assert (module, attribute) == (f"fedbox.strategies.{name.replace('-', '_')}", "plugin")
        assert (ROOT / "strategies" / f"{name.replace('-', '_')}.py").is_file()
