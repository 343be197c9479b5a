"""Run folders, read as they are: what is absent or broken is noted, and never stops a report."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .examples import Example, read_examples
from .holdings import Holdings, read_holdings
from .landmarks import Landmarks, read_landmarks
from .records import WHOLE, Record, read_lines
from .stats import ABSENT, printable
from .timeline import Timing, read_timings


class ReportError(ValueError):
    """A folder from which no report can be made."""

    exit_code = 3


@dataclass(frozen=True)
class RoundRecord:
    """One line of rounds.jsonl; a number that is null there is NaN here."""

    round: int
    phase: str
    metrics: dict[str, float]
    clients: dict[str, dict[str, float]]
    bytes_up: float
    bytes_down: float
    seconds: dict[str, float]
    failures: list[dict[str, str]]


@dataclass(frozen=True)
class RunRecord:
    """What one run folder holds; `notes` tell what was missing or unreadable."""

    path: Path
    config: dict[str, Any]
    rounds: tuple[RoundRecord, ...]
    summary: dict[str, Any]
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    holdings: Holdings | None = None
    timings: tuple[Timing, ...] = ()
    landmarks: Landmarks | None = None

    def told(self, key: str) -> Any:
        """Give `key` from the summary, else from the configuration, else None."""
        return self.summary.get(key, self.config.get(key))

    @property
    def name(self) -> str:
        """The run's name, or its folder's."""
        return printable(self.told("name") or self.path.resolve().name or "run")

    @property
    def strategy(self) -> str:
        """The strategy's name, or a dash."""
        return printable(self.told("strategy") or ABSENT)

    @property
    def seed(self) -> str:
        """The seed as text, or a dash."""
        return printable(ABSENT if self.told("seed") is None else self.told("seed"))

    @property
    def status(self) -> str:
        """What the summary says, or `unfinished` where there is none (the run was killed, or still runs)."""
        return printable(self.summary.get("status") or "unfinished")

    @property
    def whole(self) -> bool:
        """Whether the run came to its end: all rounds, or the stop that its configuration asks for."""
        return self.status in WHOLE


def load_run(path: Path) -> RunRecord:
    """Read a run folder; a file that is absent or broken leaves a note.

    Raises ReportError if there is no such folder, or if it holds neither a readable round nor a summary.
    """
    path = Path(path)
    if not path.is_dir():
        raise ReportError(f"{path}: no such folder; give the folder of a run, which holds rounds.jsonl")
    notes: list[str] = []
    config = _mapping(path / "config.yaml", _read_yaml, notes)
    summary = _mapping(path / "summary.json", json.loads, notes)
    rounds = _read_rounds(path / "rounds.jsonl", notes)
    if not rounds and not summary:
        inside = sorted(p.parent.name for p in path.glob("*/rounds.jsonl"))
        hint = f"give the runs in it: {', '.join(inside[:8])}" if inside else "give a folder that a run wrote"
        raise ReportError(f"{path}: no run here, as it has neither a round in rounds.jsonl nor a summary.json; {hint}")
    more = (
        read_examples(path, notes),
        read_holdings(path, notes),
        read_timings(path, notes),
        read_landmarks(path, notes),
    )
    return RunRecord(path, config, rounds, summary, tuple(notes), *more)


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml; empty where it is absent or broken."""
    return _mapping(path, _read_yaml, [])


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    """Read a file that holds one mapping; note why if it gives none."""
    if not path.is_file():
        notes.append(f"{path.name} is absent")
        return {}
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is unreadable and was ignored")
        return {}
    return {str(k): v for k, v in value.items()}


def _read_rounds(path: Path, notes: list[str]) -> tuple[RoundRecord, ...]:
    """Read rounds.jsonl; a broken line is noted and skipped, a later line for a round replaces an earlier."""
    if not path.is_file():
        notes.append(f"{path.name} is absent: no curves")
        return ()
    records: dict[int, RoundRecord] = {}
    try:
        lines = [(place, *line) for place, line in enumerate(read_lines(path), start=1) if line[0].strip()]
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error.strerror}): no curves")
        return ()
    for place, _, raw in lines:
        try:
            record = round_record(raw or {})
        except (ValueError, TypeError, KeyError, AttributeError):
            last = " (the last; the run was probably killed)" if place == lines[-1][0] else ""
            notes.append(f"{path.name}: line {place}{last} is unreadable and was ignored")
            continue
        records[record.round] = record
    return tuple(records[r] for r in sorted(records))


def round_record(raw: Record) -> RoundRecord:
    """Read one line of rounds.jsonl. Raises ValueError, TypeError, KeyError, AttributeError for what is none."""
    return RoundRecord(
        round=int(raw["round"]),
        phase=printable(raw.get("phase") or ""),
        metrics=_numbers(raw.get("metrics")),
        clients={printable(name): _numbers(told) for name, told in (raw.get("clients") or {}).items()},
        bytes_up=as_number(raw.get("bytes_up")),
        bytes_down=as_number(raw.get("bytes_down")),
        seconds=_numbers(raw.get("seconds")),
        failures=[{k: printable(v) for k, v in told.items()} for told in raw.get("failures") or []],
    )


def as_dict(value: object) -> dict[str, Any]:
    """Give a dict as it is, and an empty one for everything else."""
    return value if isinstance(value, dict) else {}


def _numbers(raw: Mapping[str, Any] | None) -> dict[str, float]:
    return {printable(key): as_number(value) for key, value in (raw or {}).items()}


def as_number(value: object) -> float:
    """Give a finite float, or NaN for everything else (null, text, NaN, infinity)."""
    try:
        known = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        known = math.nan
    return known if math.isfinite(known) else math.nan
