"""Charts of the report: small statistics, and matplotlib figures turned into inline SVG.

A figure is drawn in sentinel colours which are replaced by `currentColor` and CSS variables, so that one SVG
reads on a light and on a dark page. Text stays text. Each artist of a series carries the class `gN`, by which
the page can hide it.
"""

import io
import math
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = 7  # Okabe and Ito's eight without yellow, which is unreadable on white; their values stand in report.html
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (7, 2, 1.5, 2))
PHASES = 5
INK, MUTED, GRID, SURFACE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
WIDTH_INCHES = 5.0
STEPS = [1, 2, 5, 10]
MAX_DOTS = 60
MAX_TABLE_ROWS = 100
ABSENT = "\u2013"

_THEME = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)", SURFACE: "var(--surface)"}
_THEME |= {f"#0a0c{i:02x}": f"var(--s{i})" for i in range(COLOURS)}
_THEME |= {f"#0a0d{i:02x}": f"var(--p{i})" for i in range(PHASES)}
_RC: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a `$` in a run's name is a `$`
    "font.size": 10,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "path.simplify_threshold": 0.2,
}


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
    """A drawn figure and its data as a table: headers, then rows; the first cell names the row."""

    title: str
    svg: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


def finite(values: Sequence[float]) -> list[float]:
    """Give the values that are neither NaN nor infinite."""
    return [v for v in values if math.isfinite(v)]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean and the sample standard deviation (divisor n - 1) of the finite values, else NaN."""
    kept = finite(values)
    mean = statistics.fmean(kept) if kept else math.nan
    return mean, statistics.stdev(kept) if len(kept) > 1 else math.nan


def worst_decile(values: Sequence[float], *, low_is_bad: bool = True) -> float:
    """Give the mean of the worst tenth of the finite values, ceil(n / 10) of them; NaN if there are none."""
    kept = sorted(finite(values), reverse=not low_is_bad)
    return statistics.fmean(kept[: math.ceil(len(kept) / 10)]) if kept else math.nan


def quantile(values: Sequence[float], share: float) -> float:
    """Give the quantile, share in [0, 1], of the finite values, linear between neighbours; NaN for none."""
    kept = sorted(finite(values))
    if not kept:
        return math.nan
    place = share * (len(kept) - 1)
    low = math.floor(place)
    high = min(low + 1, len(kept) - 1)
    return kept[low] + (place - low) * (kept[high] - kept[low])


def number(value: float) -> str:
    """Write a number for a table: four decimals up to 10, whole from 1,000, a dash for NaN."""
    if not math.isfinite(value):
        return ABSENT
    size = abs(value)
    if (float(value).is_integer() and size >= 10) or size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 0.001:
        return f"{value:.2e}"
    return f"{value:.4f}" if size < 10 else f"{value:.2f}"


def spread(mean: float, std: float) -> str:
    """Write `mean ± std`, or the mean alone where there is no deviation."""
    return f"{number(mean)} ± {number(std)}" if math.isfinite(std) else number(mean)


def byte_unit(largest: float) -> tuple[float, str]:
    """Give the decimal unit (its size in bytes, its name) in which `largest` bytes read best."""
    units = [(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")]
    return max((u for u in units if u[0] <= max(largest, 1.0)), default=units[0])


def human_bytes(count: float) -> str:
    """Write a number of bytes in decimal units: 12345 becomes `12.3 kB`."""
    if not math.isfinite(count):
        return ABSENT
    size, name = byte_unit(count)
    scaled = count / size
    return f"{scaled:.0f} {name}" if name == "B" or scaled >= 100 else f"{scaled:.3g} {name}"


def duration(seconds: float) -> str:
    """Write seconds: `4.2 s`, `3 min 12 s` or `1 h 02 min`."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def line_chart(
    key: str, title: str, x_label: str, y_label: str, series: Sequence[Series], *, zero: bool = False
) -> Chart:
    """Overlay curves with their bands; `zero` starts the ordinate at 0. `key` is unique within the page."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        figure, axes = _figure(3.2)
        for one in series:
            _curve(axes, one)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if zero:
            axes.set_ylim(bottom=0)
        axes.grid(visible=True)
        _ticks(axes, whole=x_label == "round")
        ends = "; ".join(f"{s.label} ends at {number(_last(s.y))}" for s in series[:8])
        svg = _svg(figure, key, title, f"Line chart: {title}. {ends}.")
    return Chart(title, svg, *_curve_table(series, x_label))


def strip_chart(key: str, title: str, x_label: str, strips: Sequence[Strip]) -> Chart:
    """Draw one row for each distribution: the clients as dots, quartile box, median bar, mean diamond."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        figure, axes = _figure(0.55 + 0.47 * max(len(strips), 1))
        for row, strip in enumerate(strips):
            _strip(axes, strip, row)
        axes.set_ylim(len(strips) - 0.55, -0.72)
        axes.set_yticks([])
        axes.set_xlabel(x_label)
        axes.grid(visible=True, axis="x")
        _ticks(axes, whole=False)
        means = "; ".join(f"{s.label}: mean {number(mean_std(list(s.values.values()))[0])}" for s in strips[:8])
        svg = _svg(figure, key, title, f"Distribution over the clients: {title}. {means}.")
    return Chart(title, svg, *_strip_table(strips))


