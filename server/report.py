"""The report: run folders in, one self-contained HTML page out.

A page opens on the final figures of all runs, then shows curves, the spread over clients, bytes, time,
failures and configurations. Runs that differ only in the seed form one group: mean and standard deviation.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from .charts import (
    ABSENT,
    COLOURS,
    DASHES,
    Chart,
    Series,
    Strip,
    byte_unit,
    duration,
    finite,
    human_bytes,
    line_chart,
    mean_std,
    natural,
    number,
    quantile,
    stack_chart,
    strip_chart,
    worst_decile,
)
from .checkpoint import write_atomic
from .records import lower_is_better

NAMING = ("seed", "name")  # what may differ between the runs of one group
PHASES = ("train", "aggregate", "evaluate", "checkpoint")
ENVIRONMENT = ("engine", "workers", "versions")
MAX_METRICS = 24
MAX_FAILURES = 25


class ReportError(ValueError):
    """A folder from which no report can be made."""

    exit_code = 3


@dataclass(frozen=True)
class RoundRecord:
    """One line of rounds.jsonl; a number that is null there is NaN here."""

    round: int
    metrics: dict[str, float]
    clients: dict[str, dict[str, float]]
    bytes_up: float
    bytes_down: float
    seconds: dict[str, float]
    failures: list[dict[str, str]]


@dataclass(frozen=True)
class RunRecord:
    """What one run folder holds; `notes` tell what was missing or unreadable."""

    path: Path
    config: dict[str, Any]
    rounds: tuple[RoundRecord, ...]
    summary: dict[str, Any]
    notes: tuple[str, ...] = ()

    def told(self, key: str) -> Any:
        """Give `key` from the summary, else from the configuration, else None."""
        return self.summary.get(key, self.config.get(key))

    @property
    def name(self) -> str:
        """The run's name, or its folder's."""
        return printable(self.told("name") or self.path.resolve().name or "run")

    @property
    def strategy(self) -> str:
        """The strategy's name, or a dash."""
        return printable(self.told("strategy") or ABSENT)

    @property
    def seed(self) -> str:
        """The seed as text, or a dash."""
        return printable(ABSENT if self.told("seed") is None else self.told("seed"))

    @property
    def status(self) -> str:
        """What the summary says, or `unfinished` where there is none (the run was killed, or still runs)."""
        return printable(self.summary.get("status") or "unfinished")


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed; `used` are those whose figures are averaged."""

    index: int
    label: str
    runs: tuple[RunRecord, ...]

    @property
    def used(self) -> tuple[RunRecord, ...]:
        """The completed runs, or all of them if none was completed."""
        return tuple(r for r in self.runs if r.status == "completed") or self.runs

    def run_label(self, run: RunRecord) -> str:
        """Name one run of the group."""
        return self.label if len(self.runs) == 1 else f"{self.label}, seed {run.seed}"


def printable(value: object) -> str:
    """Give text that HTML and XML can carry: each control character or lone surrogate becomes U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))


