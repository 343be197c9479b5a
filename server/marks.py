"""Marks on a chart over rounds: a thin upright line with a flag where a phase of the run begins."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .svg import MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT = 8.5  # points
ROW = 11.0  # points, height of a row of flags
WIDEST = 18  # letters of a name
_LETTER = 0.62 * FONT  # points, a generous mean over fonts: the browser chooses the font, not this program


@dataclass(frozen=True)
class Marks:
    """Where phases begin: (round, name), ascending. `index` is the group they belong to, None for all groups.

    `note` says it in a sentence for the page.
    """

    begins: Sequence[tuple[int, str]] = ()
    index: int | None = None
    note: str = ""

    @property
    def text(self) -> str:
        """Say where each phase begins, as part of a chart's description; empty without phases."""
        return f" Phases: {spoken(self.begins)}." if self.begins else ""


def spoken(begins: Sequence[tuple[int, str]]) -> str:
    """Give `server from round 1, full from round 11`."""
    return ", ".join(f"{name} from round {at}" for at, name in begins)


@dataclass(frozen=True)
class Flag:
    """A name in a row above the axes, row 0 the lowest, on a line that stands at `x` rounds; x None: no line.

    `at` and `span` are the line's place and the name's extent, in points from the start of the axes.
    """

    name: str
    x: float | None
    at: float
    span: tuple[float, float]
    row: int = 0

    @property
    def left(self) -> bool:
        """Whether the name stands left of its line."""
        return self.span[0] < self.at

    def hits(self, other: "Flag") -> bool:
        """Say whether the names touch, or one's line runs through the other's name."""
        if self.row == other.row:
            return self.span[0] < other.span[1] and other.span[0] < self.span[1]
        high, low = (self, other) if self.row > other.row else (other, self)
        return high.x is not None and low.span[0] < high.at < low.span[1]


def flags(marks: Marks, first: float, last: float, points: float) -> list[Flag]:
    """Place the flags over curves that go from round `first` to `last`, on axes that are `points` wide.

    The phase that the curves begin in has a name but no line. A name that would reach out of the axes stands left of
    its line. Names that would touch stand in different rows, and no line runs through a name if that can be helped.
    """
    # What a round's point shows came of that round, so a phase begins half a round before its first point.
    starts = [(at - 0.5, name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}…") for at, name in marks.begins]
    scale = points / ((last - first) or 1)
    waiting = [_flag(name, None, 0.0, points) for x, name in starts if x <= first][-1:]
    waiting += [_flag(name, x, (x - first) * scale, points) for x, name in starts if first < x < last]
    placed: list[Flag] = []
    # From the right: the line of an earlier flag then meets no name below it. Names left of their line come last.
    for flag in sorted(waiting, key=lambda flag: (flag.left, -flag.at)):
        rows = (Flag(flag.name, flag.x, flag.at, flag.span, row) for row in itertools.count())
        tries = list(itertools.islice(rows, len(placed) + 1))
        placed.append(next((one for one in tries if not any(map(one.hits, placed))), tries[-1]))
    return sorted(placed, key=lambda flag: flag.at)


def _flag(name: str, x: float | None, at: float, points: float) -> Flag:
    wide = len(name) * _LETTER + 5
    left = at + wide > points and at > wide
    return Flag(name, x, at, (at - wide, at) if left else (at, at + wide))


def draw_marks(axes: "Axes", marks: Marks, first: float, last: float, points: float) -> int:
    """Draw the marks on axes whose curves go from `first` to `last`; give the number of rows that they need above."""
    from matplotlib.transforms import ScaledTranslation

    gid = None if marks.index is None else f"series-{marks.index}"
    placed = flags(marks, first, last, points)
    axes.set_xlim(axes.get_xlim())  # no mark may widen the abscissa
    figure = axes.get_figure(root=True)
    assert figure is not None
    for flag in placed:
        base = axes.transAxes if flag.x is None else axes.get_xaxis_transform()
        x = 0.0 if flag.x is None else flag.x
        foot, top = (ScaledTranslation(0, ROW * row / 72, figure.dpi_scale_trans) for row in (flag.row, flag.row + 1))
        axes.annotate(
            flag.name,
            (x, 1),
            xycoords=base + foot,
            xytext=(0 if flag.x is None else -3 if flag.left else 3, 2),
            textcoords="offset points",
            ha="right" if flag.left else "left",
            fontsize=FONT,
            color=MUTED,
            gid=gid,
        )
        if flag.x is not None:
            line = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0, "color": MUTED, "linewidth": 0.8, "gid": gid}
            axes.annotate("", (x, 0), xycoords=base, xytext=(x, 1), textcoords=base + top, arrowprops=line)
    return max((flag.row + 1 for flag in placed), default=0)
