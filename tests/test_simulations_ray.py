"""The Ray engine: the same model as in one process, dead actors and nodes, clear errors."""

import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugins_for_tests import TESTS, lines, run, run_trouble

from fedbox.configs import ConfigError
from fedbox.simulations.resident import Resident
from fedbox.simulations.workers import WorkerError
from fedbox.strategies.partial import read_partial

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, each a raylet with a core and an object store of its own."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the names of Unix sockets have at most 107 characters
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    both = {"num_cpus": 1, "include_dashboard": False}
    found = Cluster(True, head_node_args={**both, "temp_dir": folder, "_system_config": quick})
    found.add_node(**both)
    yield found
    found.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same run in one process, and without trouble."""
    return run_trouble(tmp_path_factory.mktemp("here") / "run", "none")


@pytest.mark.parametrize(("kind", "left"), [("kill-once", 2), ("memory-once", 1)])
def test_the_same_model_where_an_actor_is_killed_or_lacks_memory(
    tmp_path: Path, here: Any, kind: str, left: int
) -> None:
    file = tmp_path / "armed"
    file.touch()
    wish = {"file": str(file)}
    there = run_trouble(tmp_path / "ray", kind, "client-2", wish=wish, engine__kind="ray", engine__workers=2)
    assert not file.exists()
    assert there.summary["workers"] == left  # a killed one is replaced; half of them go where memory is short
    assert there.summary["model_sha256"] == here.summary["model_sha256"]
    assert lines(there.folder) == lines(here.folder)


def test_updates_are_added_at_the_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[int] = []  # of how many clients each is

    def counted(content: Any) -> Any:
        rows, total = read_partial(content)
        sums.append(len(rows))
        return rows, total

    monkeypatch.setattr("fedbox.server.grouping.read_partial", counted)
    there = run(tmp_path / "ray", rounds=3, engine__kind="ray", engine__workers=2)
    assert max(sums) > 1
    here = run(tmp_path / "here", rounds=3, engine__workers=1)
    assert there.summary["model_sha256"] == here.summary["model_sha256"]


def test_a_client_is_not_given_to_an_actor_that_died_with_its_first(tmp_path: Path) -> None:
    """As all actors of a node do with it; those that are idle tell nobody."""
    file = tmp_path / "armed"
    file.touch()
    wish, changes = {"file": str(file), "rounds": [2]}, {"clients__per_round": 1}
    clients = [f"client-{number}" for number in range(5)]
    there = run_trouble(
        tmp_path / "ray", "kill-actors", *clients, wish=wish, engine__kind="ray", engine__workers=3, **changes
    )
    assert not file.exists()
    assert there.summary["failures"] == 0
    alone = run_trouble(tmp_path / "alone", "none", **changes)
    assert there.summary["model_sha256"] == alone.summary["model_sha256"]


@pytest.mark.soak
def test_a_client_that_kills_two_actors_is_lost(tmp_path: Path, cluster: Any) -> None:
    there = run_trouble(
        tmp_path / "ray", "kill", "client-2", rounds=1, clients__min_success=0.5, engine__kind="ray",
        engine__ray__address=cluster.address, engine__ray__actors=1,
    )  # fmt: skip
    [record] = lines(there.folder)
    assert [(row["client"], row["kind"]) for row in record["failures"]] == [("client-2", "lost")]
    assert "the actor died twice while it ran client-2" in record["failures"][0]["reason"]


@pytest.mark.soak
def test_an_actor_that_cannot_be_replaced_ends_the_run(tmp_path: Path, cluster: Any) -> None:
    """The client takes the mark from the run's folder, by which actors know it, before it kills its actor."""
    wish = {"file": str(tmp_path / "ray" / ".ray")}
    join = {"engine__ray__address": cluster.address, "engine__ray__actors": 1}
    with pytest.raises(WorkerError, match=r"started 3 times in place of one that died; .* is not seen on the node"):
        run_trouble(tmp_path / "ray", "kill-once", "client-2", wish=wish, engine__kind="ray", **join)


