"""Run the rows of a study over its seeds and print the table: what an effect is, against what, and how sure.

A study is a YAML file: `config`, a bundled configuration; `seeds`, a list of overrides, one for each seed; `starts`,
runs whose final weights others begin from (`from`) or are given as a file (`files`, KEY: START); `rows`, one run for
each seed; `measure`, changes to the data under which the finished runs are measured for the table; `like`, another
study beside it, which gives the entries that this one leaves out. Every run has a folder of its own under --out, goes
on after a kill, and is left alone once it is complete. Each is a plain `fedbox run`, printed as it begins.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from fedbox.server.paired import t_interval
from fedbox.server.records import WHOLE, read_rounds

_LEAST_GAP = 0.01  # of which a share says anything


@dataclass(frozen=True)
class Job:
    """One run: the row and the seed that it belongs to, its folder, and its command line after `fedbox run`."""

    row: str
    seed: str
    out: Path
    arguments: list[str]
    after: frozenset[tuple[str, str]]

    @property
    def summary(self) -> dict[str, Any] | None:
        """Give summary.json of the finished run; None before."""
        path = self.out / "summary.json"
        summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return summary if summary.get("status") in WHOLE else None

    @property
    def stale(self) -> bool:
        """Say whether the folder holds a run with other settings than the study has now."""
        path = self.out.parent / f"{self.seed}.settings.json"
        return self.out.exists() and path.exists() and json.loads(path.read_text()) != self.settings

    @property
    def settings(self) -> list[str]:
        """The command line without the folder of the data, which may have moved."""
        return [argument for argument in self.arguments if not argument.startswith("data.root=")]


def read_study(path: Path) -> dict[str, Any]:
    """Read a study file; what it leaves out is taken from the one that it is `like`."""
    study: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read_study(path.parent / study.pop("like")) | study if "like" in study else study


def jobs(study: dict[str, Any], out: Path, rows: list[str], seeds: list[str]) -> Iterator[Job]:
    """Give the runs, seed by seed, each after those that it needs (which the file names earlier)."""
    every = {**study.get("starts", {}), **study["rows"]}
    wanted = {*(rows or study["rows"])}
    while more := {start for name in wanted for start in starts_of(every[name])} - wanted:
        wanted |= more
    for seed, overrides in study["seeds"].items():
        if seeds and str(seed) not in seeds:
            continue
        for name, row in every.items():
            if name not in wanted:
                continue
            given = {**study.get("all", {}), **overrides}
            if "from" in row:
                given |= {**study.get("after", {}), "model.weights": model_of(out, row["from"], seed)}
            given |= row.get("set", {}) | {k: model_of(out, start, seed) for k, start in row.get("files", {}).items()}
            arguments = [study["config"]] + [f"{k}={json.dumps(v)}" for k, v in given.items()]
            starts = frozenset((start, str(seed)) for start in starts_of(row))
            yield Job(name, str(seed), out / name / str(seed), arguments, starts)


def starts_of(row: dict[str, Any]) -> list[str]:
    """Give the runs whose final weights a row needs."""
    return [*([row["from"]] if "from" in row else []), *row.get("files", {}).values()]


def model_of(out: Path, start: str, seed: object) -> str:
    """Give where a run leaves its final weights."""
    return str(out / start / str(seed) / "model.safetensors")


def run(job: Job) -> None:
    """Run one job in a process of its own, unless it is complete."""
    if job.summary is None:
        job.out.parent.mkdir(parents=True, exist_ok=True)
        (job.out.parent / f"{job.seed}.settings.json").write_text(json.dumps(job.settings))
        resume = ["--resume"] if (job.out / "config.yaml").exists() else []
        command = ["run", *job.arguments, "--workers", "1", "-q", "--out", str(job.out), *resume]
        print("fedbox", *command, flush=True)
        with (job.out.parent / f"{job.seed}.log").open("w") as log:
            subprocess.run([sys.executable, "-m", "fedbox", *command], stdout=log, stderr=log, check=False)
    if job.summary is None:
        print(f"{job.row}, {job.seed}: failed, see {job.out}.log", file=sys.stderr, flush=True)


def run_all(listed: list[Job], at_once: int) -> bool:
    """Run the jobs, each as soon as the one before it is done; give whether all are complete."""
    waiting, running = list(listed), dict[Future[None], Job]()
    with ThreadPoolExecutor(at_once) as pool:
        while waiting or running:
            pending = {(job.row, job.seed) for job in [*waiting, *running.values()]}
            failed = {(job.row, job.seed) for job in listed if job.summary is None} - pending
            waiting = [job for job in waiting if not job.after & failed]
            for job in [job for job in waiting if not job.after & pending][: at_once - len(running)]:
                waiting.remove(job)
                running[pool.submit(run, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                future.result()
    return all(job.summary is not None for job in listed)


def metrics(job: Job, last: int) -> dict[str, float]:
    """Give the finished run's metrics, each the mean of its last `last` values; empty before."""
    if job.summary is None:
        return {}
    values: dict[str, list[float]] = {}
    for line in read_rounds(job.out / "rounds.jsonl"):
        for name, number in {**line["metrics"], **by_samples(line["clients"])}.items():
            if number is not None:
                values.setdefault(name, []).append(number)
    return {name: statistics.fmean(found[-last:]) for name, found in values.items()}


