"""The timeline of a round: when each client began and ended, on which worker, and what the server did meanwhile."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .charts import Chart
from .records import read_lines
from .stats import duration, finite, natural, number, printable
from .svg import INK, SETTINGS, SURFACE, blank, legend_above, part_colour, ticks, to_svg
from .traces import MAX_VISITS, TIMINGS, Visit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ROWS = 40
"""Clients that have a row of their own; of more, each worker has a row."""
PARTS = {"train": "train", "evaluate": "evaluate", "probe": "asked for a loss", "server": "server"}


@dataclass(frozen=True)
class Timing:
    """One round: turns of clients and phases of the server, (name, began, ended), in seconds from its begin."""

    round: int
    visits: tuple[Visit, ...]
    phases: tuple[tuple[str, float, float], ...]
    left_out: int

    @property
    def end(self) -> float:
        """When the last of them ended."""
        return max(finite([*(v.ended for v in self.visits), *(end for *_, end in self.phases)]), default=0.0)

    @property
    def workers(self) -> list[str]:
        """The workers that ran a client, in the order of their names."""
        return sorted({visit.worker for visit in self.visits if visit.worker}, key=natural)

    @property
    def busy(self) -> float:
        """The share of the workers' time, from the first turn to the last of each kind, in which a client ran."""
        worked = spread = 0.0
        for kind in PARTS:
            turns = [visit for visit in self.visits if visit.kind == kind and visit.worker]
            if turns:
                worked += math.fsum(_worked([turn for turn in turns if turn.worker == name]) for name in self.workers)
                spread += max(turn.ended for turn in turns) - min(turn.began for turn in turns)
        return worked / (spread * len(self.workers)) if spread > 0 else math.nan


def _worked(turns: Sequence[Visit]) -> float:
    """Give the time that a worker spent on its turns; those of clients that it trained together run side by side."""
    spent, until = 0.0, -math.inf
    for turn in sorted(turns, key=lambda turn: turn.began):
        spent += max(0.0, turn.ended - max(turn.began, until))
        until = max(until, turn.ended)
    return spent


def read_timings(folder: Path, notes: list[str]) -> tuple[Timing, ...]:
    """Read timings.jsonl; a broken line is left out and noted once, a later line for a round replaces an earlier."""
    found: dict[int, Timing] = {}
    broken = 0
    try:
        lines = list(read_lines(folder / TIMINGS))
    except OSError as error:
        notes.append(f"{TIMINGS} cannot be read ({error.strerror})")
        return ()
    for line, record in lines:
        if not line.strip():
            continue
        try:
            timing = _timing(record or {})
        except (ValueError, TypeError, KeyError, IndexError):
            broken += 1
            continue
        found[timing.round] = timing
    if broken:
        notes.append(f"{TIMINGS}: {broken} line{'s are' if broken > 1 else ' is'} unreadable and left out")
    return tuple(found[key] for key in sorted(found))


def _timing(raw: Mapping[str, Any]) -> Timing:
    visits = tuple(
        Visit(printable(client), printable(kind), printable(worker), *_times(began, ended))
        for client, kind, worker, began, ended in raw["visits"][:MAX_VISITS]
    )
    phases = tuple((printable(name), *_times(began, ended)) for name, began, ended in raw["phases"][:100])
    return Timing(int(raw["round"]), visits, phases, int(raw.get("visits_in_all", len(visits))) - len(visits))


def _times(began: Any, ended: Any) -> tuple[float, float]:
    start, end = float(began), float(ended)
    if not (math.isfinite(start) and math.isfinite(end) and start <= end):
        raise ValueError(f"no times: {json.dumps([began, ended])[:60]}")
    return start, end


def chosen(timings: Sequence[Timing]) -> list[tuple[str, Timing]]:
    """Give the slowest round and the last one, each with a word for it; one where they are the same."""
    told = [timing for timing in timings if timing.visits]
    if not told:
        return []
    slowest, last = max(told, key=lambda timing: timing.end), told[-1]
    if slowest is last:
        return [("the last and slowest" if len(told) > 1 else "the only one", last)]
    return [("the slowest", slowest), ("the last", last)]


