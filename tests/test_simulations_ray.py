"""The Ray engine: the same model as in one process, a killed actor's client tried again, clear errors."""

import socket
from pathlib import Path

import pytest
from plugins_for_tests import lines, run, run_trouble

from fedbox.configs import ConfigError

pytest.importorskip("ray")


def test_the_same_model_and_a_killed_actor_is_replaced(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    here = run_trouble(tmp_path / "here", "none")
    file = tmp_path / "armed"
    file.touch()
    wish = {"file": str(file)}
    there = run_trouble(tmp_path / "ray", "kill-once", "client-2", wish=wish, engine__kind="ray", engine__workers=2)
    assert not file.exists()  # the actor was killed
    assert there.summary["model_sha256"] == here.summary["model_sha256"] == whole.summary["model_sha256"]
    assert lines(there.folder) == lines(here.folder)


def test_an_address_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConfigError, match="no Ray cluster answers at"):
            run(tmp_path / "out", engine__kind="ray", engine__ray__address=address)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedbox.simulations.run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fedbox\[ray\]"):
        run(tmp_path / "out", engine__kind="ray")
