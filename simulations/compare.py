"""`fedbox compare`: the grid of configurations, swept values and seeds, each a plain run in a folder of its own."""

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..client.driver import reason_of
from ..configs import Config, ConfigError, Fault, completed
from ..configs.faults import suggest
from ..server.checkpoint import differences
from ..server.compare import CompareRow, Target, compare_rows
from ..server.compare_files import write_comparison
from ..server.folder import FolderError, asked_for
from ..server.groups import Group, main_metric
from ..server.loop import RunFailedError
from ..server.report import write_report
from ..server.runs import RunRecord, load_run
from ..strategies.contract import UnsuitableError
from ..strategies.registry import PluginError
from .run import check, run_config

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One run of the grid: its row, its checked configuration, its folder."""

    label: str
    config: Config
    folder: Path

    @property
    def done(self) -> bool:
        """Whether the folder holds the finished run. Raises FolderError if it holds another one."""
        if not (self.folder / "config.yaml").is_file():
            return False
        try:
            before = completed(yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")))
            path = self.folder / "summary.json"
            summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (TypeError, ValueError, yaml.YAMLError) as error:
            raise FolderError(f"{self.folder} is damaged ({error}); remove it, or give another --out") from error
        other = differences(before, self.config.model_dump(mode="json"))
        if summary.get("rounds", 0) > self.config.rounds:
            other.append(f"rounds: the folder has {summary['rounds']}, this run wants {self.config.rounds}")
        if other:
            lines = "\n".join(f"  {line}" for line in other)
            raise FolderError(f"{self.folder} holds a run of another configuration; give another --out:\n{lines}")
        whole = summary.get("status") == "completed" and summary.get("rounds") == self.config.rounds
        # A resumed run may have another stop than before, so that `differences` passes over it; here it decides.
        stop, wanted = (config["evaluate"]["stop"] for config in (before, self.config.model_dump(mode="json")))
        if summary.get("status") == "stopped" and stop != wanted:
            raise FolderError(f"{self.folder} ended by evaluate.stop={stop}, this run has {wanted}; give another --out")
        return whole or summary.get("status") == "stopped"


def grid(
    sources: Sequence[str], changes: Sequence[str], sweeps: Sequence[str], seeds: Sequence[int], out: Path
) -> list[Cell]:
    """Give the runs, row by row. Raises ConfigError, also for a sweep that cannot be read."""
    axes = [_axis(text) for text in sweeps]
    keys = [*(axis[0][0] for axis in axes), *(text.partition("=")[0].strip() for text in changes)]
    if "seed" in keys:  # each row runs all seeds: one that is given here would be written over, a sweep's rows be equal
        problem = "the seeds of a comparison are given by --seeds: a number, as 5 for 0 to 4, or a list, as 3,7,11"
        raise ConfigError("compare", [Fault("seed", problem)])
    cells: list[Cell] = []
    labels: list[str] = []
    faults: dict[Fault, str] = {}
    for source, values in itertools.product(sources, itertools.product(*axes)):
        parts = [f"{key.split('.')[-1]}={value}" if key != "strategy" else value for key, value in values]
        if len(sources) > 1 or not parts:
            parts.insert(0, Path(source).stem)
        label = ", ".join(parts)
        if label in labels:
            raise ConfigError("compare", [Fault(label, "stands twice in the grid; name each row once")])
        labels.append(label)
        given = [*changes, *(f"{key}={value}" for key, value in values)]
        place = out / f"{len(labels):02d}-{re.sub(r'[^A-Za-z0-9._=-]+', '-', label)}"
        try:
            cells += [Cell(label, check(source, [*given, f"seed={s}"]), place / f"seed-{s}") for s in seeds]
        except ConfigError as error:  # the next row may have others
            faults |= {fault: error.source for fault in error.faults if fault not in faults}
    if faults:
        raise ConfigError(", ".join(dict.fromkeys(faults.values())), list(faults))
    return cells


def _axis(text: str) -> list[tuple[str, str]]:
    """Read `key=a,b,c`; commas inside brackets and quotes do not part values."""
    key, sign, values = text.partition("=")
    found, depth, quote = [""], 0, ""
    for letter in values:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not found[-1].strip("[{ "):  # YAML's quotes begin a value
            quote = letter
        elif letter in "[{]}":
            depth += 1 if letter in "[{" else -1
        elif letter == "," and depth == 0:
            found.append("")
            continue
        found[-1] += letter
    found = [value for value in found if value.strip()]
    if not sign or not key.strip() or not found:
        raise ConfigError("compare", [Fault(text, "a sweep is written key=a,b,c, as strategy=fedavg,fedprox")])
    return [(key.strip(), value.strip()) for value in found]


def read_seeds(text: str) -> list[int]:
    """Read `5` as the seeds 0 to 4, and `3,7,11` as those three."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = []
    seeds = list(range(seeds[0])) if "," not in text and seeds else seeds
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError("compare", [Fault("--seeds", f"got '{text}'; allowed: a number from 1, or seeds as 3,7,11")])
    return seeds


