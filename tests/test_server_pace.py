"""After which rounds a checkpoint is written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbox.server import checkpoint
from fedbox.server.checkpoint import Pace


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Give the time that was set."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in the place of the real one."""
    stopped = Clock()
    monkeypatch.setattr(checkpoint, "time", stopped)
    return stopped


def test_by_the_clock_short_rounds_share_a_checkpoint_and_long_ones_have_their_own(
    tmp_path: Path, clock: Clock
) -> None:
    pace, found = Pace(tmp_path, None, 1.0), []
    for round_, seconds in enumerate((0.5, 0.25, 0.25, 0.75, 0.5, 1.0, 3.0, 0.5), start=1):
        clock.now += seconds
        found += [round_] if pace.due(round_) else []
    assert found == [3, 5, 6, 7]


def test_where_a_client_keeps_state_every_round_has_one(tmp_path: Path, clock: Clock) -> None:
    pace = Pace(tmp_path, None, 1.0)
    assert not pace.due(1)
    (tmp_path / "clients").mkdir()
    assert pace.due(2)
    assert pace.due(3)


@given(every=st.integers(1, 5), seconds=st.floats(0, 10), round_=st.integers(1, 40))
def test_a_number_of_rounds_is_kept_whatever_the_clock_says(every: int, seconds: float, round_: int) -> None:
    assert Pace(Path("nowhere"), every, seconds).due(round_) == (round_ % every == 0)


def test_without_a_pause_every_round_has_one(tmp_path: Path, clock: Clock) -> None:
    pace = Pace(tmp_path, None, 0.0)
    assert [pace.due(round_) for round_ in (1, 2, 3)] == [True, True, True]