def by_samples(clients: dict[str, dict[str, float]]) -> dict[str, float]:
    """Give `by_samples.NAME`, the clients' metrics weighted by their test samples: one sample, one vote."""
    measured = [client for client in clients.values() if client.get("test_examples")]
    total = sum(client["test_examples"] for client in measured)
    first = measured[0] if measured else {}
    names = [name for name in first if all(client.get(name) is not None for client in measured)]  # NaN is written null
    return {
        f"by_samples.{name}": sum(client[name] * client["test_examples"] for client in measured) / total
        for name in names
    }


def value(found: dict[str, float], column: str) -> float | None:
    """Give a column's value: names of metrics, joined by " + " where the mean of several is meant; None without.

    A name may stand for several: `map50_by_domain.cloudy,rainy`; `map50_by_domain.*` is all of them.
    """
    names: list[str] = []
    for path in column.split(" + "):
        head, dot, tail = path.rpartition(".")
        if tail == "*":
            names += [name for name in found if name.startswith(head + dot)] or [path]
        else:
            names += [head + dot + part for part in tail.split(",")]
    return statistics.fmean(found[name] for name in names) if all(name in found for name in names) else None


Cells = dict[str, dict[str, dict[str, float]]]
"""Values by row, column and seed."""
Again = Mapping[Path, Mapping[str, float]]
"""Metrics that count in place of a run's own, by its folder."""


def several(entry: str | list[str]) -> list[str]:
    """Give an entry that names one or several as a list."""
    return [entry] if isinstance(entry, str) else entry


def cells_of(study: dict[str, Any], runs: list[Job], again: Again) -> Cells:
    """Give what the table is made of; of a column's paths the first one counts that a run has."""
    cells: Cells = {}
    for job in runs:
        found = {**metrics(job, study.get("last", 1)), **again.get(job.out, {})}
        for name, paths in study["columns"].items():
            values = [value(found, path) for path in several(paths)]
            known = [number for number in values if number is not None]
            if known:
                cells.setdefault(job.row, {}).setdefault(name, {})[job.seed] = known[0]
    return cells


