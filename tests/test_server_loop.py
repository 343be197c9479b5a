"""The round loop: the order of replies, early ends, what listeners hear, what a changed place of checkpoints does."""

import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from plugins_for_tests import lines, run, run_trouble

import fedbox
from fedbox.server.loop import RunFailedError
from fedbox.server.records import digest
from fedbox.simulations.inprocess import InProcessGrid
from fedbox.strategies.base import Message
from fedbox.strategies.logs import warn_once
from fedbox.strategies.samples import Samples


@pytest.mark.parametrize("strategy", ["fedavg", "plugins_for_tests:keeping", "plugins_for_tests:noisy"])
def test_the_order_of_replies_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    changes: dict[str, Any] = {"strategy": strategy, "data__test_share": 0.2, "evaluate__clients": "all"}
    expected = run(tmp_path / "straight", **changes)
    stream, rng, orders = InProcessGrid.stream, random.Random(0), []

    def shuffled(
        self: InProcessGrid, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        replies = list(stream(self, messages, timeout=timeout))
        rng.shuffle(replies)
        orders.append([reply.metadata.src_node_id for reply in replies])
        yield from replies
        yield replies[0]  # and one of them comes twice

    monkeypatch.setattr(InProcessGrid, "stream", shuffled)
    result = run(tmp_path / "shuffled", **changes)
    assert any(order != sorted(order) for order in orders)
    assert result.summary["model_sha256"] == expected.summary["model_sha256"]
    assert lines(result.folder) == lines(expected.folder)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stack", ["off", 2])
def test_a_sum_that_is_too_large_ends_the_run_whoever_comes_last(tmp_path: Path, workers: int, stack: Any) -> None:
    """To refuse one of them would give another model each time."""
    names = [f"client-{number}" for number in range(10)]
    with pytest.raises(RunFailedError, match=r"^round 1: the sum of a round's updates leaves the range that is exact"):
        run_trouble(tmp_path, "vast", *names, workers=workers, engine__stack=stack, data__partition__clients=10)


def test_a_few_clients_that_ran_away_end_nobodys_run(tmp_path: Path) -> None:
    found = run_trouble(tmp_path, "vast", "client-1", "client-3", rounds=1)
    assert found.summary["status"] == "completed"


def test_a_resumed_server_finds_its_arrays_in_their_order(tmp_path: Path) -> None:
    """A server half that draws noise from one array to the next gives each the noise that it would have had."""
    changes: dict[str, Any] = {"strategy": "plugins_for_tests:noisy", "rounds": 3}
    whole = run(tmp_path / "whole", **changes)
    part = run(tmp_path / "part", **{**changes, "rounds": 1})
    again = run(part.folder, resume=True, **changes)
    assert lines(again.folder) == lines(whole.folder)
    assert again.summary["model_sha256"] == whole.summary["model_sha256"]


@pytest.mark.parametrize("stop", [{"target": 0.35}, {"metric": "train_loss", "target": 1.9}, {"patience": 1}])
def test_an_early_end_is_the_same_after_a_resume(tmp_path: Path, stop: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"rounds": 40, "evaluate__stop": stop, "train__lr": 0.2}
    whole = run(tmp_path / "whole", **changes)
    ends = whole.summary["rounds"]
    assert whole.summary["status"] == "stopped"
    assert 1 < ends < 40
    values = [record["metrics"][stop.get("metric", "accuracy")] for record in whole.rounds]
    if "target" in stop and "metric" not in stop:
        assert values[-1] >= stop["target"] > max(values[:-1])
    elif "target" in stop:
        assert values[-1] <= stop["target"] < min(values[:-1])
    else:
        assert values[-1] <= max(values[:-1])
        assert values[:-1] == sorted(set(values[:-1]))
    part = run(tmp_path / "part", **{**changes, "rounds": ends - 1})
    assert part.summary["status"] == "completed"
    again = run(part.folder, resume=True, **changes)
    assert again.summary["status"] == "stopped"
    assert lines(again.folder) == lines(whole.folder)
    assert again.summary["model_sha256"] == whole.summary["model_sha256"]
    assert run(part.folder, resume=True, **changes).summary["rounds"] == ends
    onward = run(part.folder, resume=True, **{**changes, "evaluate__stop": {}, "rounds": ends + 1})
    assert (onward.summary["status"], onward.summary["rounds"]) == ("completed", ends + 1)


def test_a_run_that_training_ends_is_evaluated_at_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop = {"metric": "train_loss", "target": 1000.0}
    result = run(tmp_path / "run", rounds=10, evaluate={"every": 5, "stop": stop})
    assert (result.summary["status"], result.summary["rounds"]) == ("stopped", 1)
    assert "accuracy" in result.metrics
    assert "is no metric of this run" not in caplog.text
    run(tmp_path / "typo", rounds=2, evaluate={"stop": {"metric": "acuracy", "target": 0.9}})
    assert caplog.text.count("evaluate.stop.metric=acuracy is no metric of this run, which has") == 1


@pytest.mark.parametrize(("share", "told"), [(0.0, 1), (0.5, 0)])
def test_a_round_in_which_nobody_trains_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float, told: int
) -> None:
    warn_once.cache_clear()
    labels = {"share": 0.0, "by_client": {"client-0": share}}
    result = run(tmp_path / "run", data__labels=labels, rounds=2)
    assert ("train_loss" in result.metrics) == (not told)
    assert caplog.text.count("strategy fedavg: no client of a round trained on a sample") == told


