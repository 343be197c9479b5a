"""The plugin kit: what `fedbox new` writes works as it is, `fedbox check` tells a fault, `fedbox plugins` lists all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

import fedbox
from fedbox.__main__ import app
from fedbox.server.catalog import GROUPS, catalog
from fedbox.strategies.contract import ClientHalf, Plugin, ServerHalf, Settings, Site, Update
from fedbox.strategies.registry import PluginError, find
from fedbox.testing import CHECKS, Check, CheckFailed, Subject
from fedbox.testing.scaffold import ScaffoldError, write_package

CHECK = {check.name: check for check in CHECKS}


def _install(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
def test_a_new_strategy_passes_at_once(tmp_path: Path, plugin_site: Path) -> None:
    folder, files, steps = write_package("strategy", "first-try", tmp_path / "pkg")
    assert set(files) == {path.name for path in folder.iterdir()}
    assert any(step == "fedbox check first-try" for step in steps)
    _install(folder, plugin_site)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    path = os.pathsep.join([str(plugin_site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CHECKS) + 1} passed" in done.stdout
    with pytest.raises(ScaffoldError, match=r"'first-try' is registered already"):
        write_package("strategy", "first_try", tmp_path / "other")


def test_a_new_callback_tells_each_round_once(tmp_path: Path, plugin_site: Path) -> None:
    folder, _, _ = write_package("callback", "teller", tmp_path / "pkg")
    _install(folder, plugin_site)
    names: dict[str, Any] = {"__name__": "test_teller"}
    exec((folder / "test_fedbox_teller.py").read_text(encoding="utf-8"), names)
    names["test_every_round_is_told_once"](tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Fed X", "such as fed-x"),
        ("3d", "a letter first"),
        ("class", "cannot be a strategy's name"),
        ("../up", "cannot be a strategy's name"),
        ("fedavg", "registered already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ScaffoldError, match=message):
        write_package("strategy", name, tmp_path / "pkg")
    assert not (tmp_path / "pkg").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ScaffoldError, match="--into"):
        write_package("strategy", "another-one", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# Strategies with one fault each, and the check that must find it.


class Bare(Settings):
    rate: float = 0.5


class Leaking(ClientHalf[Settings]):
    """Counts its visits on self, which differs with the number of workers."""

    visits = 0

    def train(self, site: Site) -> Update:
        self.visits += 1
        update = super().train(site)
        return Update(update.weights, update.examples + self.visits, update.metrics)


class Forgetful(ServerHalf[Settings]):
    """Counts its rounds, and keeps the count in no checkpoint."""

    rounds = 0

    def finish(self, total: Any, round_: int) -> None:
        super().finish(total, round_)
        self.rounds += 1
        self.weights = {k: (v * (1 - 0.01 * self.rounds)).astype(v.dtype) for k, v in self.weights.items()}


class Texts(ServerHalf[Settings]):
    def state(self) -> Any:
        return {"note": "three"}


class Lossy(ServerHalf[Settings]):
    """Gives a state and never takes it back."""

    def __init__(self, settings: Settings, site: Site) -> None:
        super().__init__(settings, site)
        self.kept = {"first": next(iter(self.weights.values())) * 0}

    def finish(self, total: Any, round_: int) -> None:
        super().finish(total, round_)
        self.kept = {"first": next(iter(self.weights.values()))}

    def state(self) -> Any:
        return self.kept


class Dividing(ClientHalf[Settings]):
    def train(self, site: Site) -> Update:
        update = super().train(site)
        return Update(update.weights, update.examples, {"share": 1 / len(site.labelled)})


class Trusting(ServerHalf[Settings]):
    """Wants every client in every round."""

    def begin(self) -> Any:
        return {}

    def add(self, total: Any, client: str, update: Update) -> None:
        total[client] = update

    def finish(self, total: Any, round_: int) -> None:
        self.weights = dict(total["client-2"].weights)


class Frozen(ClientHalf[Settings]):
    def train(self, site: Site) -> Update:
        return Update(site.weights(), len(site.labelled))


FAULTS = [
    ("settings", Plugin(Bare, ClientHalf, ServerHalf, "x"), "without a description: rate"),
    ("learns", Plugin(Settings, Frozen, ServerHalf, "x"), "the accuracy is"),
    ("workers", Plugin(Settings, Leaking, ServerHalf, "x"), "on two workers the run is another one from round 1"),
    ("resume", Plugin(Settings, ClientHalf, Forgetful, "x"), "stopped after round 1 and resumed"),
    ("state", Plugin(Settings, ClientHalf, Texts, "x"), "cannot be written"),
    ("state", Plugin(Settings, ClientHalf, Lossy, "x"), "gives otherwise: first"),
    ("empty", Plugin(Settings, Dividing, ServerHalf, "x"), "client-2, which has no labels, failed in round 1"),
    ("nan", Plugin(Settings, ClientHalf, Trusting, "x"), "KeyError: 'client-2'"),
]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("faulty")
    monkeypatch.setitem(sys.modules, "faulty", module)
    return module


@pytest.mark.parametrize(
    ("name", "plugin", "message"), FAULTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_fault_is_found_by_its_check(
    faulty: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, plugin: Plugin, message: str
) -> None:
    faulty.plugin = plugin  # type: ignore[attr-defined]
    if name == "workers":  # a client half of its own for each second client, as on two workers
        monkeypatch.setattr(Subject, "run_on_workers", _in_two_halves)
    with Subject("faulty:plugin") as subject, pytest.raises(CheckFailed, match=message) as caught:
        CHECK[name](subject)
    assert caught.value.do or caught.value.where


def _in_two_halves(self: Subject, name: str) -> fedbox.Result:
    from fedbox.simulations.run import Parts

    kind: Any = self.plugin.client

    class Two(kind):  # type: ignore[misc, valid-type]
        def __init__(self, settings: Any) -> None:
            super().__init__(settings)
            self.halves = [kind(settings), kind(settings)]

        def train(self, site: Site) -> Update:
            update: Update = self.halves[int(site.name[-1]) % 2].train(site)
            return update

    return self.run(name, parts=Parts(plugin=Plugin(self.plugin.settings, Two, self.plugin.server)))


class Ramp(ClientHalf[Settings]):
    """Trains the more, the nearer the end is."""

    def train(self, site: Site) -> Update:
        fit = site.fit(lambda batch: self.loss(site, batch) * site.round / site.rounds)
        return Update(site.weights(), fit.examples, {**fit.metrics, "rounds": site.rounds})


class Last(ServerHalf[Settings]):
    """Does something in the last round alone."""

    def refine(self, site: Site) -> dict[str, float]:
        return {"last": float(site.round == site.rounds)}


def test_both_halves_know_how_many_rounds_there_are(faulty: ModuleType) -> None:
    """The check breaks a run off as a kill would: it is no shorter run, in which they would do otherwise."""
    faulty.plugin = Plugin(Settings, Ramp, Last, "x")  # type: ignore[attr-defined]
    with Subject("faulty:plugin") as subject:
        assert CHECK["resume"](subject).startswith("model ")
        told = [(line["metrics"]["last"], line["metrics"]["rounds"]) for line in subject.whole.rounds]
        assert not (subject.folder / "resume" / "checkpoint" / "round-000001").exists()
    assert told == [(0.0, 3.0), (0.0, 3.0), (1.0, 3.0)]


def test_check_exits_with_4_and_says_what_failed_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = "from fedbox.strategies import *\n\nclass Broken(ClientHalf[Settings]):\n    def train(self, site):\n"
    source += "        return Update(site.weights(), 1, {'odd': 1 / 0})\n\n"
    source += "mine = Plugin(Settings, Broken, ServerHalf)\n"
    (tmp_path / "brokenone.py").write_text(source)
    words = ["check", str(tmp_path / "brokenone.py"), "--only", "learns", "--only", "bytes"]
    done = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "out" / "outcome.json")])
    assert done.exit_code == 4
    assert "learns failed" in done.output
    assert "what to do:" in done.output
    told = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert told["strategy"] == "brokenone:mine"
    assert told["passed"] is False
    assert [each["status"] for each in told["checks"]] == ["failed", "skipped"]
    passed = CliRunner().invoke(app, ["check", "fedavg", "--only", "settings", "--only", "bytes", "rounds=1"])
    assert passed.exit_code == 0, passed.output
    assert "all 2 checks passed" in passed.output


def test_bytes_that_the_record_does_not_count_are_found() -> None:
    with Subject("fedavg", changes={"rounds": 1}) as subject:
        assert CHECK["bytes"](subject)
        subject.traffic[1].up += 1
        with pytest.raises(CheckFailed, match="bytes up"):
            CHECK["bytes"](subject)


# Entry points: a package that is really installed offers one of each kind, and a broken one.

MODULE = """
import torch
import fedbox
from fedbox.data.registry import load_dataset
from fedbox.strategies import ClientHalf, Plugin, SelectorPlugin, ServerHalf, Settings
from fedbox.strategies.selectors import Uniform

