"""Charts of the report, each with its data as a table: curves, distributions over clients, stacked bars."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .marks import ROW, Marks, draw_marks
from .stats import finite, mean_std, natural, number, plus_minus, quantile
from .svg import (
    DASHES,
    INK,
    SETTINGS,
    SURFACE,
    WIDTH_INCHES,
    blank,
    few_points,
    legend_above,
    part_colour,
    series_colour,
    ticks,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_DOTS = 60
MAX_TABLE_ROWS = 100
MAX_LINES = 10  # of one chart, where each is a domain or a class
SMALL_INCHES = 3.3
AXIS_POINTS = 55  # what an ordinate with its label takes of a chart's width
NO_MARKS = Marks()


@dataclass(frozen=True)
class Series:
    """One curve: y (and its spread over seeds, NaN for none) at x, told round by round; NaN is a gap."""

    label: str
    index: int
    rounds: Sequence[int]
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float]


@dataclass(frozen=True)
class Strip:
    """One distribution: a value for each client; index None draws it in the colour of the text."""

    label: str
    index: int | None
    values: Mapping[str, float]


Bar = tuple[str, int, Mapping[str, float]]  # label, index, value of each part


@dataclass(frozen=True)
class Chart:
    """A drawn figure and its data as a table: headers, then rows; the first cell names the row.

    `legend` names lines that are not groups, by the index of their look; `note` says what the chart leaves out.
    """

    title: str
    svg: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: Sequence[tuple[int, str]] = ()
    note: str = ""
    scrolls: bool = False
    """Whether it keeps its size and scrolls where the page is narrow, as a table does."""


def line_chart(
    key: str,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    zero: bool = False,
    marks: Marks = NO_MARKS,
    small: tuple[float, float] | None = None,
) -> Chart:
    """Overlay curves with their bands; `zero` starts the ordinate at 0. `key` is unique within the page.

    `marks` say where phases begin, on an abscissa of rounds. `small` draws one of several charts side by side, whose
    ordinates all go from its first number to its second.
    """
    import matplotlib

    height, width = (2.2, SMALL_INCHES) if small else (3.2, WIDTH_INCHES)
    with matplotlib.rc_context(SETTINGS):
        figure, axes = blank(height, width)
        for one in series:
            _curve(axes, one)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if zero:
            axes.set_ylim(bottom=0)
        if small:
            axes.set_ylim(small)
        axes.grid(visible=True)
        ticks(axes, whole=x_label == "round")
        if marks.begins and (x := finite([x for one in series for x in one.x])):
            rows = draw_marks(axes, marks, min(x), max(x), 72 * width - AXIS_POINTS)
            # Charts side by side keep one height: two rows of flags take from the curves, only more make it taller.
            figure.set_figheight(height + max(rows - 2, 0) * ROW / 72)
        ends = "; ".join(f"{s.label} ends at {number(last(s.y))}" for s in series[:MAX_LINES])
        svg = to_svg(figure, key, title, f"Line chart: {title}. {ends}.{marks.text}")
    return Chart(title, svg, *curve_table(series, x_label))


def strip_chart(key: str, title: str, x_label: str, strips: Sequence[Strip]) -> Chart:
    """Draw one row for each distribution: the clients as dots, quartile box, median bar, mean diamond."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure, axes = blank(0.55 + 0.47 * max(len(strips), 1))
        axes.use_sticky_edges = False  # where most clients reach 1 the box begins there, and their dots would be cut
        for row, strip in enumerate(strips):
            _strip(axes, strip, row)
        axes.set_ylim(len(strips) - 0.55, -0.72)
        axes.set_yticks([])
        axes.set_xlabel(x_label)
        axes.grid(visible=True, axis="x")
        ticks(axes, whole=False)
        means = "; ".join(f"{s.label}: mean {number(mean_std(list(s.values.values()))[0])}" for s in strips[:8])
        svg = to_svg(figure, key, title, f"Distribution over the clients: {title}. {means}.")
    return Chart(title, svg, *_strip_table(strips))


def stack_chart(key: str, title: str, x_label: str, bars: Sequence[Bar]) -> Chart:
    """Draw one stacked bar for each (label, index, {part: value}); all bars share the order of the parts."""
    import matplotlib

    parts = list(dict.fromkeys(part for _, _, values in bars for part in values))
    with matplotlib.rc_context(SETTINGS):
        figure, axes = blank(0.95 + 0.47 * max(len(bars), 1))
        for row, (label, index, values) in enumerate(bars):
            start = 0.0
            for i, part in enumerate(parts):
                width = values.get(part, 0.0)
                axes.barh(
                    row,
                    width,
                    0.42,
                    left=start,
                    color=part_colour(i),
                    gid=f"series-{index}",
                    edgecolor=SURFACE,
                    linewidth=0.8,
                    label=part if row == 0 else None,
                )
                start += width
            _row_label(axes, row, label, index)
        axes.set_ylim(len(bars) - 0.55, -0.72)
        axes.set_yticks([])
        axes.set_xlabel(x_label)
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        ticks(axes, whole=False)
        legend_above(figure, *axes.get_legend_handles_labels(), 5)
        totals = "; ".join(f"{label}: {number(sum(values.values()))}" for label, _, values in bars[:8])
        svg = to_svg(figure, key, title, f"Stacked bars: {title}, by {', '.join(parts)}. Totals: {totals}.")
    rows = [[label, *(number(v.get(p, math.nan)) for p in parts), number(sum(v.values()))] for label, _, v in bars]
    return Chart(title, svg, ["run", *parts, "sum"], rows)


