"""A comparison as files: Markdown, CSV, LaTeX, HTML, and the picture of its curves."""

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..strategies.atomic import write_atomic
from .compare import CompareRow, Target
from .curves import all_series, curve_charts, metric_curve
from .groups import Group, figures
from .page import page
from .paired import EXACT_UP_TO
from .stats import ABSENT, duration, human_bytes, number, plus_minus
from .svg import few_points
from .tables import answer, final_columns, final_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "±": r"$\pm$", ABSENT: "--", ">=": r"$\geq$"}
_TEX |= {
    "<=": r"$\leq$",
    "{": r"\{",
    "}": r"\}",
    "<": "$<$",
    ">": "$>$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


_ALIKE = {
    "model": "All {seeds} seeds of {label} gave the same model to the last bit: did the seed reach anything? One "
    "result tells no deviation and no interval.",
    "value": "All {seeds} seeds of {label} ended on the same {metric}, though their models differ: so few values "
    "tell no deviation and no interval; measure on more samples, or take more seeds.",
}


def headings(metric: str, target: Target | None) -> list[str]:
    """Give the heads of the table's columns."""
    heads = ["", "seeds", f"{metric}, mean ± std", "95 % interval", "difference", "its 95 % interval"]
    heads += ["p, paired t", "p, sign flips"]
    return heads + ([f"reached {target}", "rounds to it", "bytes to it", "time to it"] if target else [])


def cells(rows: Sequence[CompareRow]) -> list[list[str]]:
    """Give the table's rows as text; p-values are those after Holm's correction."""
    table = []
    for row in rows:
        line = [row.label, str(len(row.seeds)), plus_minus(row.mean, row.std), _span(row.low, row.high)]
        line += [_signed(row.difference), _span(row.difference_low, row.difference_high)]
        line += [_p(row.p_t_holm), _p(row.p_flip_holm)]
        if cost := row.cost:
            line += [f"{cost.reached} of {cost.runs}", _rounds(cost.rounds)]
            line += [human_bytes(cost.bytes), duration(cost.seconds)]
        table.append(line)
    return table


def _span(low: float, high: float) -> str:
    return f"{_fixed(low)} to {_fixed(high)}" if math.isfinite(low) else ABSENT


def _fixed(value: float) -> str:
    """Write a difference, or an end of its interval, with as many places as the values themselves have."""
    return f"{value:.4f}" if abs(value) < 0.001 else number(value)


def _signed(value: float) -> str:
    return ABSENT if math.isnan(value) else ("+" if value > 0 else "") + _fixed(value)


def _rounds(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value:.1f}".removesuffix(".0")


def _p(value: float) -> str:
    return ABSENT if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def explain(rows: Sequence[CompareRow], metric: str, target: Target | None) -> list[str]:
    """Say in sentences how the table's figures were made and what limits them."""
    counts = [row.pairs for row in rows[1:] if row.pairs] or [len(row.seeds) for row in rows if row.seeds]
    fewest = min(counts, default=0)
    many = len(rows) > 2
    text = [
        f"{metric} is that of the last round. Mean and sample standard deviation over seeds; Student's t interval.",
        f"Differences are those to {rows[0].label}, seed by seed. Two-sided p-values of the paired t-test (normal "
        "differences) and of the exact sign-flip permutation test (symmetric ones)"
        + (f", each corrected by Holm's method over {len(rows) - 1} rows." if many else "."),
    ]
    text += [
        f"{row.missing} of {row.missing + len(row.seeds)} runs of {row.label} failed, broke off, or ended on a value "
        f"of {metric} that is not finite: no figure but the count of those that reached a target has them."
        for row in rows
        if row.missing
    ]
    text += [
        f"{row.label} and {rows[0].label} have "
        + (f"{row.pairs} seeds in common, on which difference and tests rest." if row.pairs else "no seed in common.")
        for row in rows[1:]
        if row.pairs < max(len(row.seeds), len(rows[0].seeds))
    ]
    text += [
        _ALIKE[row.alike].format(seeds=len(row.seeds), label=row.label, metric=metric) for row in rows if row.alike
    ]
    if 2 <= fewest <= EXACT_UP_TO:
        text.append(f"With {fewest} seeds no sign-flip p-value is below {2 / 2**fewest:.3g} before the correction.")
    if max(counts, default=0) > EXACT_UP_TO:
        text.append(f"Above {EXACT_UP_TO} seeds the sign-flip test is left out.")
    if fewest == 1:
        text.append("One seed has no deviation, no interval and no test; take at least three, better five.")
    if target:
        text.append("Rounds, bytes and time to the target are means over the runs that reached it.")
    return text


def markdown(rows: Sequence[CompareRow], metric: str, target: Target | None) -> str:
    """Give the table in Markdown, with the sentences below."""
    lines = [headings(metric, target), ["---"] * len(headings(metric, target)), *cells(rows)]
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return table + "\n\n" + "\n".join(explain(rows, metric, target)) + "\n"


def csv_text(rows: Sequence[CompareRow]) -> str:
    """Give all figures at full precision, raw p-values too; an empty cell is an unknown figure."""
    names = ["label", "seeds", "mean", "std", "low", "high", "difference", "difference_low", "difference_high"]
    names += ["p_t", "p_t_holm", "p_flip", "p_flip_holm", "pairs", "missing"]
    cost = ["reached", "runs", "rounds", "bytes", "seconds"] if rows and rows[0].cost else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names + ([f"target_{name}" for name in cost]))
    for row in rows:
        values = [" ".join(row.seeds) if name == "seeds" else getattr(row, name) for name in names]
        values += [getattr(row.cost, name) for name in cost]
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in values])
    return out.getvalue()


