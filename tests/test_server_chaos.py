"""A served run under bad luck, in short: real processes, killed and cut off, and the model of an undisturbed run."""

from pathlib import Path

import pytest
from chaos_for_tests import run_chaos


@pytest.mark.soak
def test_kills_and_cuts_change_nothing(tmp_path: Path) -> None:
    found = run_chaos(tmp_path, rounds=6, clients=2, server_kills=1, client_kills=1, cuts=2)
    seconds = found.pop("seconds")
    assert seconds > 0
    assert found == {
        "rounds": 6,
        "same_model": True,
        "same_examples": True,
        "failures": 0,
        "server_code": 0,
        "client_codes": [0, 0],
        "blows_left": 0,
    }
