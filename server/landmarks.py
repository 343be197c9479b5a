"""Landmarks of a run's feature space, prototypes and anchors: where they lie round by round, and how far apart."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .charts import SMALL_INCHES, Chart, Series, line_chart
from .heat import Heat, heat_chart
from .stats import number, printable
from .svg import INK, MUTED, SETTINGS, blank, series_colour, to_svg
from .traces import LANDMARKS, MAX_SNAPSHOTS, snapshots

MAX_PANELS = 6
MAX_CLASSES = 1000
MAX_NAMED = 30  # classes whose names stand beside their points
MAX_MATRIX = 60  # classes of a matrix of distances
MAX_BYTES = 64_000_000  # of a file
MAIN = "prototypes"

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Landmarks:
    """Named points [classes, d] after each round, in the order of the rounds; a row of NaN is not known yet."""

    rounds: tuple[int, ...]
    points: tuple[Mapping[str, Points], ...]

    @property
    def main(self) -> str:
        """The points that are drawn as dots: the prototypes, or the first by name."""
        names = sorted(self.points[-1])
        return MAIN if MAIN in names else names[0]


def read_landmarks(folder: Path, notes: list[str]) -> Landmarks | None:
    """Read landmarks/ of a run's folder; a file that does not fit the last one is noted and left out."""
    files = snapshots(folder / LANDMARKS)[-4 * MAX_SNAPSHOTS :]
    told: dict[int, Mapping[str, Points]] = {}
    faults = 0
    for path, round_ in reversed(files):
        points = _read(path)
        wanted = {name: value.shape for name, value in next(iter(told.values())).items()} if told else None
        if points is None or (wanted is not None and {n: v.shape for n, v in points.items()} != wanted):
            faults += 1
            continue
        told[round_] = points
    if faults:
        notes.append(f"{LANDMARKS}/: {faults} file{'s are' if faults > 1 else ' is'} unreadable and left out")
    rounds = tuple(sorted(told))
    return Landmarks(rounds, tuple(told[r] for r in rounds)) if rounds else None


def _read(path: Path) -> Mapping[str, Points] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        if path.stat().st_size > MAX_BYTES or path.is_symlink():
            return None
        arrays = load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    found = {printable(name): np.asarray(value, np.float64) for name, value in arrays.items()}
    shapes = {value.shape for value in found.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or not 0 < shape[0] <= MAX_CLASSES or not shape[1]:
        return None
    return found


@dataclass(frozen=True)
class Plane:
    """The two directions along which the points of the last round vary most (PCA): x [d] -> axes @ (x - centre)."""

    centre: Points
    axes: Points
    share: float
    """The share of the variance that lies in the plane, in [0, 1]."""

    def place(self, points: Points) -> Points:
        """Give points [n, d] in the plane, [n, 2]."""
        placed: Points = (points - self.centre) @ self.axes.T
        return placed


def plane_of(points: Points) -> Plane:
    """Fit the plane to the rows of points [n, d] that are finite; a direction's largest part is positive."""
    known = points[np.isfinite(points).all(1)]
    centre = known.mean(0) if len(known) else np.zeros(points.shape[1])
    _, sizes, axes = np.linalg.svd(known - centre, full_matrices=False)
    axes = np.vstack([axes, np.zeros((2, points.shape[1]))])[:2]
    signs = [1.0 if axis[np.abs(axis).argmax()] >= 0 else -1.0 for axis in axes]
    whole = float((sizes**2).sum())
    share = float((sizes[:2] ** 2).sum()) / whole if whole else 1.0
    return Plane(centre, axes * np.array(signs)[:, None], share)


def distances(one: Points, other: Points) -> Points:
    """Give Euclidean distances [n, m] of points [n, d] to points [m, d]; NaN where a point is not known."""
    found: Points = np.sqrt(((one[:, None] - other[None]) ** 2).sum(2))
    return found


def gap(points: Points) -> float:
    """Give the mean over the known classes of the distance to the nearest other one; NaN for fewer than two."""
    known = points[np.isfinite(points).all(1)]
    if len(known) < 2:
        return math.nan
    apart = distances(known, known)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min(1).mean())


@dataclass(frozen=True)
class LandmarkCharts:
    """What the report shows of one run: panels in one plane, matrices of distances, curves, and words about them."""

    panels: Sequence[Chart]
    others: Sequence[Chart]
    note: str


def landmark_charts(key: str, told: Landmarks, classes: Sequence[str]) -> LandmarkCharts:
    """Draw the landmarks of a run; `classes` are the names of the classes, or empty."""
    count = next(iter(told.points[-1].values())).shape[0]
    names = list(classes) if len(classes) == count else [str(i) for i in range(count)]
    plane = plane_of(np.vstack([told.points[-1][name] for name in sorted(told.points[-1])]))
    placed = [{name: plane.place(value) for name, value in points.items()} for points in told.points]
    chosen = sorted({round(i * (len(placed) - 1) / (MAX_PANELS - 1)) for i in range(MAX_PANELS)})
    spread = _limits(placed)
    ways = zip([chosen[0], *chosen], chosen, strict=False)
    panels = [_panel(f"{key}-p{i}", told, placed, way, names, spread) for i, way in enumerate(ways)]
    kinds = sorted(placed[-1], key=lambda name: name != told.main)
    note = f"Dots: {kinds[0]}." + "".join(f" Crosses: {name}, joined to the dot of their class." for name in kinds[1:])
    note += f" The plane is fitted to the last round (PCA) and holds {100 * plane.share:.0f} % of its variance;"
    note += " all panels have the same scale. Thin lines show the way since the panel before."
    return LandmarkCharts(panels, [*_matrices(key, told, names), *_gaps(key, told)], note)