def stack_chart(key: str, title: str, x_label: str, bars: Sequence[Bar]) -> Chart:
    """Draw one stacked bar for each (label, index, {part: value}); all bars share the order of the parts."""
    import matplotlib

    parts = list(dict.fromkeys(part for _, _, values in bars for part in values))
    with matplotlib.rc_context(_RC):
        figure, axes = _figure(0.95 + 0.47 * max(len(bars), 1))
        for row, (label, index, values) in enumerate(bars):
            start = 0.0
            for i, part in enumerate(parts):
                width = values.get(part, 0.0)
                axes.barh(
                    row,
                    width,
                    0.42,
                    left=start,
                    color=f"#0a0d{i % PHASES:02x}",
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
        _ticks(axes, whole=False)
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=5,
            frameon=False,
            handlelength=0.9,
            handletextpad=0.4,
            columnspacing=1.0,
            borderaxespad=0,
        )
        totals = "; ".join(f"{label}: {number(sum(values.values()))}" for label, _, values in bars[:8])
        svg = _svg(figure, key, title, f"Stacked bars: {title}, by {', '.join(parts)}. Totals: {totals}.")
    rows = [[label, *(number(v.get(p, math.nan)) for p in parts), number(sum(v.values()))] for label, _, v in bars]
    return Chart(title, svg, ["run", *parts, "sum"], rows)


def _colour(index: int | None) -> str:
    return INK if index is None else f"#0a0c{index % COLOURS:02x}"


def _figure(height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def _ticks(axes: "Axes", *, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, min_n_ticks=1, steps=STEPS))
    if axes.get_yticks().size:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))


def _curve(axes: "Axes", one: Series) -> None:
    colour, gid = _colour(one.index), f"series-{one.index}"
    dash = DASHES[one.index % len(DASHES)]
    few = len(finite(one.y)) <= 12
    axes.plot(
        one.x,
        one.y,
        color=colour,
        linewidth=1.7,
        linestyle=(0, dash) if dash else "solid",
        gid=gid,
        marker="o" if few else None,
        markersize=3.2,
    )
    if finite(one.spread):
        low = [y - s for y, s in zip(one.y, one.spread, strict=True)]
        high = [y + s for y, s in zip(one.y, one.spread, strict=True)]
        axes.fill_between(one.x, low, high, color=colour, alpha=0.16, linewidth=0, gid=gid)


def _strip(axes: "Axes", strip: Strip, row: int) -> None:
    values, colour = sorted(finite(list(strip.values.values()))), _colour(strip.index)
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


def _last(values: Sequence[float]) -> float:
    return values[-1] if values else math.nan


def _curve_table(series: Sequence[Series], x_label: str) -> tuple[list[str], list[list[str]]]:
    """Tabulate curves by round: every k-th round if there are many, and always the last one."""
    rounds = sorted({r for s in series for r in s.rounds})
    step = math.ceil(len(rounds) / MAX_TABLE_ROWS) or 1
    kept = [*rounds[::step], *([rounds[-1]] if rounds and (len(rounds) - 1) % step else [])]
    cells: list[dict[int, str]] = []
    for s in series:
        at = [""] * len(s.x) if x_label == "round" else [f" at {number(x)}" for x in s.x]
        texts = (spread(y, e) + a for y, e, a in zip(s.y, s.spread, at, strict=True))
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


def natural(text: str) -> list[tuple[int, int, str]]:
    """Give a sort key that puts `client-2` before `client-10`."""
    pieces: list[str] = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in pieces]


def _svg(figure: "Figure", key: str, title: str, description: str) -> str:
    """Save as SVG fit to be inlined: themed, accessible, ids of its own, nothing from outside."""
    from html import escape

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the fonts
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", text, flags=re.S)
    text = re.sub(r'id="series-(\d+)"', r'class="g\1"', text[text.index("<svg") :])
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'xlink:href="#', f'href="#{key}-', text).replace("url(#", f"url(#{key}-")
    text = re.sub(r'\b(d|x|y|transform)="([^"]*)"', _rounded, text)
    text = re.sub(r" ?font-family: [^;\"]*;?| transform=\"rotate\(-?0 [^\"]*\"", "", text)
    text = re.sub(r"#0a0[bcd]\d\d", lambda m: _THEME.get(m[0], m[0]), text)
    text = re.sub(r">\s+<", "><", text)
    view = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {view[0] if view else ""} role="img" '
    head += f'aria-label="{escape(description)}"><title>{escape(title)}</title>'
    return head + text[text.index(">") + 1 :].strip()


def _rounded(match: re.Match[str]) -> str:
    """Keep two decimals (1/36 mm at natural size) of an attribute's coordinates, on one line."""
    value = re.sub(r"(\.\d\d)\d+", r"\1", match[2]).replace("\n", "")
    return f'{match[1]}="{value.strip()}"'
