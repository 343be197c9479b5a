"""Sections of the report beside figures and curves: fairness, pseudo-labels, holdings, timeline, landmarks."""

import math
from collections.abc import Sequence

from .charts import Chart, Strip, line_chart, strip_chart
from .curves import DIAGNOSTIC, all_series
from .groups import Group, client_values
from .heat import Heat, heat_chart
from .holdings import Holdings
from .landmarks import LandmarkCharts, landmark_charts
from .marks import Marks
from .records import lower_is_better
from .runs import RunRecord
from .stats import finite, gini, mean_std, natural, number, quantile, worst_decile
from .timeline import chosen, timeline_chart, timing_row

MAX_SHOWN = 4
"""Runs of which a timeline or landmarks are drawn, the first of each group."""
SPREAD_HEADS = ["run", "clients", "mean", "std", "worst tenth", "Gini"]
SPREAD_HEADS += ["least", "lower quartile", "median", "upper quartile", "most"]

Shown = list[tuple[str, int, list[Chart]]]


def client_charts(groups: Sequence[Group], metric: str, marks: Marks) -> tuple[list[Chart], list[list[str]]]:
    """Draw what clients reached, how fair that is over the rounds, and how many examples they hold; tabulate it."""
    runs = [(g.run_label(run), g.index, run) for g in groups for run in g.runs]
    keys = (metric, "accuracy", "train_loss", "loss")
    name = next((key for key in keys if any(client_values(run, (key,))[1] for _, _, run in runs)), "")
    strips = [Strip(label, i, v) for label, i, run in runs if (v := client_values(run, (name,))[1])]
    charts = [strip_chart("spread", f"{name} of each client, last evaluation", name, strips)] if strips else []
    held = [Strip(label, i, v) for label, i, run in runs if (v := last_told(run, "examples"))]
    if len(held) > 1 and all(one.values == held[0].values for one in held):
        held = [Strip("all runs alike", None, held[0].values)]
    if held:
        charts.append(strip_chart("examples", "examples of each client", "examples", held))
    charts += _fairness(groups, name, marks) if name else []
    rows = []
    for strip in strips:
        values = finite(list(strip.values.values()))
        worst = worst_decile(values, low_is_bad=not lower_is_better(name))
        numbers = (*mean_std(values), worst, gini(values), *(quantile(values, q) for q in (0, 0.25, 0.5, 0.75, 1)))
        rows.append([strip.label, str(len(values)), *map(number, numbers)])
    return charts, rows


def _fairness(groups: Sequence[Group], name: str, marks: Marks) -> list[Chart]:
    """Draw the worst tenth and the Gini coefficient of the clients over the rounds that measured more than one."""

    def told(run: RunRecord) -> dict[int, list[float]]:
        rows = {r.round: finite([v[name] for v in r.clients.values() if name in v]) for r in run.rounds}
        return {round_: values for round_, values in rows.items() if len(values) > 1}

    def worst(run: RunRecord) -> dict[int, float]:
        return {r: worst_decile(v, low_is_bad=not lower_is_better(name)) for r, v in told(run).items()}

    def uneven(run: RunRecord) -> dict[int, float]:
        return {r: gini(v) for r, v in told(run).items()}

    charts = []
    for key, title, pick in (
        ("worst", f"{name}, worst tenth of the clients", worst),
        ("gini", f"{name}, Gini coefficient over the clients", uneven),
    ):
        lines = all_series(groups, pick)
        if any(len(finite(line.y)) > 1 for line in lines):
            label = "Gini" if key == "gini" else name
            charts.append(line_chart(key, title, "round", label, lines, zero=key == "gini", marks=marks))
    return charts


def pseudo_strips(groups: Sequence[Group]) -> list[Chart]:
    """Draw what each client last told of its pseudo-labels, a picture for each figure."""
    runs = [(g.run_label(run), g.index, run) for g in groups for run in g.runs]
    told = {key for _, _, run in runs for r in run.rounds for row in r.clients.values() for key in row}
    charts = []
    for key in sorted(key for key in told if key.startswith(DIAGNOSTIC)):
        shown = [Strip(label, i, v) for label, i, run in runs if (v := last_told(run, key))]
        charts.append(strip_chart(f"client-{key}", f"{key} of each client, as last told", key, shown))
    return charts


