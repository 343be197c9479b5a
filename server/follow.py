"""Following a run from outside, by its folder alone: what was recorded, whether it still runs, how it ended.

Nothing is written. Whether a run goes on is told by the lock that it holds on its folder.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .folder import is_locked
from .groups import main_metric
from .records import FAILED, WHOLE, lower_is_better
from .runs import RoundRecord, RunRecord, read_config, round_record
from .stats import finite

WAITING, RUNNING, ENDED = "waiting", "running", "ended"
BROKEN_OFF = "broken off"
PATIENCE = 10.0
"""Seconds of silence after which a run without lock and summary counts as broken off."""
CODES = {**dict.fromkeys(WHOLE, 0), "failed": 1, "interrupted": 130, BROKEN_OFF: 1}
"""Exit code of a command that watched a run, by how the run ended."""
_PACE = 10  # rounds whose mean time tells how long the next ones will take


@dataclass(frozen=True)
class View:
    """What was seen at one look. `state` is waiting, running or ended; `outcome` is how it ended, else empty."""

    folder: Path
    state: str
    outcome: str
    run: RunRecord
    total: int
    """Rounds that the configuration wants; 0 while it is not known."""
    since: float
    """Seconds since the last line was written; NaN before the first."""
    version: int
    """Grows whenever something new was recorded."""
    code: int = 0

    @property
    def done(self) -> int:
        """The last round that was recorded."""
        return max((r.round for r in self.run.rounds if r.phase != FAILED), default=0)

    @property
    def metric(self) -> str:
        """The metric that is shown first."""
        return main_metric([self.run])

    @property
    def curve(self) -> list[float]:
        """The metric's values so far, where it was measured."""
        return finite([r.metrics.get(self.metric, math.nan) for r in self.run.rounds])

    @property
    def best(self) -> tuple[float, int] | None:
        """The metric's best value so far and its round."""
        told = [(r.metrics[self.metric], r.round) for r in self.run.rounds if self.metric in r.metrics]
        known = [point for point in told if math.isfinite(point[0])]
        choose = min if lower_is_better(self.metric) else max
        return choose(known, key=lambda point: point[0]) if known else None

    @property
    def left(self) -> float:
        """Seconds that the remaining rounds will take at the pace of the last ten; NaN where nothing tells."""
        pace = finite([r.seconds.get("total", math.nan) for r in self.run.rounds[-_PACE:]])
        if self.state != RUNNING or not pace or not self.total:
            return math.nan
        return max(self.total - self.done, 0) * math.fsum(pace) / len(pace)


@dataclass
class Follower:
    """Looks at a run's folder again and again, and reads only what is new."""

    folder: Path
    patience: float = PATIENCE
    _offset: int = 0
    _inode: int = 0
    _version: int = 0
    _rounds: dict[int, RoundRecord] = field(default_factory=dict)
    _seen: tuple[Any, ...] = ()

    def look(self) -> View:
        """Give what there is now."""
        running = is_locked(self.folder)  # first: a run that ends now has written all by the time we read
        self._read_lines()
        config = read_config(self.folder / "config.yaml")
        summary = _summary(self.folder / "summary.json")
        rounds = tuple(self._rounds[key] for key in sorted(self._rounds))
        run = RunRecord(self.folder, config, rounds, {} if running else summary)
        state, outcome = self._state(running, config, summary, rounds)
        total = config.get("rounds")
        seen = (state, outcome, len(rounds), self._offset, bool(config))
        if seen != self._seen:
            self._version, self._seen = self._version + 1, seen
        since = self._silence("rounds.jsonl")
        whole = total if isinstance(total, int) else 0
        return View(self.folder, state, outcome, run, whole, since, self._version, CODES.get(outcome, 1))

    def _state(
        self, running: bool, config: Mapping[str, Any], summary: Mapping[str, Any], rounds: tuple[RoundRecord, ...]
    ) -> tuple[str, str]:
        if running:
            return (RUNNING, "") if config or rounds else (WAITING, "")
        if not config and not rounds and not summary:
            return WAITING, ""
        if summary:
            return ENDED, str(summary.get("status") or "failed")
        silent = min(finite([self._silence(name) for name in ("rounds.jsonl", "config.yaml", "checkpoint", ".lock")]))
        return (ENDED, BROKEN_OFF) if silent >= self.patience else (RUNNING, "")

    def _silence(self, name: str) -> float:
        try:
            return max(time.time() - (self.folder / name).stat().st_mtime, 0.0)
        except OSError:
            return math.nan

    def _read_lines(self) -> None:
        """Read the whole lines that were added; all anew when the file was replaced, as a resumed run does."""
        path = self.folder / "rounds.jsonl"
        try:
            told = path.stat()
            if told.st_ino != self._inode or told.st_size < self._offset:
                self._inode, self._offset = told.st_ino, 0
                self._rounds.clear()
            if told.st_size == self._offset:
                return
            with path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        whole, cut, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(cut)
        for line in whole.splitlines():
            try:
                record = round_record(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
            self._rounds[record.round] = record


def _summary(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
