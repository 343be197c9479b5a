"""Figures drawn with matplotlib, turned into SVG that can stand inside a page.

A figure is drawn in sentinel colours which are replaced by `currentColor` and CSS variables, so that one SVG
reads on a light and on a dark page. Text stays text. Each artist of a series carries the class `gN`, by which
the page can hide it.
"""

import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .stats import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = 7  # Okabe and Ito's eight without yellow, which is unreadable on white; their values stand in report.html
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (7, 2, 1.5, 2))
PHASES = 7
INK, MUTED, GRID, SURFACE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
WIDTH_INCHES = 5.0
STEPS = [1, 2, 5, 10]

_THEME = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)", SURFACE: "var(--surface)"}
_THEME |= {f"#0a0c{i:02x}": f"var(--s{i})" for i in range(COLOURS)}
_THEME |= {f"#0a0d{i:02x}": f"var(--p{i})" for i in range(PHASES)}
SETTINGS: Any = {
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


def series_colour(index: int | None) -> str:
    """Give the sentinel colour of a series; None is the colour of the text."""
    return INK if index is None else f"#0a0c{index % COLOURS:02x}"


def part_colour(index: int) -> str:
    """Give the sentinel colour of a part of a stacked bar."""
    return f"#0a0d{index % PHASES:02x}"


def blank(height: float, width: float = WIDTH_INCHES) -> "tuple[Figure, Axes]":
    """Give an empty figure, `height` inches high, with one set of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def few_points(values: Sequence[float]) -> bool:
    """Say whether a curve is drawn with dots: a single point has no line to be seen by."""
    return len(finite(values)) <= 12


def ticks(axes: "Axes", *, whole: bool) -> None:
    """Set few round ticks; `whole` keeps those of the abscissa to whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, min_n_ticks=1, steps=STEPS))
    if axes.get_yticks().size:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))


def legend_above(figure: "Figure", handles: Sequence[Any], labels: Sequence[str], columns: int) -> None:
    """Put a legend without a frame above the axes, from the left."""
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=1.0,
        borderaxespad=0,
    )


def to_svg(figure: "Figure", key: str, title: str, description: str) -> str:
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