def table(study: dict[str, Any], runs: list[Job], again: Again = MappingProxyType({})) -> str:
    """Give the table in Markdown: mean and standard deviation over seeds, shares of the gap, paired differences."""
    cells, columns = cells_of(study, runs, again), list(study["columns"])
    pair = study.get("pair")
    pairs = several(pair["of"]) if pair else []
    heads = ["row", "seeds", *columns, *(f"{name} less that of {pair['row']}" for name in pairs)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row, found in cells.items():
        shown = [spread(list(found.get(name, {}).values())) + share_of_gap(study, cells, row, name) for name in columns]
        shown += ["" if row == pair["row"] else lead(differences(cells, row, pair["row"], name)) for name in pairs]
        count = max(len(by_seed) for by_seed in found.values())
        lines.append("| " + " | ".join([row, str(count), *shown]) + " |")
    return "\n".join(lines)


def curves(study: dict[str, Any], runs: list[Job]) -> str:
    """Give what the study asks for by `curve`: a metric after some of the rounds, mean and deviation over the seeds."""
    name, rounds = study["curve"]["of"], study["curve"]["at"]
    lines = ["| row | " + " | ".join(str(number) for number in rounds) + " |", "|" + "---|" * (len(rounds) + 1)]
    found: dict[str, dict[int, list[float]]] = {}
    for job in runs:
        if job.summary is None:
            continue
        for line in read_rounds(job.out / "rounds.jsonl"):
            if line["metrics"].get(name) is not None:
                found.setdefault(job.row, {}).setdefault(line["round"], []).append(line["metrics"][name])
    for row, at in found.items():
        lines.append(f"| {row} | " + " | ".join(spread(at.get(number, [])) for number in rounds) + " |")
    return "\n".join(lines)


def differences(cells: Cells, row: str, other: str, column: str) -> list[float]:
    """Give one row's values less another's, for the seeds that both have."""
    mine, theirs = (cells.get(each, {}).get(column, {}) for each in (row, other))
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def share_of_gap(study: dict[str, Any], cells: Cells, row: str, column: str) -> str:
    """Give the mean share of the gap that the row closes, in brackets.

    Nothing where none is asked for, or where a seed has no gap: a share of next to nothing would be the whole mean.
    """
    gap = study.get("gap")
    if gap is None or column not in gap["of"] or row in (gap["from"], gap["to"]):
        return ""
    at = {name: cells.get(name, {}).get(column, {}) for name in (row, gap["from"], gap["to"])}
    low, high = at[gap["from"]], at[gap["to"]]
    seeds = [seed for seed in at[row] if seed in low.keys() & high]
    if not seeds or min(high[seed] - low[seed] for seed in seeds) < _LEAST_GAP:
        return ""
    shares = [(at[row][seed] - low[seed]) / (high[seed] - low[seed]) for seed in seeds]
    return f" ({100 * statistics.fmean(shares):.0f} %)"


def spread(values: list[float], form: str = ".3f") -> str:
    """Give mean and standard deviation; a single value has none."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def lead(values: list[float]) -> str:
    """Give mean and standard deviation of paired differences and, from three on, the mean's 95 % interval."""
    low, high = t_interval(values) if len(values) > 2 else (math.nan, math.nan)
    return spread(values, "+.3f") + (f" ({low:+.3f} to {high:+.3f})" if math.isfinite(low) else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a study file, such as benchmarks/studies/scenes-fedsto.yaml")
    parser.add_argument("--out", type=Path, help="folder of the runs (default: runs/studies/NAME)")
    parser.add_argument("--rows", nargs="+", default=[], help="these rows only")
    parser.add_argument("--seeds", nargs="+", default=[], help="these seeds only")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for every run")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each (default: 2)")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    options = parser.parse_args()
    study = read_study(options.study)
    unknown = [row for row in options.rows if row not in study["rows"]]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(study['rows'])}")
    given = {key: yaml.safe_load(text) for key, _, text in (word.partition("=") for word in options.set)}
    study["all"] = {**study.get("all", {}), **given}
    out = options.out or Path("runs/studies") / options.study.stem
    listed = list(jobs(study, out, options.rows, options.seeds))
    if stale := [str(job.out) for job in listed if job.stale]:
        parser.error(f"run with other settings than the study has now; remove them or give --out: {', '.join(stale)}")
    complete = True
    if not options.table:
        complete = run_all(listed, options.jobs)
    shown = [job for job in listed if job.row in study["rows"]]
    again = {}
    if "measure" in study:
        from again import measure_all  # beside this file; it takes seconds to import

        again = measure_all([job.out for job in shown if job.summary is not None], study["measure"], options.jobs)
    print(table(study, shown, again))
    if "curve" in study:
        print(f"\n{study['curve']['of']} after so many rounds:\n{curves(study, shown)}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
