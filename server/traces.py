"""What a run notes for its report alone: when each client began and ended, and the landmarks of its feature space.

`timings.jsonl` has a line a round: `visits`, rows [client, kind, worker, began, ended] of replies and failures, and
`phases`, rows [phase, began, ended] of the server, in seconds from the round's begin. `landmarks/` has one safetensors
file a round, thinned out as the run goes on. Neither is part of a result, so neither is synced to disk, and the times
differ from run to run. A resumed run drops what lies behind its checkpoint, as it does with rounds.jsonl.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ..strategies.grids import Span
from .records import read_lines

TIMINGS, LANDMARKS = "timings.jsonl", "landmarks"
MAX_VISITS = 2000
"""Visits of a round that are noted; of more those that ended last, among them whoever kept the round waiting."""
MAX_SNAPSHOTS = 24


@dataclass(frozen=True)
class Visit:
    """One client's turn in a round, in seconds of `time.monotonic`; `worker` is empty where nobody told it."""

    client: str
    kind: str
    worker: str
    began: float
    ended: float


def visits(
    kind: str, sent: Mapping[str, float], came: Mapping[str, float], spans: Sequence[Span], now: float
) -> list[Visit]:
    """Give the turns of a cohort: as its workers told them, else from sending to reply; `now` where none came."""
    told = {span.client: span for span in spans}
    found = []
    for name, start in sent.items():
        span = told.get(name)
        if span is not None:
            found.append(Visit(name, kind, span.worker, span.began, span.ended))
        else:
            found.append(Visit(name, kind, "", start, came.get(name, now)))
    return found


class Traces:
    """Writes timings.jsonl and landmarks/ of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._timings, self._landmarks = folder / TIMINGS, folder / LANDMARKS

    def resume(self, last: int) -> None:
        """Drop what was noted behind round `last`."""
        kept = [line for line, record in read_lines(self._timings) if record and record["round"] <= last]
        if self._timings.exists():
            _replace(self._timings, b"".join(kept))
        for path, round_ in snapshots(self._landmarks):
            if round_ > last:
                path.unlink(missing_ok=True)

    def write(
        self,
        round_: int,
        began: float,
        turns: Sequence[Visit],
        phases: Sequence[tuple[str, float, float]],
        landmarks: Mapping[str, NDArray[Any]],
    ) -> None:
        """Note a round that began at `began` of `time.monotonic`."""
        late = sorted(turns, key=lambda turn: turn.ended)[-MAX_VISITS:]
        ordered = sorted(late, key=lambda turn: (turn.began, turn.client))
        line = {
            "round": round_,
            "visits": [[t.client, t.kind, t.worker, _after(t.began, began), _after(t.ended, began)] for t in ordered],
            "phases": [[name, _after(start, began), _after(end, began)] for name, start, end in phases],
            **({"visits_in_all": len(turns)} if len(turns) > len(ordered) else {}),
        }
        with self._timings.open("ab") as file:
            file.write((json.dumps(line) + "\n").encode())
        if landmarks:
            self._snapshot(round_, landmarks)

    def _snapshot(self, round_: int, landmarks: Mapping[str, NDArray[Any]]) -> None:
        self._landmarks.mkdir(exist_ok=True)
        arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in landmarks.items()}
        _replace(self._landmarks / f"round-{round_:06d}.safetensors", save(arrays))
        kept = kept_rounds(round_)
        for path, other in snapshots(self._landmarks):
            if other not in kept:
                path.unlink(missing_ok=True)


def kept_rounds(last: int) -> set[int]:
    """Give the rounds whose landmarks are kept after round `last`: the first, the last, and every 2^k-th between."""
    step = 1
    while last // step > MAX_SNAPSHOTS:
        step *= 2
    return {1, last, *range(step, last + 1, step)}


def snapshots(folder: Path) -> list[tuple[Path, int]]:
    """Give the files of landmarks with their rounds, in the order of the rounds."""
    found = [(path, path.stem.rpartition("-")[2]) for path in sorted(folder.glob("round-*.safetensors"))]
    return [(path, int(number)) for path, number in found if number.isdigit()]


def _after(at: float, began: float) -> float:
    return round(at - began, 4)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_bytes(data)
    draft.replace(path)
