"""Curves of the report: the main metric, families of metrics by domain or class, all others, with marks of phases."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .charts import MAX_LINES, Chart, Series, curve_table, last, line_chart
from .groups import Group, series
from .marks import Marks, spoken
from .records import FAILED
from .runs import RunRecord
from .stats import byte_unit, finite, mean_std, natural

MAX_METRICS = 24
MAX_FAMILIES = 6
MAX_PANELS = 12
MAX_MARKS = 8
DIAGNOSTIC = "pseudo_"
"""How metrics begin that tell how good pseudo-labels are."""

Curve = dict[int, float]


@dataclass(frozen=True)
class Family:
    """The charts of one metric by domain or class: a small one for each, all on the same scale."""

    title: str
    charts: Sequence[Chart]
    note: str
    main: bool


@dataclass(frozen=True)
class Curves:
    """All charts over rounds but those of cost; `left_out` counts metrics without a chart."""

    main: Sequence[Chart]
    families: Sequence[Family]
    others: Sequence[Chart]
    left_out: int
    marks: Marks
    pseudo: Sequence[Chart] = ()

    def __bool__(self) -> bool:
        return bool(self.main or self.families or self.others)


def metric_curve(name: str) -> Callable[[RunRecord], Curve]:
    """Give what takes a metric's value of each round from a run."""
    return lambda run: {r.round: r.metrics[name] for r in run.rounds if name in r.metrics}


def sent(run: RunRecord) -> Curve:
    """Give the bytes of each round, up and down."""
    return {r.round: math.fsum(finite([r.bytes_up, r.bytes_down])) for r in run.rounds}


def sent_so_far(run: RunRecord) -> Curve:
    """Give the bytes of each round and all before it."""
    each = sent(run)
    return dict(zip(each, itertools.accumulate(each.values()), strict=True))


def all_series(groups: Sequence[Group], pick: Callable[[RunRecord], Curve], by: float = 0.0) -> list[Series]:
    """Give the curve of every group that has it; with `by`, against the bytes sent, in units of `by`."""
    at = (lambda run: {r: v / by for r, v in sent_so_far(run).items()}) if by else None
    return [one for group in groups if (one := series(group, pick, at))]


def curve_charts(groups: Sequence[Group], metric: str) -> Curves:
    """Draw the main metric over rounds and over bytes; families by domain or class; every other metric."""
    marks = phase_marks(groups)
    names = sorted({m for g in groups for run in g.used for r in run.rounds for m in r.metrics} - {metric})
    families: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if family := family_of(name):
            families.setdefault(family, []).append(name)
    pseudo = [name for name in names if name.startswith(DIAGNOSTIC) and not family_of(name)]
    names = [name for name in names if not family_of(name) and name not in pseudo]
    main: list[Chart] = []
    if lines := all_series(groups, metric_curve(metric)):
        main.append(line_chart("main", f"{metric} over rounds", "round", metric, lines, marks=marks))
        size, unit = byte_unit(max(v for g in groups for run in g.used for v in sent_so_far(run).values()))
        lines = all_series(groups, metric_curve(metric), size)
        main.append(line_chart("cost", f"{metric} against bytes sent", f"{unit} sent so far", metric, lines))
    others = [
        line_chart(f"m{i}", f"{name} over rounds", "round", name, lines, marks=marks)
        for i, name in enumerate(names[:MAX_METRICS])
        if (lines := all_series(groups, metric_curve(name)))
    ]
    # The main metric's families come first, then those of other models by the same measure; domains before classes.
    order = sorted(families, key=lambda f: (f[0] != metric, not f[0].endswith(metric), f[0], f[1] != "domain", f[1]))
    order, rest = order[:MAX_FAMILIES], order[MAX_FAMILIES:]
    drawn = [_family(f"f{i}", f, families[f], groups, marks, f[0] == metric) for i, f in enumerate(order)]
    quality = [
        line_chart(f"q{i}", f"{name} over rounds", "round", name, lines, marks=marks)
        for i, name in enumerate(pseudo[:MAX_METRICS])
        if (lines := all_series(groups, metric_curve(name)))
    ]
    left_out = len(names[MAX_METRICS:]) + len(pseudo[MAX_METRICS:]) + sum(len(families[family]) for family in rest)
    return Curves(main, [one for one in drawn if one.charts], others, left_out, marks, quality)