def _limits(placed: Sequence[Mapping[str, Points]]) -> tuple[float, float, float]:
    """Give the middle of the plane's window and half its side, so that every point of every round lies inside."""
    every = np.vstack([points for rows in placed for points in rows.values()])
    every = every[np.isfinite(every).all(1)]
    if not len(every):
        return 0.0, 0.0, 1.0
    low, high = every.min(0), every.max(0)
    middle = (low + high) / 2
    return float(middle[0]), float(middle[1]), float((high - low).max() * 0.58) or 1.0


def _panel(
    key: str,
    told: Landmarks,
    placed: Sequence[Mapping[str, Points]],
    way: tuple[int, int],
    names: Sequence[str],
    spread: tuple[float, float, float],
) -> Chart:
    """Draw the points of one round, and their way to there from an earlier one: places in the order of the rounds."""
    import matplotlib

    before, at = way
    main, title = told.main, f"round {told.rounds[at]}"
    dots = placed[at][main]
    with matplotlib.rc_context(SETTINGS):
        figure, axes = blank(SMALL_INCHES, SMALL_INCHES)
        for label, (x, y) in enumerate(dots):
            if not math.isfinite(x):
                continue
            line = np.array([rows[main][label] for rows in placed[before : at + 1]])
            axes.plot(line[:, 0], line[:, 1], color=series_colour(label), linewidth=1.0, alpha=0.7)
            for other in sorted(set(placed[at]) - {main}):
                fx, fy = placed[at][other][label]
                axes.plot([x, fx], [y, fy], color=MUTED, linewidth=0.6, alpha=0.6)
                axes.plot([fx], [fy], "x", color=series_colour(label), markersize=5, markeredgewidth=1.2)
            axes.plot([x], [y], "o", color=series_colour(label), markersize=6, markeredgewidth=0)
            if len(names) <= MAX_NAMED:
                axes.annotate(
                    names[label][:12], (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8.5, color=INK
                )
        x, y, half = spread
        axes.set_xlim(x - half, x + half)
        axes.set_ylim(y - half, y + half)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        known = int(np.isfinite(dots).all(1).sum())
        said = f"Plane of the feature space, {title}: {known} {main}. Mean distance to the nearest other: "
        svg = to_svg(figure, key, title, said + number(gap(told.points[at][main])) + ".")
    rows = [[name, *(number(v) for v in dots[i])] for i, name in enumerate(names)]
    return Chart(title, svg, ["class", "first axis", "second axis"], rows)


def _matrices(key: str, told: Landmarks, names: Sequence[str]) -> list[Chart]:
    if len(names) > MAX_MATRIX:
        return []
    last, main = told.points[-1], told.main
    found = []
    for i, other in enumerate(sorted(last, key=lambda name: name != main)):
        apart = distances(last[main], last[other])
        title = f"distances between {main}" if other == main else f"distances of {main} (rows) to {other} (columns)"
        title += f", round {told.rounds[-1]}"
        heat = Heat(names, names, [[float(v) for v in row] for row in apart], "class", "class", write=_three)
        found.append(heat_chart(f"{key}-d{i}", title, heat))
    return found


def _three(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else number(value)


def _gaps(key: str, told: Landmarks) -> list[Chart]:
    """Draw how far classes lie apart over the rounds, and how far each lies from its other landmark."""
    if len(told.rounds) < 2:
        return []
    main = told.main
    curves: dict[str, list[float]] = {}
    for points in told.points:
        for name in sorted(points, key=lambda name: name != main):
            curves.setdefault(f"{name} to the nearest other class", []).append(gap(points[name]))
            if name != main:
                own = np.sqrt(((points[main] - points[name]) ** 2).sum(1))
                known = own[np.isfinite(own)]
                curves.setdefault(f"{main} to their {name}", []).append(float(known.mean()) if len(known) else math.nan)
    lines = [_series(label, i, told.rounds, values) for i, (label, values) in enumerate(curves.items())]
    chart = line_chart(f"{key}-gap", "mean distances over rounds", "round", "distance", lines, zero=True)
    legend = [(line.index, line.label) for line in lines] if len(lines) > 1 else ()
    note = "" if legend else lines[0].label.capitalize() + "."
    svg = re.sub(r' class="g[0-9]+"', "", chart.svg)  # these lines are no groups, which the page can hide
    return [Chart(chart.title, svg, chart.headers, chart.rows, legend, note)]


def _series(label: str, index: int, rounds: Sequence[int], values: Sequence[float]) -> Series:
    blank_spread: Any = [math.nan] * len(values)
    return Series(label, index, rounds, [float(r) for r in rounds], values, blank_spread)