strategy = Plugin(Settings, ClientHalf, ServerHalf, "a strategy of five kinds")
selector = SelectorPlugin(Settings, Uniform, "a selector of five kinds")

def model(shape, classes):
    "A linear model of five kinds."
    channels, height, width = shape
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, classes))

def digits(root, *, count: int = 200):
    "Digits of five kinds."
    return load_dataset("digits", limit=count, test_limit=50)

class Noted(fedbox.Callback):
    "A callback of five kinds."
    def on_start(self, config, folder, first):
        (folder / "noted.txt").write_text(config.strategy)
"""
PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "five-kinds"
version = "1.2.3"
[tool.setuptools]
py-modules = ["five_kinds"]
[project.entry-points]
"fedbox.strategies" = {five = "five_kinds:strategy"}
"fedbox.selectors" = {five = "five_kinds:selector"}
"fedbox.models" = {five = "five_kinds:model", mlp = "five_kinds:model"}
"fedbox.datasets" = {five = "five_kinds:digits", gone = "five_kinds_gone:read"}
"fedbox.callbacks" = {five = "five_kinds:Noted", amiss = "five_kinds:model"}
"""


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("five"), tmp_path_factory.mktemp("installed")
    (source / "five_kinds.py").write_text(MODULE)
    (source / "pyproject.toml").write_text(PROJECT)
    _install(source, target)
    return target


