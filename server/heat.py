"""Heat maps as SVG: a square for each row and column, coloured by its value, with the value in it where there is room.

Colours are the classes h1 to h8 of the page's styles, so one picture reads on a light and on a dark page.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from .charts import Chart
from .stats import finite, number

LEVELS = 8
HIGH = 6
"""From this level on the colour is so strong that text on it has the colour of the page."""
MAX_WRITTEN = 24  # columns whose squares are wide enough for a number
_LETTER, _FONT = 6.2, 11.0  # pixels
_BARS = 46.0  # pixels, height of the bars above the columns


@dataclass(frozen=True)
class Heat:
    """A table of values [rows][columns], NaN for none. `tops` has two parts of a bar above each column, if given.

    `root` lets colours grow with the square root, so that small values stay visible.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    row_axis: str
    column_axis: str
    root: bool = False
    tops: Sequence[tuple[float, float]] = ()
    write: Callable[[float], str] = number


def heat_chart(key: str, title: str, heat: Heat, note: str = "") -> Chart:
    """Draw a heat map. `key` is unique within the page."""
    wide = len(heat.columns) <= MAX_WRITTEN
    texts = [[heat.write(v) if math.isfinite(v) and v else "" for v in row] for row in heat.values]
    longest = max((len(text) for row in texts for text in row), default=1)
    cell = max(26.0, longest * _LETTER + 8) if wide else 14.0 if len(heat.columns) <= 80 else 8.0
    high = 24.0 if len(heat.rows) <= 40 else 13.0
    names = [_short(name) for name in heat.rows]
    left = max(len(name) for name in [*names, heat.row_axis]) * _LETTER + 10
    turned = max(len(name) for name in heat.columns) * _LETTER > 1.6 * cell
    head = (_BARS + 8 if heat.tops else 4) + 16.0
    foot = 34.0 if not turned else 26.0 + 0.7 * max(len(_short(name)) for name in heat.columns) * _LETTER
    width, height = left + cell * len(heat.columns) + 16, head + high * len(heat.rows) + foot
    parts = [_squares(heat, left, head, cell, high)]
    parts += _numbers(texts, heat, left, head, cell, high) if wide and high > 20 else []
    parts += _row_names(names, heat.row_axis, left, head, high)
    parts += _column_names(heat, left, head + high * len(heat.rows), cell, turned)
    parts += _tops(heat.tops, left, head - 12, cell)
    said = f"Heat map: {title}. {heat.row_axis} by {heat.column_axis}; the data below has every value."
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
    svg += f'height="{height:.0f}" role="img" aria-label="{escape(said)}" class="heat" id="{key}">'
    svg += f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    rows = [[name, *(heat.write(v) for v in row)] for name, row in zip(heat.rows, heat.values, strict=True)]
    return Chart(title, svg, [heat.row_axis, *heat.columns], rows, note=note, scrolls=True)


def level(value: float, most: float, root: bool) -> int:
    """Give the level of colour, 1 to 8, of a value from 0 to `most`; 0 for nothing."""
    if not math.isfinite(value) or value <= 0 or most <= 0:
        return 0
    share = value / most
    return min(LEVELS, max(1, math.ceil(LEVELS * (math.sqrt(share) if root else share))))


def _most(heat: Heat) -> float:
    return max(finite([v for row in heat.values for v in row]), default=0.0)


def _squares(heat: Heat, left: float, head: float, cell: float, high: float) -> str:
    """Give one path for each level: of 2,000 squares a page must not grow by much."""
    paths: dict[int, list[str]] = {}
    for r, row in enumerate(heat.values):
        for c, value in enumerate(row):
            if found := level(value, _most(heat), heat.root):
                x, y = left + c * cell, head + r * high
                paths.setdefault(found, []).append(f"M{x + 0.5:g} {y + 0.5:g}h{cell - 1:g}v{high - 1:g}h{1 - cell:g}z")
    wide, tall = cell * len(heat.columns), high * len(heat.rows)
    frame = f'<path class="frame" d="M{left:g} {head:g}h{wide:g}v{tall:g}h{-wide:g}z"/>'
    return frame + "".join(f'<path class="h{one}" d="{"".join(paths[one])}"/>' for one in sorted(paths))


def _numbers(
    texts: Sequence[Sequence[str]], heat: Heat, left: float, head: float, cell: float, high: float
) -> list[str]:
    most, found = _most(heat), []
    for r, row in enumerate(texts):
        for c, text in enumerate(row):
            if text:
                strong = level(heat.values[r][c], most, heat.root) >= HIGH
                x, y = left + (c + 0.5) * cell, head + (r + 0.5) * high + 4
                found.append(_text(x, y, text, "hi" if strong else "lo", "middle"))
    return found


def _row_names(names: Sequence[str], axis: str, left: float, head: float, high: float) -> list[str]:
    step = max(1, math.ceil(12 / high))
    found = [_text(left - 6, head + (i + 0.5) * high + 4, name, "lo", "end") for i, name in enumerate(names)][::step]
    return [*found, _text(left - 6, head - 5, axis, "mute", "end")]


def _column_names(heat: Heat, left: float, bottom: float, cell: float, turned: bool) -> list[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if cell * step >= 22 or step == 50)
    found = []
    for i, name in enumerate(heat.columns):
        if i % step:
            continue
        x = left + (i + 0.5) * cell
        if turned:
            place = f'transform="translate({x + 4:.1f} {bottom + 12:g}) rotate(-45)"'
            found.append(f'<text {place} class="lo" text-anchor="end">{escape(_short(name))}</text>')
        else:
            found.append(_text(x, bottom + 14, _short(name), "lo", "middle"))
    under = bottom + (30 if not turned else 22 + 0.7 * max(len(_short(n)) for n in heat.columns) * _LETTER)
    return [*found, _text(left, under, heat.column_axis, "mute", "start")]


def _tops(tops: Sequence[tuple[float, float]], left: float, base: float, cell: float) -> list[str]:
    most = max((a + b for a, b in tops), default=0.0)
    found = []
    for i, (first, second) in enumerate(tops):
        y, x, wide = base, left + i * cell + 0.14 * cell, 0.72 * cell
        for value, kind in ((first, "bar"), (second, "bar soft")):
            tall = (_BARS - 14) * value / most if most else 0.0
            if tall > 0:
                y -= tall
                found.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>')
        if cell >= 24 and first + second:
            found.append(_text(left + (i + 0.5) * cell, y - 3, f"{first + second:.0f}", "mute", "middle"))
    return found


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