def latex(rows: Sequence[CompareRow], metric: str, target: Target | None) -> str:
    """Give the table in LaTeX, for the package booktabs; the sentences stand in comments.

    It comes as two or three tables, of values, of differences and of costs, since a page is not wide enough for all.
    """
    table = [headings(metric, target), *cells(rows)]
    lines = [f"% {sentence}" for sentence in explain(rows, metric, target)]
    for first, last in [(1, 4), (4, 8), (8, len(table[0]))]:
        if first < last:
            lines += ["", *_tabular([[line[0], *line[first:last]] for line in table])]
    return "\n".join(lines) + "\n"


def _tabular(table: Sequence[Sequence[str]]) -> list[str]:
    head, *body = (" & ".join(map(_tex, line)) + r" \\" for line in table)
    columns = "l" + "r" * (len(table[0]) - 1)
    begin = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
    return [*begin, *body, r"\bottomrule", r"\end{tabular}"]


def _tex(text: str) -> str:
    text = text.replace("\\", "/")
    for sign in sorted(_TEX, key=lambda sign: sign not in "{}"):  # braces first: the others bring their own
        text = text.replace(sign, _TEX[sign])
    return re.sub(r"(^|(?<=to ))-(?=\d)", "$-$", text)


def html(rows: Sequence[CompareRow], groups: Sequence[Group], metric: str, target: Target | None) -> str:
    """Give one self-contained page: the answer, the table, the sentences, the curves with their bands."""
    told = final_columns(metric, [figures(run, metric) for group in groups for run in group.runs])
    return page(
        "compare.html",
        title=f"{metric} of {len(rows)} rows",
        answer=answer(final_rows(groups, told, metric), metric),
        headings=headings(metric, target),
        cells=cells(rows),
        sentences=explain(rows, metric, target),
        groups=groups,
        charts=curve_charts(groups, metric).main,
        examples=([], {}),  # the styles are the report's, which may hold pictures
    )


def picture(groups: Sequence[Group], metric: str) -> bytes:
    """Draw the metric over rounds as a PNG: a line for the mean over seeds, a band of one deviation to either side."""
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # a label may hold a dollar sign
        drawn(groups, metric).savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


def drawn(groups: Sequence[Group], metric: str) -> "Figure":
    """Give that picture as matplotlib has it."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for one in all_series(groups, metric_curve(metric)):
        y, spread = np.asarray(one.y), np.nan_to_num(np.asarray(one.spread))
        style, dots = ("-", "--", "-.", ":")[one.index % 4], "o" if few_points(one.y) else None
        (line,) = axes.plot(one.x, y, label=one.label, linestyle=style, marker=dots, markersize=4)
        axes.fill_between(one.x, y - spread, y + spread, alpha=0.2, linewidth=0, color=line.get_color())
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel(metric)
    axes.grid(visible=True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return figure


def write_comparison(
    folder: Path, groups: Sequence[Group], rows: Sequence[CompareRow], metric: str, target: Target | None
) -> list[Path]:
    """Write compare.md, .csv, .tex, .html and .png into a folder; give their paths."""
    texts = {
        "md": markdown(rows, metric, target),
        "csv": csv_text(rows),
        "tex": latex(rows, metric, target),
        "html": html(rows, groups, metric, target),
    }
    files = {folder / f"compare.{kind}": text.encode(errors="replace") for kind, text in texts.items()}
    files[folder / "compare.png"] = picture(groups, metric)
    for path, data in files.items():
        write_atomic(path, data)
    return list(files)