def last_told(run: RunRecord, key: str) -> dict[str, float]:
    """Give a value of each client, as last told: a cohort names only some of the clients."""
    return {name: v[key] for r in run.rounds for name, v in r.clients.items() if key in v}


def holding_charts(groups: Sequence[Group]) -> list[Chart]:
    """Draw who holds what, once for each way in which the runs' data was dealt."""
    ways: dict[Holdings, list[tuple[str, str]]] = {}
    for group in groups:
        for run in group.runs:
            if run.holdings is not None:
                ways.setdefault(run.holdings, []).append((group.run_label(run), run.seed))
    seeds = [{seed for _, seed in runs} for runs in ways.values()]
    by_seed = sum(map(len, seeds)) == len(set().union(*seeds)) if seeds else False
    charts = []
    for i, ((held, runs), mine) in enumerate(list(zip(ways.items(), seeds, strict=True))[:MAX_SHOWN]):
        labels = [label for label, _ in runs]
        whose = f": {', '.join(labels[:3])}{' and more' if len(labels) > 3 else ''}" if len(ways) > 1 else ""
        if len(ways) > 1 and by_seed:
            whose = f", seed {', '.join(sorted(mine, key=natural))}"
        charts.append(_holding_chart(f"held{i}", f"training samples by class and client{whose}", held))
    return charts


def _holding_chart(key: str, title: str, held: Holdings) -> Chart:
    columns = [_column(name) for name in held.names]
    counts = [list(row) for row in held.training]
    labelled = [sum(row) for row in held.labelled]
    if any(held.server):
        columns, counts, labelled = ["server", *columns], [list(held.server), *counts], [sum(held.server), *labelled]
    tops = [(float(n), float(sum(row) - n)) for n, row in zip(labelled, counts, strict=True)]
    values = [[float(row[i]) for row in counts] for i in range(len(held.classes))]
    notes = []
    if held.clients > len(held.names):
        notes.append(f"The first {len(held.names)} of {held.clients:,} clients.")
    if any(later for _, later in tops) and any(first for first, _ in tops):
        notes.append("Of the bars the full part is labelled, the pale one unlabelled.")
    elif not any(first for first, _ in tops):
        notes.append("No sample is labelled.")
    heat = Heat(held.classes, columns, values, "class", "client", root=True, tops=tops, write=_count)
    return heat_chart(key, title, heat, " ".join(notes))


def _column(name: str) -> str:
    """Give `12` for client-12: the axis says that it is a client."""
    number_ = name.removeprefix("client-")
    return number_ if number_.isdigit() else name


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else ""


def timelines(groups: Sequence[Group]) -> tuple[Shown, list[list[str]]]:
    """Draw the slowest round and the last one of each group's first run; tabulate how busy its workers were."""
    runs = [(g.run_label(run), g.index, run) for g in groups for run in g.used[:1] if chosen(run.timings)]
    shown: Shown = []
    for label, index, run in runs[:MAX_SHOWN]:
        failed = {r.round: {f.get("client", ""): f.get("kind", "") for f in r.failures} for r in run.rounds}
        rounds = chosen(run.timings)[: 2 if len(runs) == 1 else 1]
        charts = [
            timeline_chart(f"time{index}-{i}", word, timing, failed.get(timing.round, {}))
            for i, (word, timing) in enumerate(rounds)
        ]
        shown.append((label, index, charts))
    return shown, [timing_row(label, run.timings) for label, _, run in runs]


def landmark_sections(groups: Sequence[Group]) -> list[tuple[str, int, LandmarkCharts]]:
    """Draw the landmarks of each group's first run that has any."""
    shown: list[tuple[str, int, LandmarkCharts]] = []
    for group in groups:
        run = next((run for run in group.used if run.landmarks is not None), None)
        if run is not None and run.landmarks is not None and len(shown) < MAX_SHOWN:
            classes = run.holdings.classes if run.holdings else ()
            charts = landmark_charts(f"mark{group.index}", run.landmarks, classes)
            shown.append((group.run_label(run), group.index, charts))
    return shown