def timeline_chart(key: str, word: str, timing: Timing, failed: Mapping[str, str]) -> Chart:
    """Draw a round: a row for the server, then one for each client in the order of its begin, or for each worker.

    `failed` gives the kind of failure of each client that failed in the round.
    """
    import matplotlib

    title = f"Round {timing.round}, {word}: {duration(timing.end)}"
    lanes, note = _lanes(timing)
    with matplotlib.rc_context(SETTINGS):
        figure, axes = blank(0.95 + 0.21 * (len(lanes) + 1))
        used: dict[str, Any] = {}
        for began, ended in _alone(timing):
            used["server"] = _bar(axes, 0, began, ended, "server")
        for row, (_, turns) in enumerate(lanes, start=1):
            for turn in turns:
                used[turn.kind] = _bar(axes, row, turn.began, turn.ended, turn.kind)
            if len(turns) <= len(PARTS):
                _tell(axes, row, turns, failed, several=len(timing.workers) > 1)
        axes.set_ylim(len(lanes) + 0.6, -0.7)
        axes.set_xlim(0, timing.end * 1.07 or 1.0)
        axes.set_yticks(range(len(lanes) + 1), ["server", *(_short(name) for name, _ in lanes)], fontsize=8.5)
        axes.set_xlabel("seconds from the round's begin")
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        locator = axes.yaxis.get_major_locator()
        ticks(axes, whole=False)
        axes.yaxis.set_major_locator(locator)
        parts = [part for part in PARTS if part in used]
        legend_above(figure, [used[part] for part in parts], [PARTS[part] for part in parts], 4)
        said = (
            f"Timeline: {title}. {len(timing.visits)} turns of clients on {len(timing.workers) or 'unknown'} workers."
        )
        svg = to_svg(figure, key, title, said)
    rows = [["server", name, "", f"{began:.3f}", f"{ended:.3f}", ""] for name, began, ended in timing.phases]
    rows += [
        [v.client, v.kind, v.worker, f"{v.began:.3f}", f"{v.ended:.3f}", failed.get(v.client, "")]
        for v in timing.visits[:500]
    ]
    return Chart(title, svg, ["who", "what", "worker", "began, s", "ended, s", "failed"], rows, note=note)


def timing_row(label: str, timings: Sequence[Timing]) -> list[str]:
    """Give a run's row: rounds, workers, their busy share, who ended last most often, the longest turn of a client."""
    told = [timing for timing in timings if timing.visits]
    busy = finite([timing.busy for timing in told])
    workers = {worker for timing in told for worker in timing.workers}
    lasts = [max(timing.visits, key=lambda visit: visit.ended).client for timing in told]
    often = max(sorted(set(lasts), key=natural), key=lasts.count)
    turn = max((visit for timing in told for visit in timing.visits), key=lambda v: v.ended - v.began)
    share = f"{100 * math.fsum(busy) / len(busy):.0f} %" if busy else ""
    longest = f"{turn.client}, {number(turn.ended - turn.began)} s"
    return [label, str(len(told)), str(len(workers) or ""), share, f"{often}, in {lasts.count(often)}", longest]


def _lanes(timing: Timing) -> tuple[list[tuple[str, list[Visit]]], str]:
    note = f"{timing.left_out:,} turns that ended earlier were not noted." if timing.left_out else ""
    clients: dict[str, list[Visit]] = {}
    for visit in timing.visits:
        clients.setdefault(visit.client, []).append(visit)
    if len(clients) <= MAX_ROWS:
        return list(clients.items()), note
    if timing.workers and len(timing.workers) <= MAX_ROWS:
        lanes = [(f"worker {w}", [v for v in timing.visits if v.worker == w]) for w in timing.workers]
        return lanes, f"{len(clients):,} clients, a row for each worker. {note}".strip()
    late = sorted(clients.items(), key=lambda item: -item[1][-1].ended)[:MAX_ROWS]
    return late, f"Of {len(clients):,} clients the {MAX_ROWS} that ended last. {note}".strip()


def _alone(timing: Timing) -> list[tuple[float, float]]:
    """Give the stretches in which the server itself worked: its phases as far as no client ran for them."""
    found = []
    for name, began, ended in timing.phases:
        inside = [v.began for v in timing.visits if began <= v.began < ended]
        end = min([ended, *inside])
        if name != "train" and end > began:
            found.append((began, end))
    return found


def _bar(axes: "Axes", row: int, began: float, ended: float, kind: str) -> Any:
    colour = part_colour(list(PARTS).index(kind) if kind in PARTS else len(PARTS))
    return axes.barh(row, ended - began, 0.66, left=began, color=colour, edgecolor=SURFACE, linewidth=0.5)


def _tell(axes: "Axes", row: int, turns: Sequence[Visit], failed: Mapping[str, str], several: bool) -> None:
    """Write behind each bar of a client on which of several workers it ran, behind the last whether it failed."""
    for turn in turns:
        text = turn.worker if several else ""
        if turn is turns[-1] and (kind := failed.get(turn.client)):
            text = f"{text} failed: {kind}".strip()
        place = (turn.ended, row)
        axes.annotate(text, place, xytext=(2, 0), textcoords="offset points", va="center", fontsize=7.5, color=INK)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
