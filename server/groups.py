"""Runs that differ only in seed, name or engine form one group; its curves are means over its runs."""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Series
from .records import lower_is_better
from .runs import RoundRecord, RunRecord, as_dict, as_number
from .stats import ABSENT, SCORES, finite, gini, mean_std, natural, printable, worst_decile

NAMING = ("seed", "name")
FREE = (*NAMING, "engine")  # may differ between the runs of a group: the engine never changes a result
PHASES = ("train", "aggregate", "evaluate", "checkpoint")


@dataclass(frozen=True)
class Group:
    """Runs that differ only in seed, name or engine; `used` are those whose figures are averaged."""

    index: int
    label: str
    runs: tuple[RunRecord, ...]

    @property
    def used(self) -> tuple[RunRecord, ...]:
        """The runs that came to their end, or all of them if none did."""
        return tuple(r for r in self.runs if r.whole) or self.runs

    def run_label(self, run: RunRecord) -> str:
        """Name one run of the group."""
        return self.label if len(self.runs) == 1 else f"{self.label}, seed {run.seed}"


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Group runs whose configurations differ only in seed, name and engine; the same seed twice makes a second group.

    A run without a configuration stands alone. Groups keep the order in which the runs were given.
    """
    found: dict[tuple[str, int], list[RunRecord]] = {}
    for run in runs:
        flat = {k: v for k, v in flatten(run.config).items() if not _is_free(k)}
        key = json.dumps(flat, sort_keys=True) if flat else str(run.path.resolve())
        copies = 0
        while any(r.seed == run.seed for r in found.get((key, copies), [])):
            copies += 1
        found.setdefault((key, copies), []).append(run)
    members = [tuple(sorted(group, key=lambda r: natural(r.seed))) for group in found.values()]
    return [Group(i, label, m) for i, (label, m) in enumerate(zip(_labels(members), members, strict=True))]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted keys; each leaf becomes its JSON text, an empty mapping nothing."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
    return flat


def differences(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Give the dotted keys whose values differ between the trees, with the value of each (a dash: absent)."""
    flats = [flatten(tree) for tree in trees]
    keys = sorted({key for flat in flats for key in flat})
    rows = {key: [flat.get(key, ABSENT) for flat in flats] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def group_differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Give the options, seed and name aside, that differ between any two runs, with the values in each group."""
    sizes = [len(group.runs) for group in groups]
    table: dict[str, list[str]] = {}
    for key, row in differences([run.config for group in groups for run in group.runs]).items():
        if key not in NAMING:
            values = (value.strip('"') for value in row)
            table[key] = [", ".join(dict.fromkeys(itertools.islice(values, size))) for size in sizes]
    return table


def _is_free(key: str) -> bool:
    return key.partition(".")[0] in FREE


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Name groups by run name; where names are equal add what tells them apart, at last a number."""
    names = [_common_name(group) for group in groups]
    if len(set(names)) == len(names):
        return names
    configs = [group[0].config for group in groups]
    strategies = [group[0].strategy for group in groups]
    labels = strategies if len(set(names)) == 1 else [f"{n}, {s}" for n, s in zip(names, strategies, strict=True)]
    # What may differ inside a group tells two groups apart only when nothing else does.
    for key, values in sorted(differences(configs).items(), key=lambda item: _is_free(item[0])):
        longer = [f"{a}, {key.split('.')[-1]}={printable(v)[:20]}" for a, v in zip(labels, values, strict=True)]
        if key not in (*NAMING, "strategy") and len(set(longer)) > len(set(labels)):
            labels = longer
    counts = [labels[: i + 1].count(label) for i, label in enumerate(labels)]
    return [label if n == 1 else f"{label} ({n})" for label, n in zip(labels, counts, strict=True)]


def _common_name(group: Sequence[RunRecord]) -> str:
    """Give the name that the runs share, without a trailing `-seed1` or the like."""
    names = [run.name for run in group]
    if len(set(names)) == 1:
        return names[0]
    first, last = min(names), max(names)  # all share what the first and the last in order share
    prefix = "".join(a for i, a in enumerate(first) if last.startswith(first[: i + 1]))
    return re.sub(r"[-_ .]*(seed|s)?[-_ .=]*\d*$", "", prefix) or group[0].strategy


def main_metric(runs: Sequence[RunRecord]) -> str:
    """Give the metric the page opens on: the task's score, else one whose best value a run kept, else any."""
    seen = [metric for run in runs for record in run.rounds for metric in record.metrics]
    seen += [metric for run in runs for metric in as_dict(run.summary.get("metrics"))]
    kept = [metric for run in runs for metric in as_dict(run.summary.get("best"))]
    return next((m for m in (*SCORES, *kept, *seen) if m in seen), "accuracy")


def figures(run: RunRecord, metric: str) -> dict[str, float]:
    """Give a run's final figures, from its rounds or else from its summary; NaN for what is unknown."""
    curve = [(r.round, r.metrics[metric]) for r in run.rounds if metric in r.metrics]
    known = [point for point in curve if math.isfinite(point[1])]
    choose = min if lower_is_better(metric) else max
    at, best = choose(known, key=lambda point: point[1], default=(math.nan, math.nan))
    final = as_dict(run.summary.get("metrics"))
    kept = as_dict(as_dict(run.summary.get("best")).get(metric))
    clients = list(client_values(run, (metric,))[1].values())
    sums = {
        "rounds": max((r.round for r in run.rounds), default=math.nan),
        "bytes_up": math.fsum(finite([r.bytes_up for r in run.rounds])),
        "bytes_down": math.fsum(finite([r.bytes_down for r in run.rounds])),
        "seconds": math.fsum(sum(phases(r).values()) for r in run.rounds),
    }
    return {key: as_number(run.summary.get(key, value)) for key, value in sums.items()} | {
        # Of a metric that is no longer finite the summary keeps the last value that was.
        "final": curve[-1][1] if curve else as_number(final.get(metric)),
        "best": as_number(kept.get("value", best)),
        "best_round": as_number(kept.get("round", at)),
        "client_mean": mean_std(clients)[0] if finite(clients) else as_number(final.get(f"client_{metric}")),
        "client_worst": worst_decile(clients, low_is_bad=not lower_is_better(metric)),
        "client_gini": gini(clients),
        "peak": as_number(run.summary.get("peak_rss_mb")),
    }


def phases(record: RoundRecord) -> dict[str, float]:
    """Give the seconds of each phase of a round; what the total holds beyond them is `other`."""
    known = {k: v for k, v in record.seconds.items() if k != "total" and math.isfinite(v)}
    ordered = {k: known[k] for k in (*PHASES, *sorted(known.keys() - set(PHASES))) if k in known}
    rest = record.seconds.get("total", math.nan) - math.fsum(known.values())
    return ordered | ({"other": rest} if rest > 1e-6 else {})


def client_values(run: RunRecord, keys: Iterable[str]) -> tuple[str, dict[str, float]]:
    """Give the first of `keys` that clients carry, and its values in the last round that has any."""
    for key in keys:
        for record in reversed(run.rounds):
            values = {name: told[key] for name, told in record.clients.items() if key in told}
            if values:
                return key, values
    return "", {}


def series(
    group: Group,
    pick: Callable[[RunRecord], dict[int, float]],
    at: Callable[[RunRecord], dict[int, float]] | None = None,
) -> Series | None:
    """Average the curve `pick` over a group's runs, at the rounds they all have; None if there are none.

    A round in which one run's value is not finite is a gap. `at` gives the abscissa, by default the round.
    """
    tables = [(table, at(run) if at else {}) for run in group.used if (table := pick(run))]
    rounds = sorted(set.intersection(*(set(table) for table, _ in tables))) if tables else []
    if not rounds:
        return None
    columns = [[table[r] for table, _ in tables] for r in rounds]
    stats = [mean_std(c) if len(finite(c)) == len(c) else (math.nan, math.nan) for c in columns]
    x = [mean_std([places[r] for _, places in tables])[0] if at else float(r) for r in rounds]
    return Series(group.label, group.index, rounds, x, [mean for mean, _ in stats], [std for _, std in stats])