def test_server_statistics_survive_a_resume_under_every_buffer_policy(tmp_path: Path) -> None:
    for buffers in ("global", "local", "drop"):
        model = {"name": "resnet", "options": {"width": 4, "norm": "batch"}, "buffers": buffers}
        changes: dict[str, Any] = {"strategy": "centralized", "model": model, "rounds": 3}
        whole = run(tmp_path / f"{buffers}-whole", **changes)
        run(tmp_path / buffers, **{**changes, "rounds": 2})
        resumed = run(tmp_path / buffers, resume=True, **changes)
        assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]
        assert lines(resumed.folder) == lines(whole.folder), buffers


def test_the_files_say_the_same_as_the_result(tmp_path: Path) -> None:
    result = run(tmp_path / "run")
    assert digest(result.weights()) == result.summary["model_sha256"]
    assert result.metrics == result.rounds[-1]["metrics"]
    accuracies = [record["metrics"]["accuracy"] for record in result.rounds]
    best = result.summary["best"]["accuracy"]
    assert best == {"value": max(accuracies), "round": accuracies.index(max(accuracies)) + 1}
    assert result.summary["bytes_up"] == sum(record["bytes_up"] for record in result.rounds)


class Ear(fedbox.Callback):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def on_start(self, config: fedbox.Config, folder: Path, first: int) -> None:
        self.heard.append(("start", config.rounds, folder.name, first))

    def on_ask(self, round_: int, kind: str, clients: int) -> None:
        self.heard.append(("ask", round_, kind, clients))

    def on_reply(self) -> None:
        self.heard.append(("reply",))

    def on_round(self, record: Mapping[str, Any]) -> None:
        self.heard.append(("round", record["round"]))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.heard.append(("end", summary["status"], summary["rounds"]))


def test_listeners_hear_everything_in_order(tmp_path: Path) -> None:
    ear = Ear()
    changes: dict[str, Any] = {"clients__per_round": 2, "data__test_share": 0.2, "evaluate__clients": "all"}
    run(tmp_path / "run", rounds=2, callbacks=[ear], evaluate__every=2, **changes)
    assert ear.heard == [
        ("start", 2, "run", 1),
        *[("ask", 1, "train", 2), ("reply",), ("reply",), ("round", 1)],
        *[("ask", 2, "train", 2), ("reply",), ("reply",)],
        *[("ask", 2, "evaluate", 5), *[("reply",)] * 5, ("round", 2)],
        ("end", "completed", 2),
    ]


