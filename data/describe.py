"""Who holds how much of what: counts for a table, and a picture of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import DataError, Int64Array
from .partition import Partition
from .roles import Roles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CLIENTS = 200
_BLUE, _INK, _MUTED = "#2a6f97", "#222222", "#6b7280"
_KEY_COLOURS = ("#e6eef4", "#f7eee3")


@dataclass(frozen=True, eq=False)
class ClientTable:
    """Samples of each client and class by role: three int64 arrays [clients, classes]."""

    labelled: Int64Array
    unlabelled: Int64Array
    test: Int64Array

    @property
    def total(self) -> Int64Array:
        """Samples of any role, int64 [clients, classes]."""
        return self.labelled + self.unlabelled + self.test


def client_table(
    partition: Partition, labels: Int64Array, classes: int, roles: Sequence[Roles] | None = None
) -> ClientTable:
    """Count the samples of each client and class.

    labels: int64, those of the whole data set; classes: how many there are. roles: one for each client, in
    order; without them every sample counts as labelled. Raises DataError if their number does not fit.
    """
    clients = len(partition)
    if roles is None:
        table = _count([partition.flat], partition.owners, labels, (clients, classes))
        return ClientTable(table, np.zeros_like(table), np.zeros_like(table))
    if len(roles) != clients:
        raise DataError(f"{clients} clients need {clients} roles, got {len(roles)}")
    tables = []
    for name in ("labelled", "unlabelled", "test"):
        parts = [getattr(role, name) for role in roles]
        owners = np.repeat(np.arange(clients), [len(part) for part in parts])
        tables.append(_count(parts, owners, labels, (clients, classes)))
    return ClientTable(*tables)


def _count(parts: Sequence[Int64Array], owners: Int64Array, labels: Int64Array, shape: tuple[int, int]) -> Int64Array:
    cells = owners * shape[1] + labels[np.concatenate(parts)]
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def plot_partition(
    counts: Int64Array,
    classes: Sequence[str],
    path: str | Path,
    title: str = "",
    keys: Sequence[str] | None = None,
) -> None:
    """Draw samples by client and class as a heat map under bars of the clients' sizes.

    counts: int64, [clients, classes]. path: where the picture goes; its suffix decides the format (png,
    svg, pdf). keys: the natural key of each client; neighbours with the same key share a marked band.
    Colour grows with the square root of a count, so that small holdings stay visible; white means none.
    Of more than 200 clients the first 200 are drawn, and the axis says so.

    Raises DataError if shapes do not fit or the file cannot be written.
    """
    _check(counts, classes, keys)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total, shown = len(counts), counts[:_MOST_CLIENTS]
    clients, rows = shown.shape
    cell = float(np.clip(14 / clients, 0.07, 0.5))
    width = max(clients * cell, 4.0) + 2.6
    height = min(rows * 0.27, 9.0) + 2.6
    # Not pyplot: it keeps every figure in a global list and may open a window.
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", color=_INK, fontsize=12, fontweight="bold", wrap=True)
    bars, grid = figure.subplots(2, 1, sharex=True, height_ratios=(1.2, max(height - 2.6, 1.2)))
    _draw_sizes(bars, shown.sum(1))
    image = _draw_grid(grid, shown, classes)
    grid.set_xlabel("client" if total == clients else f"client (the first {clients} of {total:,})", color=_INK)
    if keys is not None:
        _draw_keys(bars, keys[:clients])
    bar = figure.colorbar(image, ax=grid, pad=0.01, aspect=30, shrink=0.9)
    bar.outline.set_visible(False)
    bar.set_label("samples of a class", color=_MUTED)
    bar.ax.tick_params(colors=_MUTED, length=0, labelsize=8)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DataError(f"the picture cannot be written to {str(path)!r}: {error}") from error


def _check(counts: Int64Array, classes: Sequence[str], keys: Sequence[str] | None) -> None:
    if counts.ndim != 2 or 0 in counts.shape:
        raise DataError(f"counts must be [clients, classes] with some of both, got shape {counts.shape}")
    if counts.shape[1] != len(classes):
        raise DataError(f"counts have {counts.shape[1]} classes, but {len(classes)} names are given")
    if keys is not None and len(keys) != len(counts):
        raise DataError(f"{len(counts)} clients but {len(keys)} keys")


def _draw_sizes(axes: "Axes", sizes: Int64Array) -> None:
    axes.bar(np.arange(len(sizes)), sizes, width=0.8, color=_BLUE, linewidth=0)
    axes.set_ylabel("samples", color=_MUTED)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(which="both", colors=_MUTED, length=0, labelsize=8, labelbottom=False)


def _draw_grid(axes: "Axes", counts: Int64Array, classes: Sequence[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    clients, rows = counts.shape
    colours = LinearSegmentedColormap.from_list("holdings", ["#ffffff", "#a9cfe3", _BLUE, "#012a4a"])
    image = axes.imshow(
        counts.T,
        cmap=colours,
        norm=PowerNorm(0.5, vmin=0, vmax=max(int(counts.max()), 1)),
        aspect="auto",
        interpolation="nearest",
    )
    step = max(1, -(-rows // 30))
    axes.set_yticks(range(0, rows, step), [str(name) for name in classes[::step]])
    every = next(step for step in (1, 2, 5, 10, 20, 50) if clients / step <= 40)
    axes.set_xticks(range(0, clients, every))
    axes.tick_params(colors=_INK, length=0, labelsize=8)
    axes.spines[:].set_color("#d1d5db")
    if clients <= 60:
        axes.set_xticks(np.arange(-0.5, clients), minor=True)
        axes.set_yticks(np.arange(-0.5, rows), minor=True)
        axes.grid(which="minor", color="#e5e7eb", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
    if clients <= 20 and rows <= 30:
        _write_counts(axes, counts)
    return image


def _write_counts(axes: "Axes", counts: Int64Array) -> None:
    dark = counts > 0.35 * counts.max()
    for (client, row), count in np.ndenumerate(counts):
        if count:
            colour = "white" if dark[client, row] else _INK
            axes.text(client, row, str(count), ha="center", va="center", fontsize=7, color=colour)


def _draw_keys(axes: "Axes", keys: Sequence[str]) -> None:
    groups = [(key, len(list(group))) for key, group in groupby(keys)]
    turned = {"rotation": 50, "ha": "left"} if len(groups) > 12 else {"ha": "center"}
    start = 0
    for number, (key, size) in enumerate(groups):
        axes.axvspan(start - 0.5, start + size - 0.5, color=_KEY_COLOURS[number % 2], zorder=-1, linewidth=0)
        place = (start + (size - 1) / 2, 1.04)
        axes.text(*place, key, transform=axes.get_xaxis_transform(), fontsize=8, color=_INK, **turned)
        start += size