def read_target(text: str) -> Target:
    """Read `accuracy=0.9`."""
    metric, _, value = text.partition("=")
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(value)
        return Target(metric.strip(), number)
    except ValueError:
        fault = Fault("--target", f"got '{text}'; allowed: METRIC=NUMBER, as accuracy=0.9")
        raise ConfigError("compare", [fault]) from None


def wanted_metrics(metric: str | None, target: Target | None) -> dict[str, str]:
    """Give the names that a comparison is to find in its runs, by the option that gave them."""
    named = {"--metric": metric, "--target": target.metric if target else None}
    return {option: name for option, name in named.items() if name}


def run_grid(
    cells: Sequence[Cell], tell: Tell, *, progress: bool = True, metrics: Mapping[str, str] | None = None
) -> list[str]:
    """Run what is missing, going on where a run was broken off; give what failed. Ctrl-C passes through.

    `metrics`: the names that the comparison will want, by the option that gave them. The first finished run of the
    first row must have recorded them: ConfigError, before all the others are run for a misspelt name.
    """
    done = [cell for cell in cells if cell.done]
    todo = [cell for cell in cells if cell not in done]
    if done:
        tell(f"{len(done)} of {len(cells)} runs are there already")
    failed, unseen = [], dict(metrics or {})
    for cell in done:
        unseen = _seen(cell, cells[0], unseen)
    for number, cell in enumerate(todo, start=1):
        tell(f"[{number} of {len(todo)}] {cell.label}, seed {cell.config.seed}")
        resume = (cell.folder / "config.yaml").is_file()
        try:
            run_config(cell.config, out=cell.folder, resume=resume, progress=progress, report=False)
        except Exception as error:
            if not _is_of_the_run(error):
                raise
            reason = str(error) if hasattr(error, "exit_code") else reason_of(error)
            failed.append(f"{cell.label}, seed {cell.config.seed}: {reason}")
            continue
        unseen = _seen(cell, cells[0], unseen)
    return failed


def _is_of_the_run(error: Exception) -> bool:
    """Say whether the other runs may well do better: where a strategy is at fault, which may raise anything.

    Data that are missing, a damaged folder and the like are told at once; they have exit codes of their own.
    """
    return isinstance(error, RunFailedError | PluginError | UnsuitableError) or not hasattr(error, "exit_code")


def _seen(cell: Cell, first: Cell, metrics: Mapping[str, str]) -> dict[str, str]:
    """Give the names that are not yet looked for: none, once a run of the first row was found to have them all."""
    if not metrics or cell.label != first.label:  # what only some strategies record is no typing error
        return dict(metrics)
    _check_metrics(metrics, [load_run(cell.folder)], f"{cell.label}, which the others are compared with,")
    return {}


def _check_metrics(metrics: Mapping[str, str], runs: Sequence[RunRecord], who: str) -> None:
    """Raise ConfigError for names, by the options that gave them, that none of the runs recorded."""
    known = {name for run in runs for record in run.rounds for name in record.metrics}
    faults = []
    for option, name in metrics.items():
        # Those of every domain and class would fill a screen.
        alike = [each for each in known if ("." in each) <= ("." in name)]
        if name not in known:
            faults.append(Fault(option, f"{who} recorded no metric '{name}'; {suggest(name, alike)}"))
    if faults:
        raise ConfigError("compare", faults)


def summarize(
    cells: Sequence[Cell], out: Path, target: Target | None = None, metric: str | None = None
) -> tuple[list[CompareRow], str, list[Path]]:
    """Compare the runs that are there; give the rows, the metric, and the files that were written into `out`."""
    there = [cell for cell in cells if (cell.folder / "summary.json").is_file()]
    runs = [(cell.label, load_run(cell.folder)) for cell in there]
    if not any(record.metrics for _, run in runs for record in run.rounds):
        raise RunFailedError("no run of the grid measured anything, so there is nothing to compare")
    labels = list(dict.fromkeys(cell.label for cell in cells))
    members: dict[str, list[Any]] = {label: [run for own, run in runs if own == label] for label in labels}
    groups = [Group(i, label, tuple(members[label])) for i, label in enumerate(labels)]
    chosen = metric or main_metric([run for _, run in runs])
    _check_metrics(wanted_metrics(chosen, target), [run for _, run in runs], "the runs of the grid")
    wanted = {label: sum(cell.label == label for cell in cells) for label in labels}
    rows = compare_rows(groups, chosen, target, wanted)
    with asked_for(out):
        files = write_comparison(out, [group for group in groups if group.runs], rows, chosen, target)
        files.append(write_report([cell.folder for cell in there], out / "report.html"))
    return rows, chosen, files