def family_of(name: str) -> tuple[str, str] | None:
    """Give (map50, domain) for `map50_by_domain.rainy`; None for a metric that belongs to no family."""
    head, _, member = name.partition(".")
    what, by, key = head.rpartition("_by_")
    return (what, key) if what and by and key and member else None


def _family(
    key: str, family: tuple[str, str], names: Sequence[str], groups: Sequence[Group], marks: Marks, main: bool
) -> Family:
    """Draw a line for each member where there is one group, else a chart for each, with a line for each group."""
    what, by = family
    found = {name.partition(".")[2]: all_series(groups, metric_curve(name)) for name in names}
    curves = {member: found[member] for member in sorted(found, key=natural) if found[member]}
    title = f"{what} by {by}"
    if len(groups) == 1:
        kept, note = _extremes(curves, MAX_LINES)
        note += " The table has all." if note else ""
        each = [replace(one, label=member, index=i) for i, (member, (one,)) in enumerate(curves.items())]
        drawn = [replace(one, index=i) for i, one in enumerate(one for one in each if one.label in kept)]
        if not drawn:
            return Family(title, [], "", main)
        chart = line_chart(key, f"{title} over rounds", "round", what, drawn, marks=marks)
        headers, rows = curve_table(each, "round")
        legend = [(one.index, one.label) for one in drawn]
        chart = replace(chart, headers=headers, rows=rows, legend=legend, note=note)
        return Family(title, [chart], "", main)
    kept, note = _extremes(curves, MAX_PANELS)
    scale = _scale([one for member in kept for one in curves[member]])
    charts = [
        line_chart(f"{key}-{i}", f"{what}, {member}", "round", what, curves[member], marks=marks, small=scale)
        for i, member in enumerate(kept)
    ]
    return Family(title, charts, note, main)


def _extremes(curves: dict[str, list[Series]], most: int) -> tuple[list[str], str]:
    """Choose up to `most` members, of more those that end lowest and highest; say so if any is left out."""
    if len(curves) <= most:
        return list(curves), ""
    ends = {member: mean_std([last(one.y) for one in lines])[0] for member, lines in curves.items()}
    order = sorted(curves, key=lambda member: (math.isnan(ends[member]), ends[member]))
    known = [member for member in order if not math.isnan(ends[member])] or order
    half = most // 2
    kept = {*known[:half], *known[-half:]}
    return [member for member in curves if member in kept], f"Of {len(curves)}, those that end lowest and highest."


def _scale(lines: Sequence[Series]) -> tuple[float, float]:
    """Give the ends of an ordinate that holds all lines with their bands, and a margin."""
    values = []
    for one in lines:
        for y, spread in zip(one.y, one.spread, strict=True):
            band = spread if math.isfinite(spread) else 0.0
            values += finite([y - band, y + band])
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def phase_marks(groups: Sequence[Group]) -> Marks:
    """Give where the phases of the runs begin; no marks if no run has more than one phase.

    Where groups disagree the marks are those of the first group that has phases, and the note says whose they are.
    """
    told = [(group, begins) for group in groups if len(begins := _begins(group)) > 1]
    if not told:
        return Marks()
    alike = [group for group in groups if _agree(group, told[0][0])]
    begins = max((_begins(group) for group in alike), key=len)
    whose = "" if len(alike) == len(groups) else f" of {', '.join(group.label for group in alike)}"
    if len(begins) > MAX_MARKS:
        return Marks(note=f"The phases{whose} change {len(begins) - 1} times; they are not marked.")
    note = f"Upright lines mark the phases{whose}: {spoken(begins)}."
    return Marks(begins, alike[0].index if whose and len(alike) == 1 else None, note)


def _longest(group: Group) -> RunRecord:
    return max(group.used, key=lambda run: run.rounds[-1].round if run.rounds else 0)


def _begins(group: Group) -> list[tuple[int, str]]:
    """Give the first round of each phase, and its name."""
    begins: list[tuple[int, str]] = []
    for record in _longest(group).rounds:
        if record.phase not in ("", FAILED) and (not begins or begins[-1][1] != record.phase):
            begins.append((record.round, record.phase))
    return begins


def _agree(one: Group, other: Group) -> bool:
    """Say whether two groups have the same phases in the rounds that both have."""
    end = min(_longest(group).rounds[-1].round if _longest(group).rounds else 0 for group in (one, other))
    first, second = ([begin for begin in _begins(group) if begin[0] <= end] for group in (one, other))
    return first == second and bool(first)