def _curve(axes: "Axes", one: Series) -> None:
    colour, gid = series_colour(one.index), f"series-{one.index}"
    dash = DASHES[one.index % len(DASHES)]
    axes.plot(
        one.x,
        one.y,
        color=colour,
        linewidth=1.7,
        linestyle=(0, dash) if dash else "solid",
        gid=gid,
        marker="o" if few_points(one.y) else None,
        markersize=3.2,
    )
    if finite(one.spread):
        low = [y - s for y, s in zip(one.y, one.spread, strict=True)]
        high = [y + s for y, s in zip(one.y, one.spread, strict=True)]
        axes.fill_between(one.x, low, high, color=colour, alpha=0.16, linewidth=0, gid=gid)


def _strip(axes: "Axes", strip: Strip, row: int) -> None:
    values, colour = sorted(finite(list(strip.values.values()))), series_colour(strip.index)
    gid = None if strip.index is None else f"series-{strip.index}"
    _row_label(axes, row, strip.label, strip.index)
    if not values:
        return
    low, median, high = (quantile(values, share) for share in (0.25, 0.5, 0.75))
    # Above MAX_DOTS clients a dot stands for an equal share of them: 1,000 dots a row would only be a smear.
    dots = values
    if len(values) > MAX_DOTS:
        dots = [quantile(values, i / (MAX_DOTS - 1)) for i in range(MAX_DOTS)]
    heights = [row + 0.3 * ((i * 0.618034) % 1 - 0.5) for i in range(len(dots))]
    axes.barh(row, high - low, 0.42, left=low, color=colour, alpha=0.16, gid=gid)
    axes.plot([median, median], [row - 0.21, row + 0.21], color=colour, linewidth=2, gid=gid)
    axes.plot(dots, heights, "o", color=colour, alpha=0.6, markersize=3.4, markeredgewidth=0, gid=gid)
    axes.plot([statistics.fmean(values)], [row], "D", color=INK, markersize=5, markeredgecolor=SURFACE, gid=gid)


def _row_label(axes: "Axes", row: int, label: str, index: int | None) -> None:
    short = label if len(label) <= 60 else f"{label[:59]}…"
    axes.text(
        0,
        row - 0.3,
        short,
        transform=axes.get_yaxis_transform(),
        va="bottom",
        ha="left",
        fontsize=9.5,
        gid=None if index is None else f"series-{index}",
    )


def last(values: Sequence[float]) -> float:
    """Give the last value, NaN where there is none."""
    return values[-1] if values else math.nan


def curve_table(series: Sequence[Series], x_label: str) -> tuple[list[str], list[list[str]]]:
    """Tabulate curves by round: every k-th round if there are many, and always the last one."""
    rounds = sorted({r for s in series for r in s.rounds})
    step = math.ceil(len(rounds) / MAX_TABLE_ROWS) or 1
    kept = [*rounds[::step], *([rounds[-1]] if rounds and (len(rounds) - 1) % step else [])]
    cells: list[dict[int, str]] = []
    for s in series:
        at = [""] * len(s.x) if x_label == "round" else [f" at {number(x)}" for x in s.x]
        texts = (plus_minus(y, e) + a for y, e, a in zip(s.y, s.spread, at, strict=True))
        cells.append(dict(zip(s.rounds, texts, strict=True)))
    unit = "" if x_label == "round" else f" (at {x_label})"
    return ["round", *(s.label + unit for s in series)], [[str(r), *(c.get(r, "") for c in cells)] for r in kept]


def _strip_table(strips: Sequence[Strip]) -> tuple[list[str], list[list[str]]]:
    """Tabulate each client, or the deciles if there are more than MAX_TABLE_ROWS clients."""
    names = sorted({c for s in strips for c in s.values}, key=natural)
    if len(names) <= MAX_TABLE_ROWS:
        rows = [[c, *(number(s.values[c]) if c in s.values else "" for s in strips)] for c in names]
        return ["client", *(s.label for s in strips)], rows
    lists = [list(s.values.values()) for s in strips]
    return ["share of clients below", *(s.label for s in strips)], [
        [f"{tenth * 10} %", *(number(quantile(v, tenth / 10)) for v in lists)] for tenth in range(11)
    ]
