"""Runs in folders: which there are, and a row for each that says how far it came and what it reached."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..configs import ConfigError, Fault
from ..configs.faults import suggest
from .folder import is_locked
from .follow import ENDED, Follower, View
from .groups import figures, main_metric
from .records import lower_is_better
from .stats import ABSENT, duration, natural, number, whole

_DEEP = 4  # folders within folders: a comparison has its runs two below it
HEADINGS = ("run", "strategy", "seed", "state", "rounds", "metric", "score", "best", "in round", "time")
_METRIC = HEADINGS.index("metric")


def runs_in(folder: Path, *, begun: bool = False, depth: int = _DEEP) -> list[Path]:
    """Give the folder where it holds a run, else those in it that do, in natural order.

    A run has a round or a summary; with `begun` one counts too that reads its data as yet.
    """
    return list(_runs_in(Path(folder), begun, depth))


def _runs_in(folder: Path, begun: bool, depth: int) -> Iterator[Path]:
    names = {"rounds.jsonl", "summary.json"}
    if any((folder / name).is_file() for name in names) or (begun and is_locked(folder)):
        yield folder
        return
    try:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return
    for path in sorted(inside if depth else [], key=lambda path: natural(path.name)):
        yield from _runs_in(path, begun, depth - 1)


def listing(folders: Sequence[Path], metric: str | None = None, *, best_first: bool = False) -> list[list[str]]:
    """Give a row of text for each run, as `HEADINGS` has it; `metric` takes the place of each task's own score.

    Raises ConfigError where no run recorded it.
    """
    views = [Follower(folder, patience=0).look() for folder in folders]
    known = {name for view in views for record in view.run.rounds for name in record.metrics}
    if metric and metric not in known:
        alike = [name for name in known if ("." in name) <= ("." in metric)]
        raise ConfigError("list", [Fault("--metric", f"no run recorded '{metric}'; {suggest(metric, alike)}")])
    rows = [_row(view, metric or main_metric([view.run])) for view in views]
    if best_first:
        rows.sort(key=lambda row: row[0])
    return [cells for _, cells in rows]


def _row(view: View, metric: str) -> tuple[float, list[str]]:
    """Give what orders a run among others, the best first, and its cells."""
    run, told = view.run, figures(view.run, metric)
    final, at, done = told["final"], told["best_round"], view.done if view.run.rounds else told["rounds"]
    rank = final if lower_is_better(metric) else -final
    cells = [str(view.folder), run.strategy, run.seed, view.outcome if view.state == ENDED else view.state]
    cells += [f"{whole(done)} of {view.total}" if view.total else whole(done)]
    cells += [metric if math.isfinite(told["best"]) else ABSENT, number(final), number(told["best"]), whole(at)]
    return (rank if math.isfinite(rank) else math.inf), [*cells, duration(told["seconds"])]


def narrow(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Give heads and rows for a terminal: a metric that all runs share heads the column of their scores."""
    names = list(dict.fromkeys(row[_METRIC] for row in rows if row[_METRIC] != ABSENT))
    heads = [names[0] if head == "score" and len(names) == 1 else head for head in HEADINGS]
    left_out = {"in round", "metric" if len(names) == 1 else ""}
    kept = [place for place, head in enumerate(HEADINGS) if head not in left_out]
    return [[line[place] for place in kept] for line in (heads, *rows)]