def test_a_package_adds_one_of_every_kind(five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(five)
    data = {"dataset": "five", "options": {"count": 100}, "partition": {"clients": 2}}
    config = {"rounds": 1, "strategy": "five", "data": data, "model": "five", "track": ["five"]}
    result = fedbox.run({**config, "clients": {"selector": "five"}}, out=tmp_path / "run", quiet=True, workers=1)
    assert result.weights().keys() == {"1.weight", "1.bias"}
    assert (tmp_path / "run" / "noted.txt").read_text() == "five"
    for group in GROUPS:
        mine = next(entry for entry in catalog(group) if entry.name == "five")
        assert (mine.package, mine.problem) == ("five-kinds 1.2.3", "")
        assert "five kinds" in mine.summary
        assert mine.target.startswith("five_kinds:")


def test_broken_plugins_are_listed_with_the_reason(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(five)
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, ["plugins"])
    assert done.exit_code == 0, done.output
    problems = {(group, entry.name): entry.problem for group in GROUPS for entry in catalog(group) if entry.problem}
    ours = {key: problem for key, problem in problems.items() if key[1] in ("gone", "amiss", "mlp")}
    assert "No module named 'five_kinds_gone'" in ours["datasets", "gone"]
    assert "not a subclass of fedbox.Callback" in ours["callbacks", "amiss"]
    assert "a built-in one has this name" in ours["models", "mlp"]
    assert done.output.count("cannot be used") >= 3
    for name in ("fedavg", "power-of-choice", "vit", "digits", "tensorboard"):
        assert name in done.output


def test_a_name_that_two_packages_offer_is_refused(five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "rival-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedbox.strategies]\nfive = rival:plugin\n")
    monkeypatch.syspath_prepend(five)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="offered by 2 packages; name one: five_kinds:strategy, rival:plugin"):
        find("five")


def test_the_toy_problem_is_one_that_the_strategy_can_work_with() -> None:
    with Subject("plugins_for_tests:boxed") as boxed, Subject("plugins_for_tests:noisy") as other:
        assert (boxed.trial.toy, other.trial.toy) == ("boxes", "classes")
        assert boxed.config.data.dataset == "scenes"


def test_every_check_has_a_name_of_its_own() -> None:
    assert len(CHECK) == len(CHECKS)
    assert all(isinstance(check, Check) and check.about for check in CHECKS)