def load_run(path: Path) -> RunRecord:
    """Read a run folder; a file that is absent or broken leaves a note.

    Raises ReportError if there is no such folder, or if it holds neither a readable round nor a summary.
    """
    path = Path(path)
    if not path.is_dir():
        raise ReportError(f"{path}: no such folder; give the folder of a run, which holds rounds.jsonl")
    notes: list[str] = []
    config = _mapping(path / "config.yaml", _read_yaml, notes)
    summary = _mapping(path / "summary.json", json.loads, notes)
    rounds = _read_rounds(path / "rounds.jsonl", notes)
    if not rounds and not summary:
        inside = sorted(p.parent.name for p in path.glob("*/rounds.jsonl"))
        hint = f"give the runs in it: {', '.join(inside[:8])}" if inside else "give a folder that a run wrote"
        raise ReportError(f"{path}: no run here, as it has neither a round in rounds.jsonl nor a summary.json; {hint}")
    return RunRecord(path, config, rounds, summary, tuple(notes))


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
    page = _render(group_runs([load_run(folder) for folder in folders]))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page.encode(errors="replace"))
    return out


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Group runs whose configurations differ only in seed and name; the same seed twice makes a second group.

    A run without a configuration stands alone. Groups keep the order in which the runs were given.
    """
    found: dict[tuple[str, int], list[RunRecord]] = {}
    for run in runs:
        flat = {k: v for k, v in flatten(run.config).items() if k not in NAMING}
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


def main_metric(runs: Sequence[RunRecord]) -> str:
    """Give the metric the page opens on: accuracy, else one whose best value a run kept, else any."""
    seen = [metric for run in runs for record in run.rounds for metric in record.metrics]
    seen += [metric for run in runs for metric in _dict(run.summary.get("metrics"))]
    kept = [metric for run in runs for metric in _dict(run.summary.get("best"))]
    return next((m for m in ("accuracy", *kept, *seen) if m in seen), "accuracy")


def figures(run: RunRecord, metric: str) -> dict[str, float]:
    """Give a run's final figures, from its summary or else from its rounds; NaN for what is unknown."""
    curve = [(r.round, r.metrics[metric]) for r in run.rounds if metric in r.metrics]
    known = [point for point in curve if math.isfinite(point[1])]
    choose = min if lower_is_better(metric) else max
    at, best = choose(known, key=lambda point: point[1], default=(math.nan, math.nan))
    final = _dict(run.summary.get("metrics"))
    kept = _dict(_dict(run.summary.get("best")).get(metric))
    clients = list(client_values(run, (metric,))[1].values())
    sums = {
        "rounds": max((r.round for r in run.rounds), default=math.nan),
        "bytes_up": math.fsum(finite([r.bytes_up for r in run.rounds])),
        "bytes_down": math.fsum(finite([r.bytes_down for r in run.rounds])),
        "seconds": math.fsum(sum(phases(r).values()) for r in run.rounds),
    }
    return {key: _number(run.summary.get(key, value)) for key, value in sums.items()} | {
        "final": _number(final[metric]) if metric in final else curve[-1][1] if curve else math.nan,
        "best": _number(kept.get("value", best)),
        "best_round": _number(kept.get("round", at)),
        "client_mean": mean_std(clients)[0] if finite(clients) else _number(final.get(f"client_{metric}")),
        "client_worst": worst_decile(clients, low_is_bad=not lower_is_better(metric)),
        "peak": _number(run.summary.get("peak_rss_mb")),
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


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    """Read a file that holds one mapping; note why if it gives none."""
    if not path.is_file():
        notes.append(f"{path.name} is absent")
        return {}
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is unreadable and was ignored")
        return {}
    return {str(k): v for k, v in value.items()}


def _read_rounds(path: Path, notes: list[str]) -> tuple[RoundRecord, ...]:
    """Read rounds.jsonl; a broken line is noted and skipped, a later line for a round replaces an earlier."""
    if not path.is_file():
        notes.append(f"{path.name} is absent: no curves")
        return ()
    records: dict[int, RoundRecord] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _round(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            last = " (the last; the run was probably killed)" if place == len(lines) else ""
            notes.append(f"{path.name}: line {place}{last} is unreadable and was ignored")
            continue
        records[record.round] = record
    return tuple(records[r] for r in sorted(records))


def _round(raw: dict[str, Any]) -> RoundRecord:
    return RoundRecord(
        round=int(raw["round"]),
        metrics=_numbers(raw.get("metrics")),
        clients={printable(name): _numbers(told) for name, told in (raw.get("clients") or {}).items()},
        bytes_up=_number(raw.get("bytes_up")),
        bytes_down=_number(raw.get("bytes_down")),
        seconds=_numbers(raw.get("seconds")),
        failures=[{k: printable(v) for k, v in told.items()} for told in raw.get("failures") or []],
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(raw: Mapping[str, Any] | None) -> dict[str, float]:
    return {printable(key): _number(value) for key, value in (raw or {}).items()}


def _number(value: object) -> float:
    """Give a finite float, or NaN for everything else (null, text, NaN, infinity)."""
    try:
        known = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        known = math.nan
    return known if math.isfinite(known) else math.nan


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Name groups by run name; where names are equal add what tells them apart, at last a number."""
    names = [_common_name(group) for group in groups]
    if len(set(names)) == len(names):
        return names
    configs = [group[0].config for group in groups]
    strategies = [group[0].strategy for group in groups]
    labels = strategies if len(set(names)) == 1 else [f"{n}, {s}" for n, s in zip(names, strategies, strict=True)]
    for key, values in differences(configs).items():
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


@dataclass(frozen=True)
class Column:
    """A column of the final figures: which figure, how it is written, and which end is good (0: neither)."""

    key: str
    heading: str
    write: Callable[[float], str] = number
    good: int = 0


def _columns(metric: str, told: Sequence[dict[str, float]]) -> list[Column]:
    """Give the columns: final and best value always, the others if a run has the figure."""
    good = -1 if lower_is_better(metric) else 1
    columns = [
        Column("final", f"{metric}, final", number, good),
        Column("best", f"{metric}, best", number, good),
        Column("best_round", "best in round", _whole),
        Column("client_mean", "clients, mean", number, good),
        Column("client_worst", "clients, worst tenth", number, good),
        Column("rounds", "rounds", _whole),
        Column("bytes_up", "sent up", human_bytes, -1),
        Column("bytes_down", "sent down", human_bytes, -1),
        Column("seconds", "time", duration, -1),
        Column("peak", "peak memory", lambda mb: human_bytes(mb * 1e6), -1),
    ]
    return columns[:2] + [c for c in columns[2:] if any(math.isfinite(one[c.key]) for one in told)]


def _whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else ABSENT


@dataclass(frozen=True)
class Row:
    """A row of the final figures: a group (`run` is None if it has several) or one run of such a group."""

    label: str
    group: Group
    run: RunRecord | None
    head: bool
    seeds: str
    final: float
    fair: bool
    cells: list[tuple[str, str, bool]]  # the figure, its deviation over seeds, whether it is the best


def _table(groups: Sequence[Group], columns: Sequence[Column], metric: str) -> list[Row]:
    """Build the rows of the final figures: each group, marked where it is best, then its runs."""
    told = {id(run): figures(run, metric) for group in groups for run in group.runs}
    stats = [{c.key: mean_std([told[id(r)][c.key] for r in g.used]) for c in columns} for g in groups]
    # A run that did not end is cheaper and not as far, so only completed runs can be the best.
    fair = [group.used[0].status == "completed" for group in groups]
    best: dict[str, float] = {}
    for c in columns:
        means = finite([stat[c.key][0] for stat, ok in zip(stats, fair, strict=True) if ok])
        if c.good and len(set(means)) > 1:
            best[c.key] = max(means) if c.good > 0 else min(means)
    rows: list[Row] = []
    for group, stat, ok in zip(groups, stats, fair, strict=True):
        one = group.runs[0] if len(group.runs) == 1 else None
        seeds = ", ".join(run.seed for run in group.used)
        cells = [(*_cell(c, *stat[c.key]), ok and stat[c.key][0] == best.get(c.key)) for c in columns]
        rows.append(Row(group.label, group, one, True, seeds, stat["final"][0], ok, cells))
        for run in () if one else group.runs:
            cells = [(c.write(told[id(run)][c.key]), "", False) for c in columns]
            rows.append(Row(group.run_label(run), group, run, False, run.seed, math.nan, ok, cells))
    return rows


def _cell(column: Column, mean: float, std: float) -> tuple[str, str]:
    if column.key == "best_round" and math.isfinite(std):
        return "", ""  # a mean of round numbers says nothing
    return column.write(mean), f"± {column.write(std)}" if std > 0 else ""


Curve = dict[int, float]


def _metric(name: str) -> Callable[[RunRecord], Curve]:
    return lambda run: {r.round: r.metrics[name] for r in run.rounds if name in r.metrics}


def _bytes(run: RunRecord) -> Curve:
    return {r.round: math.fsum(finite([r.bytes_up, r.bytes_down])) for r in run.rounds}


def _bytes_so_far(run: RunRecord) -> Curve:
    each = _bytes(run)
    return dict(zip(each, itertools.accumulate(each.values()), strict=True))


def _all_series(groups: Sequence[Group], pick: Callable[[RunRecord], Curve], by: float = 0.0) -> list[Series]:
    """Give the curve of every group that has it; with `by`, against the bytes sent, in units of `by`."""
    at = (lambda run: {r: v / by for r, v in _bytes_so_far(run).items()}) if by else None
    return [one for group in groups if (one := series(group, pick, at))]


def _curve_charts(groups: Sequence[Group], metric: str) -> tuple[list[Chart], list[Chart], int]:
    """Draw the main metric over rounds and over bytes; every other metric; and count the metrics left out."""
    names = sorted({m for g in groups for run in g.used for r in run.rounds for m in r.metrics} - {metric})
    main: list[Chart] = []
    if lines := _all_series(groups, _metric(metric)):
        main.append(line_chart("main", f"{metric} over rounds", "round", metric, lines))
        size, unit = byte_unit(max(v for g in groups for run in g.used for v in _bytes_so_far(run).values()))
        lines = _all_series(groups, _metric(metric), size)
        main.append(line_chart("cost", f"{metric} against bytes sent", f"{unit} sent so far", metric, lines))
    others = [
        line_chart(f"m{i}", f"{name} over rounds", "round", name, lines)
        for i, name in enumerate(names[:MAX_METRICS])
        if (lines := _all_series(groups, _metric(name)))
    ]
    return main, others, len(names[MAX_METRICS:])


def _client_charts(groups: Sequence[Group], metric: str) -> tuple[list[Chart], list[list[str]]]:
    """Draw what clients reached and how many examples they hold; tabulate the spread of the former."""
    runs = [(g.run_label(run), g.index, run) for g in groups for run in g.runs]
    keys = (metric, "accuracy", "train_loss", "loss")
    name = next((key for key in keys if any(client_values(run, (key,))[1] for _, _, run in runs)), "")
    strips = [Strip(label, i, v) for label, i, run in runs if (v := client_values(run, (name,))[1])]
    charts = [strip_chart("spread", f"{name} of each client, last evaluation", name, strips)] if strips else []
    held = [Strip(label, i, v) for label, i, run in runs if (v := _examples(run))]
    if len(held) > 1 and all(one.values == held[0].values for one in held):
        held = [Strip("all runs alike", None, held[0].values)]
    if held:
        charts.append(strip_chart("examples", "examples of each client", "examples", held))
    rows = []
    for strip in strips:
        values = finite(list(strip.values.values()))
        worst = worst_decile(values, low_is_bad=not lower_is_better(name))
        numbers = (*mean_std(values), worst, *(quantile(values, share) for share in (0, 0.25, 0.5, 0.75, 1)))
        rows.append([strip.label, str(len(values)), *map(number, numbers)])
    return charts, rows


def _examples(run: RunRecord) -> dict[str, float]:
    """Give the examples of each client, as last told: a cohort names only some of the clients."""
    return {name: v["examples"] for r in run.rounds for name, v in r.clients.items() if "examples" in v}


def _cost_charts(groups: Sequence[Group]) -> tuple[list[Chart], list[Chart]]:
    """Draw the bytes of each round and their sum so far; and where the seconds of a round go."""
    sent: list[Chart] = []
    for key, title, pick in (
        ("bytes", "bytes of each round", _bytes),
        ("sum", "bytes so far", _bytes_so_far),
    ):
        lines = _all_series(groups, pick)
        size, unit = byte_unit(max((y for one in lines for y in finite(one.y)), default=0))
        lines = [replace(s, y=[y / size for y in s.y], spread=[e / size for e in s.spread]) for s in lines]
        if lines:
            sent.append(line_chart(key, title, "round", f"{unit}, up and down", lines, zero=True))
    bars = []
    for group in groups:
        told = [phases(r) for run in group.used for r in run.rounds]
        names = dict.fromkeys(name for parts in told for name in parts)
        if names:
            mean = {name: math.fsum(parts.get(name, 0.0) for parts in told) / len(told) for name in names}
            bars.append((group.label, group.index, mean))
    return sent, [stack_chart("seconds", "seconds of a round, by phase", "seconds", bars)] if bars else []


def _failures(groups: Sequence[Group]) -> tuple[int, list[str], list[list[str]]]:
    """Tabulate the failures one by one, or by run, kind and reason if there are more than MAX_FAILURES."""
    each = [
        (g.run_label(run), r.round, f.get("client", ABSENT), f.get("kind", ABSENT), f.get("reason", "")[:400])
        for g in groups for run in g.runs for r in run.rounds for f in r.failures
    ]  # fmt: skip
    if len(each) <= MAX_FAILURES:
        rows = [[label, client, kind, reason, str(at)] for label, at, client, kind, reason in each]
        return len(each), ["run", "client", "kind", "reason", "round"], rows
    found: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for label, at, client, kind, reason in each:
        found.setdefault((label, kind, reason), []).append((at, client))
    rows = []
    for (label, kind, reason), hits in sorted(found.items(), key=lambda item: -len(item[1])):
        rounds = [at for at, _ in hits]
        clients = sorted({client for _, client in hits}, key=natural)
        who = ", ".join(clients[:4]) + (f" and {len(clients) - 4} more" if len(clients) > 4 else "")
        when = f"{min(rounds)} to {max(rounds)}" if min(rounds) < max(rounds) else str(rounds[0])
        rows.append([label, who, kind, reason, when, str(len(hits))])
    return len(each), ["run", "clients", "kind", "reason", "rounds", "times"], rows


def _environment(runs: Sequence[tuple[str, RunRecord]]) -> tuple[list[str], list[list[str]]]:
    """Tabulate engine, workers and versions: one column if all runs agree, else one for each run."""
    told = [{str(k): v for k, v in r.summary.items() if k in ENVIRONMENT} for _, r in runs]
    flats = [{k.removeprefix("versions."): v.strip('"') for k, v in flatten(tree).items()} for tree in told]
    same = all(flat == flats[0] for flat in flats)
    names = list(dict.fromkeys(key for flat in flats for key in flat))
    shown = flats[:1] if same else flats
    heads = ["all runs"] if same and len(runs) > 1 else [label for label, _ in runs]
    return ["", *heads], [[printable(n), *(printable(f.get(n, ABSENT)) for f in shown)] for n in names]


def _answer(rows: Sequence[Row], metric: str) -> str:
    """Say in one sentence what came out: which group ended best in the main metric, and which came next."""
    heads = [row for row in rows if row.head and math.isfinite(row.final)]
    if not heads:
        return f"No run has a final {metric}."
    heads = [row for row in heads if row.fair] or heads
    first, *others = sorted(heads, key=lambda row: row.final, reverse=not lower_is_better(metric))
    text = f"{first.label} ended with {metric} {' '.join(first.cells[0][:2]).strip()}"
    if not others:
        best = first.cells[1][0]
        return f"{text}, its best value." if best == first.cells[0][0] else f"{text}; its best was {best}."
    place = "ahead of" if others[0].final != first.final else "level with"
    return f"{text}, {place} {others[0].label} with {' '.join(others[0].cells[0][:2]).strip()}."


def _notes(groups: Sequence[Group]) -> list[str]:
    """Give what the reader must know before trusting a figure: files absent or broken, runs not completed."""
    notes = [f"{g.run_label(run)}: {note}" for g in groups for run in g.runs for note in run.notes]
    for group in groups:
        for run in group.runs:
            if run not in group.used:
                notes.append(f"{group.run_label(run)}: {run.status}, so it is left out of the mean and the curves")
            elif run.status != "completed":
                notes.append(f"{group.run_label(run)}: {run.status}, so its figures are those of its last round")
    return notes


def _render(groups: Sequence[Group]) -> str:
    import yaml
    from jinja2 import Environment, StrictUndefined

    runs = [(group.run_label(run), run) for group in groups for run in group.runs]
    names = list(dict.fromkeys(run.name for _, run in runs))
    metric = main_metric([run for _, run in runs])
    told = [figures(run, metric) for _, run in runs]
    columns = _columns(metric, told)
    rows = _table(groups, columns, metric)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    return template.render(
        title=", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        answer=_answer(rows, metric),
        sent=human_bytes(math.fsum(finite([one[key] for one in told for key in ("bytes_up", "bytes_down")]))),
        took=duration(math.fsum(finite([one["seconds"] for one in told]))),
        metric=metric,
        groups=groups,
        runs=runs,
        columns=columns,
        rows=rows,
        notes=_notes(groups),
        curves=_curve_charts(groups, metric),
        clients=_client_charts(groups, metric),
        costs=_cost_charts(groups),
        failures=_failures(groups),
        differences=differences([g.runs[0].config for g in groups]),
        environment=_environment(runs),
        dump=lambda config: yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        dashes=DASHES,
        colours=COLOURS,
        naming=NAMING,
    )