class Meanwhile(Ear):
    """Knows whether the clients of round 2 are asked before the evaluation of round 1 has ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.asked, self.answers = Event(), list[bool]()
        evaluate = Samples.evaluate

        def slow(samples: Samples, *given: Any) -> dict[str, float]:
            self.answers.append(self.asked.wait(0.5 if self.answers else 20))
            return evaluate(samples, *given)

        monkeypatch.setattr(Samples, "evaluate", slow)

    def on_ask(self, round_: int, kind: str, clients: int) -> None:
        super().on_ask(round_, kind, clients)
        if round_ == 2:
            self.asked.set()


@pytest.mark.parametrize("buffers", ["global", "local", "drop"])
def test_the_next_round_does_not_wait_for_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffers: str
) -> None:
    model = {"name": "resnet", "options": {"width": 4, "norm": "batch"}, "buffers": buffers}
    changes: dict[str, Any] = {"rounds": 3, "model": model, "evaluate__stop": {}}
    alone = run(tmp_path / "alone", engine__workers=1, **changes)
    beside = Meanwhile(monkeypatch)
    result = run(tmp_path / "beside", engine__workers=2, callbacks=[beside], **changes)
    assert beside.answers == [True] * 3
    assert lines(result.folder) == lines(alone.folder)
    assert result.summary["model_sha256"] == alone.summary["model_sha256"]
    assert result.metrics == alone.metrics
    assert [heard for heard in beside.heard if heard[0] == "round"] == [("round", 1), ("round", 2), ("round", 3)]


@pytest.mark.parametrize("strategy", ["fedavg", "centralized"])
def test_an_evaluation_that_takes_longer_than_a_round_measures_its_own_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """The next evaluation needs the copy of the model that this one still reads."""
    changes: dict[str, Any] = {"rounds": 4, "strategy": strategy, "evaluate__stop": {}}
    alone = run(tmp_path / "alone", engine__workers=1, **changes)
    evaluate = Samples.evaluate

    def slow(self: Samples, model: Any, batch_size: int) -> Any:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1)
        return evaluate(self, model, batch_size)

    monkeypatch.setattr(Samples, "evaluate", slow)
    beside = run(tmp_path / "beside", engine__workers=2, **changes)
    assert lines(beside.folder) == lines(alone.folder)


@pytest.mark.parametrize("change", [{"evaluate__stop": {"patience": 2}}, {"strategy": "plugins_for_tests:measuring"}])
def test_it_does_where_the_run_may_end_or_the_strategy_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    beside = Meanwhile(monkeypatch)
    monkeypatch.setattr(beside.asked, "wait", lambda _seconds: beside.asked.is_set())
    run(tmp_path / "run", rounds=2, engine__workers=2, callbacks=[beside], **change)
    assert beside.answers[0] is False


class Tripwire(Ear):
    """Fails in one of its hooks."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.hook = hook

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "hook"):
            raise ZeroDivisionError(name)
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("hook", ["on_start", "on_ask", "on_round"])
def test_a_listener_that_fails_shows_its_own_error_and_the_run_can_go_on(tmp_path: Path, hook: str) -> None:
    with pytest.raises(ZeroDivisionError, match=hook):
        run(tmp_path / "run", callbacks=[Tripwire(hook)])
    resumed = run(tmp_path / "run", resume=True)
    assert resumed.summary["model_sha256"] == run(tmp_path / "whole").summary["model_sha256"]
    assert lines(resumed.folder) == lines(tmp_path / "whole")


def test_a_folder_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(Path("~/run"), rounds=1).folder == tmp_path / "run"
    assert fedbox.load("~/run").round == 1


def test_tensorboard_events_go_on_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "run", rounds=2)
    result = run(tmp_path / "run", rounds=4, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("metrics/accuracy")
    assert [event.step for event in scalars] == [1, 2, 3, 4]
    assert [event.value for event in scalars] == pytest.approx(
        [record["metrics"]["accuracy"] for record in result.rounds], rel=1e-6
    )
    assert {"bytes/bytes_up", "seconds/total", "metrics/train_loss"} <= set(events.Tags()["scalars"])
