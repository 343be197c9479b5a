"""The report: run folders in, one self-contained HTML page out.

A page opens on the final figures of all runs, then shows curves, the spread over clients, bytes, time,
failures and configurations. Runs that differ only in seed, name or engine form one group: mean and standard deviation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..configs.faults import some
from ..strategies.atomic import write_atomic
from .charts import Chart, line_chart, stack_chart
from .curves import all_series, curve_charts, sent, sent_so_far
from .examples import KINDS, Example, by_domain
from .groups import Group, figures, group_differences, group_runs, main_metric, phases
from .marks import Marks
from .page import page
from .runs import ReportError, load_run
from .sections import SPREAD_HEADS, client_charts, holding_charts, landmark_sections, pseudo_strips, timelines
from .stats import byte_unit, duration, finite, human_bytes
from .tables import answer, environment, failures, final_columns, final_rows, notes, words

Pictures = tuple[str, int, dict[str, list[Example]]]


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the report of `runs` as one HTML file to `out` (a folder: report.html in it); give its path.

    The same folders give the same bytes. Raises ReportError if `runs` is empty or one of them holds no run.
    """
    folders = list({Path(run).resolve(): Path(run) for run in runs}.values())
    if not folders:
        raise ReportError("no run folder was given; give one or more folders that runs wrote")
    out = Path(out)
    if out.is_dir():
        out = out / "report.html"
    text = report_text(folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text.encode(errors="replace"))
    return out


def report_text(folders: Sequence[Path], live: Mapping[str, Any] | None = None) -> str:
    """Give the report of runs as HTML; `live` is what the page of `fedbox watch --web` says of the run above it.

    Raises ReportError if one of the folders holds no run.
    """
    return _render(group_runs([load_run(folder) for folder in folders]), live)


def _cost_charts(groups: Sequence[Group], marks: Marks) -> tuple[list[Chart], list[Chart]]:
    """Draw the bytes of each round and their sum so far; and where the seconds of a round go."""
    charts: list[Chart] = []
    for key, title, pick in (
        ("bytes", "bytes of each round", sent),
        ("sum", "bytes so far", sent_so_far),
    ):
        lines = all_series(groups, pick)
        size, unit = byte_unit(max((y for one in lines for y in finite(one.y)), default=0))
        lines = [replace(s, y=[y / size for y in s.y], spread=[e / size for e in s.spread]) for s in lines]
        if lines:
            charts.append(line_chart(key, title, "round", f"{unit}, up and down", lines, zero=True, marks=marks))
    bars = []
    for group in groups:
        told = [phases(r) for run in group.used for r in run.rounds]
        names = dict.fromkeys(name for parts in told for name in parts)
        if names:
            mean = {name: math.fsum(parts.get(name, 0.0) for parts in told) / len(told) for name in names}
            bars.append((group.label, group.index, mean))
    return charts, [stack_chart("seconds", "seconds of a round, by phase", "seconds", bars)] if bars else []


def _pictures(groups: Sequence[Group]) -> tuple[list[Pictures], dict[str, str]]:
    """Give each run's pictures by domain, under its label and group; and the kinds of boxes in them."""
    shown = [(g.run_label(run), g.index, by_domain(run.examples)) for g in groups for run in g.runs if run.examples]
    used = {kind for g in groups for run in g.runs for example in run.examples for kind in example.boxes}
    return shown, {kind: name for kind, name in KINDS.items() if kind in used}


def _render(groups: Sequence[Group], live: Mapping[str, Any] | None) -> str:
    import yaml

    runs = [(group.run_label(run), run) for group in groups for run in group.runs]
    names = list(dict.fromkeys(run.name for _, run in runs))
    metric = main_metric([run for _, run in runs])
    told = [figures(run, metric) for _, run in runs]
    columns = final_columns(metric, told)
    rows = final_rows(groups, columns, metric)
    curves = curve_charts(groups, metric)
    return page(
        "report.html",
        live=live,
        title=some(names, 3),
        answer=answer(rows, metric),
        sent=human_bytes(math.fsum(finite([one[key] for one in told for key in ("bytes_up", "bytes_down")]))),
        took=duration(math.fsum(finite([one["seconds"] for one in told]))),
        metric=metric,
        groups=groups,
        runs=runs,
        columns=columns,
        rows=rows,
        words=words(rows),
        notes=notes(groups, metric),
        curves=curves,
        examples=_pictures(groups),
        clients=client_charts(groups, metric, curves.marks),
        spread_heads=SPREAD_HEADS,
        pseudo=pseudo_strips(groups),
        holdings=holding_charts(groups),
        timeline=timelines(groups),
        landmarks=landmark_sections(groups),
        costs=_cost_charts(groups, curves.marks),
        failures=failures(groups),
        differences=group_differences(groups),
        environment=environment(runs),
        dump=lambda config: yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )
