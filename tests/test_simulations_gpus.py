"""Workers on several GPUs: which one each sees. None is needed: what is set before CUDA begins is looked at."""

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from plugins_for_tests import lines, run

from fedbox.configs import ConfigError, load_config
from fedbox.configs.schema import RayConfig
from fedbox.simulations.crew import _by_turns
from fedbox.simulations.processes import WorkerProcess, start_worker
from fedbox.simulations.run import workers_of
from fedbox.strategies import ClientHalf, Plugin, ServerHalf, Settings, Site, Update
from fedbox.strategies.device import VISIBLE, gpus


class Looking(ClientHalf[Settings]):
    """Tells which GPU and which process it trains in; one client, where a file asks for it, ends its process."""

    def train(self, site: Site) -> Update:
        with contextlib.suppress(KeyError, FileNotFoundError):
            Path(os.environ["FEDBOX_TEST_ENDS"]).unlink()
            os._exit(7)
        update = super().train(site)
        update.metrics["gpu"] = float(os.environ[VISIBLE])
        update.metrics["process"] = float(os.getpid())
        return update


looking = Plugin(Settings, Looking, ServerHalf)


@pytest.mark.parametrize(
    ("device", "visible", "found"),
    [
        ("cuda", None, ["0", "1", "2"]),
        ("cuda", "4,GPU-a,6", ["4", "GPU-a", "6"]),
        ("cuda", "4,6,9,11", ["4", "6", "9"]),  # CUDA sees no more: what follows is no GPU of this machine
        ("cuda:1", None, []),
        ("cpu", None, []),
    ],
)
def test_gpus_by_their_names(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, found: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert gpus(device) == found


def test_workers_are_spread_over_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedbox.simulations.crew.gpus", lambda device: ["3", "5"])
    monkeypatch.delenv(VISIBLE, raising=False)
    end = run(tmp_path / "run", rounds=6, strategy="test_simulations_gpus:looking", engine__workers=4)
    clients: list[dict[str, Any]] = [each for line in lines(end.folder) for each in line["clients"].values()]
    seen = {each["process"]: each["gpu"] for each in clients}
    assert all(seen[each["process"]] == each["gpu"] for each in clients)  # a worker keeps its own
    assert max(Counter(seen.values()).values()) <= 2
    assert set(seen.values()) == {3.0, 5.0}
    assert VISIBLE not in os.environ


def test_a_worker_in_place_of_a_dead_one_has_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[WorkerProcess] = []

    def start(*words: Any) -> WorkerProcess:
        made.append(start_worker(*words))
        return made[-1]

    monkeypatch.setattr("fedbox.simulations.crew.start_worker", start)
    monkeypatch.setattr("fedbox.simulations.crew.gpus", lambda device: ["3", "5"])
    armed = tmp_path / "armed"
    armed.touch()
    monkeypatch.setenv("FEDBOX_TEST_ENDS", str(armed))
    run(tmp_path / "run", rounds=3, strategy="test_simulations_gpus:looking", engine__workers=2)
    assert [each.gpu for each in made[:2]] == ["3", "5"]
    (dead,) = [each for each in made[:2] if each.process.wait() == 7]
    assert [each.gpu for each in made[2:]] == [dead.gpu]


def test_every_gpu_loses_as_many() -> None:
    nothing = cast(Any, None)
    names = ["a1", "a2", "a3", "b1", "b2", "c1"]
    workers = [WorkerProcess(cast(Any, name), nothing, None, [], gpu=name[0]) for name in names]
    assert [cast(Any, worker.process) for worker in _by_turns(workers)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    for worker in workers:
        worker.gpu = None
    assert _by_turns(workers) == workers


def test_a_few_workers_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedbox.simulations.run.cores", lambda: 64)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(VISIBLE, raising=False)
    for device, wanted in {"cpu": 64, "cuda": 12, "cuda:2": 4}.items():
        assert workers_of(load_config("quickstart", [f"engine.device={device}"])) == wanted
    assert workers_of(load_config("quickstart", ["engine.device=cuda", "engine.workers=7"])) == 7


def test_what_an_actor_of_ray_claims() -> None:
    assert RayConfig().claimed("cpu") == 0
    assert RayConfig().claimed("cuda") == 0.25
    assert RayConfig(gpus=1).claimed("cuda") == RayConfig(gpus=1).claimed("cpu") == 1


def test_gpus_that_an_actor_would_not_see() -> None:
    with pytest.raises(ConfigError) as error:
        load_config("quickstart", ["engine.kind=ray", "engine.device=cuda:1", "engine.ray.gpus=0"])
    assert "engine.device: got cuda:1; Ray gives each actor a GPU, which it knows as cuda" in str(error.value)
    assert "engine.ray.gpus: got 0; an actor needs a GPU for engine.device=cuda" in str(error.value)
    for fine in (["engine.device=cuda"], ["engine.ray.gpus=0"], ["engine.device=cuda", "engine.ray.gpus=0.5"]):
        load_config("quickstart", ["engine.kind=ray", *fine])
    load_config("quickstart", ["engine.device=cuda:1", "engine.ray.gpus=0"])  # read by another engine only