@pytest.mark.soak
def test_a_node_that_dies_in_mid_round(tmp_path: Path, cluster: Any, here: Any) -> None:
    """In round 2 the first client on the second node ends that node's raylet and its own actor."""
    node = next(iter(cluster.worker_nodes))
    raylet = node.all_processes["raylet"][0].process
    file = tmp_path / "armed"
    file.write_text(str(raylet.pid), encoding="utf-8")
    wish = {"file": str(file), "rounds": [2]}
    clients = [f"client-{number}" for number in range(5)]
    join = {"engine__kind": "ray", "engine__ray__address": cluster.address}
    there = run_trouble(tmp_path / "ray", "kill-node", *clients, wish=wish, **join)
    assert not file.exists()
    assert raylet.wait(10) != 0
    assert there.summary["workers"] == 2
    assert [
        row for line in lines(there.folder) for row in line["failures"]
    ] == []  # a client lost twice is another model
    assert there.summary["model_sha256"] == here.summary["model_sha256"]
    assert lines(there.folder) == lines(here.folder)


def test_a_node_that_does_not_see_the_folder_refuses(tmp_path: Path) -> None:
    none: Any = None
    with pytest.raises(WorkerError, match="is not seen on the node"):
        Resident([TESTS], json.dumps({}), str(tmp_path), "mark", none, none)


@pytest.mark.parametrize("listens", [False, True], ids=["nobody listens", "something else listens"])
def test_an_address_that_does_not_answer_is_told(tmp_path: Path, listens: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ConfigError, match="no Ray cluster answers at"):
            run(tmp_path / "out", engine__kind="ray", engine__ray__address=address)
    assert time.monotonic() - begin < 10.0


@pytest.mark.parametrize("late", [1, 3])
def test_a_cluster_whose_start_times_out_is_started_again(late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from fedbox.configs.schema import RayConfig
    from fedbox.simulations.ray_cluster import Cluster

    start, begun = ray.init, list[int]()

    def slow(**options: Any) -> None:  # what Ray raises on a machine that is too busy; the next start is a real one
        begun.append(len(begun))
        if len(begun) <= late:
            raise (Exception if late == 1 else RuntimeError)("Timed out waiting for file gcs_server_port")
        start(**options)

    monkeypatch.setattr(ray, "init", slow)
    if late == 1:
        cluster = Cluster(RayConfig(), 1)
        try:
            assert ray.cluster_resources()["CPU"] == 1
            assert len(begun) in (2, 3)  # the real one may be late as well
        finally:
            cluster.close()
    else:
        with pytest.raises(ConfigError, match=r"no Ray cluster could be started .*Timed out waiting"):
            Cluster(RayConfig(), 1)
        assert len(begun) == 3


def test_a_cluster_that_wants_a_token_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ray start --head` begins one since Ray 2.60; Ray's own error type is private."""
    import ray

    from fedbox.configs.schema import RayConfig
    from fedbox.simulations.ray_cluster import Cluster

    def refuse(address: str) -> None:
        raise type("AuthenticationError", (RuntimeError,), {})(f"{address}: no token")

    monkeypatch.setattr(ray._raylet, "GcsClient", refuse)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="set RAY_AUTH_MODE=token"):
            Cluster(RayConfig(address=f"127.0.0.1:{other.getsockname()[1]}"), 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_ray_starts_is_an_interruption(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray comes up all the same and is ended again: broken off in the middle it would not let the process end."""
    import ray

    from fedbox.configs.schema import RayConfig
    from fedbox.server.session import raise_on_sigterm
    from fedbox.simulations.ray_cluster import Cluster

    start, taken = ray.init, list[Any]()

    def interrupted(**options: Any) -> None:
        os.kill(os.getpid(), number)
        start(**options)
        taken.append(ray.is_initialized())

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", interrupted)
    try:
        raise_on_sigterm()
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            Cluster(RayConfig(), 1)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == [True]
    assert not ray.is_initialized()


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedbox.simulations.run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fedbox\[ray\]"):
        run(tmp_path / "out", engine__kind="ray")
