"""Tables of the report, and what it says in words: the answer, the notes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..configs.faults import some
from .compare import finals, seed_differences
from .groups import Group, figures, flatten
from .paired import t_interval
from .records import lower_is_better
from .runs import RunRecord
from .stats import ABSENT, duration, finite, human_bytes, mean_std, natural, number, printable, whole

ENVIRONMENT = ("engine", "workers", "versions")
MAX_FAILURES = 25


@dataclass(frozen=True)
class Column:
    """A column of the final figures: which figure, how it is written, and which end is good (0: neither)."""

    key: str
    heading: str
    write: Callable[[float], str] = number
    good: int = 0


def final_columns(metric: str, told: Sequence[dict[str, float]]) -> list[Column]:
    """Give the columns: final and best value always, the others if a run has the figure."""
    good = -1 if lower_is_better(metric) else 1
    columns = [
        Column("final", f"{metric}, final", number, good),
        Column("best", f"{metric}, best", number, good),
        Column("best_round", "best in round", whole),
        Column("client_mean", "clients, mean", number, good),
        Column("client_worst", "clients, worst tenth", number, good),
        Column("client_gini", "clients, Gini", number),
        Column("rounds", "rounds", whole),
        Column("bytes_up", "sent up", human_bytes, -1),
        Column("bytes_down", "sent down", human_bytes, -1),
        Column("seconds", "time", duration, -1),
        Column("peak", "peak memory", lambda mb: human_bytes(mb * 1e6), -1),
    ]
    return columns[:2] + [c for c in columns[2:] if any(math.isfinite(one[c.key]) for one in told)]


@dataclass(frozen=True)
class Row:
    """A row of the final figures: a group (`run` is None if it has several) or one run of such a group."""

    label: str
    group: Group
    run: RunRecord | None
    head: bool
    seeds: str
    final: float
    fair: bool
    cells: list[tuple[str, str, bool]]  # the figure, its deviation over seeds, whether it is the best


def final_rows(groups: Sequence[Group], columns: Sequence[Column], metric: str) -> list[Row]:
    """Build the rows of the final figures: each group, marked where it is best, then its runs."""
    told = {id(run): figures(run, metric) for group in groups for run in group.runs}
    stats = [{c.key: mean_std([told[id(r)][c.key] for r in g.used]) for c in columns} for g in groups]
    # A run that did not end is cheaper and not as far, and a mean without the seeds that ran away is of the lucky ones:
    # neither can be the best.
    known = [len(finite([told[id(run)]["final"] for run in group.used])) for group in groups]
    fair = [group.used[0].whole and n in (0, len(group.used)) for group, n in zip(groups, known, strict=True)]
    best: dict[str, str] = {}
    for c in columns:
        means = finite([stat[c.key][0] for stat, ok in zip(stats, fair, strict=True) if ok])
        # What reads the same is level: no star for bytes that the table does not show.
        if c.good and len({c.write(mean) for mean in means}) > 1:
            best[c.key] = c.write(max(means) if c.good > 0 else min(means))
    rows: list[Row] = []
    for group, stat, ok in zip(groups, stats, fair, strict=True):
        one = group.runs[0] if len(group.runs) == 1 else None
        seeds = ", ".join(run.seed for run in group.used)
        cells = [(*_cell(c, *stat[c.key]), ok and c.write(stat[c.key][0]) == best.get(c.key)) for c in columns]
        rows.append(Row(group.label, group, one, True, seeds, stat["final"][0], ok, cells))
        for run in () if one else group.runs:
            cells = [(c.write(told[id(run)][c.key]), "", False) for c in columns]
            rows.append(Row(group.run_label(run), group, run, False, run.seed, math.nan, ok, cells))
    return rows


def words(rows: Sequence[Row]) -> list[str]:
    """Give those of the columns strategy, seed and status that say something which no label and no header does."""
    heads = [row for row in rows if row.head]
    unnamed = any(row.group.runs[0].strategy not in row.label.split(", ") for row in heads)
    unseeded = any(row.run for row in heads)
    broken = any(run.status != "completed" for row in heads for run in row.group.runs)
    return [name for name, says in (("strategy", unnamed), ("seed", unseeded), ("status", broken)) if says]


def _cell(column: Column, mean: float, std: float) -> tuple[str, str]:
    if column.key == "best_round" and math.isfinite(std):
        return "", ""  # a mean of round numbers says nothing
    return column.write(mean), f"± {column.write(std)}" if std > 0 else ""


def failures(groups: Sequence[Group]) -> tuple[int, list[str], list[list[str]]]:
    """Tabulate the failures one by one, or by run, kind and reason if there are more than MAX_FAILURES."""
    each = [
        (g.run_label(run), r.round, f.get("client", ABSENT), f.get("kind", ABSENT), f.get("reason", "")[:400])
        for g in groups for run in g.runs for r in run.rounds for f in r.failures
    ]  # fmt: skip
    if len(each) <= MAX_FAILURES:
        rows = [[label, client, kind, reason, str(at)] for label, at, client, kind, reason in each]
        return len(each), ["run", "client", "kind", "reason", "round"], rows
    found: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for label, at, client, kind, reason in each:
        found.setdefault((label, kind, reason), []).append((at, client))
    rows = []
    for (label, kind, reason), hits in sorted(found.items(), key=lambda item: -len(item[1])):
        rounds = [at for at, _ in hits]
        clients = sorted({client for _, client in hits}, key=natural)
        who = some(clients, 4)
        when = f"{min(rounds)} to {max(rounds)}" if min(rounds) < max(rounds) else str(rounds[0])
        rows.append([label, who, kind, reason, when, str(len(hits))])
    return len(each), ["run", "clients", "kind", "reason", "rounds", "times"], rows


def environment(runs: Sequence[tuple[str, RunRecord]]) -> tuple[list[str], list[list[str]]]:
    """Tabulate engine, workers and versions: one column if all runs agree, else one for each run."""
    told = [{str(k): v for k, v in r.summary.items() if k in ENVIRONMENT} for _, r in runs]
    flats = [{k.removeprefix("versions."): v.strip('"') for k, v in flatten(tree).items()} for tree in told]
    same = all(flat == flats[0] for flat in flats)
    names = list(dict.fromkeys(key for flat in flats for key in flat))
    shown = flats[:1] if same else flats
    heads = ["all runs"] if same and len(runs) > 1 else [label for label, _ in runs]
    return ["", *heads], [[printable(n), *(printable(f.get(n, ABSENT)) for f in shown)] for n in names]


def answer(rows: Sequence[Row], metric: str) -> str:
    """Say in one sentence what came out: which group ended best in the main metric, and which came next.

    The lead is called clear where the 95 % t interval of the differences, seed by seed, does not hold 0.
    """
    heads = [row for row in rows if row.head and math.isfinite(row.final)]
    if not heads:
        return f"No run has a final {metric}."
    heads = [row for row in heads if row.fair] or heads
    first, *others = sorted(heads, key=lambda row: row.final, reverse=not lower_is_better(metric))
    text = f"{first.label} ended with {metric} {' '.join(first.cells[0][:2]).strip()}"
    if not others:
        best = first.cells[1][0]
        return f"{text}, its best value." if best == first.cells[0][0] else f"{text}; its best was {best}."
    low, high = t_interval(seed_differences(*(finals(row.group, metric) for row in (first, others[0]))))
    place = "ahead of" if others[0].final != first.final else "level with"
    if low <= 0 <= high and place == "ahead of":
        place = "no clear lead over"
    return f"{text}, {place} {others[0].label} with {' '.join(others[0].cells[0][:2]).strip()}."


def notes(groups: Sequence[Group], metric: str) -> list[str]:
    """Give what the reader must know before trusting a figure: files absent or broken, runs that are in no mean."""
    notes = [f"{g.run_label(run)}: {note}" for g in groups for run in g.runs for note in run.notes]
    for group in groups:
        for run in group.runs:
            if run not in group.used:
                notes.append(f"{group.run_label(run)}: {run.status}, so it is left out of the mean and the curves")
            elif not run.whole:
                notes.append(f"{group.run_label(run)}: {run.status}, so its figures are those of its last round")
        told = {run.seed: figures(run, metric)["final"] for run in group.used}
        known = len(finite(list(told.values())))
        if 0 < known < len(told):
            gone = ", ".join(seed for seed, value in told.items() if not math.isfinite(value))
            notes.append(
                f"{group.label}: {metric} is not a finite number at the end of seed {gone}, so its final mean is that "
                f"of {known} of {len(told)} runs"
            )
    return notes
