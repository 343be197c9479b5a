"""What a terminal shows: a plan before a run, a progress bar while it lasts, a table at its end; who holds what."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..configs import Config
from ..data.describe import ClientTable
from ..strategies.federation import Federation
from .callbacks import Callback
from .records import WHOLE
from .stats import human_bytes

_STARTING = "reading the data, starting the workers"
_SHOWN = ("accuracy", "map50", "train_loss", "client_accuracy")
_STRICTER = re.compile(r"(^|_)map(75)?_by_")
"""What stands in summary.json alone: beside map50, stricter measures of every domain and class would fill a screen."""


class Screen(Console):
    """What a run shows itself on.

    It may go before the run does, which goes on: a terminal is closed, the reader of a pipe ends, a log's disk is full.
    """

    def on_broken_pipe(self) -> None:
        """Show nothing more; rich would end the program."""
        self.quiet = True


def _shown(hook: Callable[..., None]) -> Callable[..., None]:
    """Let a hook of the bar show what it can."""

    @wraps(hook)
    def show(bar: "ProgressBar", *given: Any) -> None:
        try:
            hook(bar, *given)
        except OSError:
            bar.console.quiet = True

    return show


class ProgressBar(Callback):
    """A bar for the rounds and one for the clients of the current round."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Screen(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._status = self.console.status(_STARTING)
        self._begin()

    @_shown
    def _begin(self) -> None:
        self._status.start()

    @_shown
    def on_read(self, what: str, done: int, total: int) -> None:
        """Say how far slow reading has come, before the bars are open."""
        self._status.update(f"{what}: {done:,} of {total:,}" if done < total else _STARTING)

    @_shown
    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Open the bars."""
        self._rounds = self._progress.add_task("round", total=config.rounds, completed=first - 1, note="")
        self._clients = self._progress.add_task("clients", total=None, note="")
        self._status.stop()
        resumed = f", from round {first}" if first > 1 else ""
        self.console.print(
            f"[bold]{escape(config.name)}[/]: {escape(config.strategy)}, {config.rounds} rounds{resumed}, "
            f"seed {config.seed}; {escape(str(folder))}"
        )
        self._progress.start()

    @_shown
    def on_engine(self, text: str) -> None:
        """Say how the clients run."""
        self.console.print(text, markup=False, highlight=False)

    @_shown
    def on_ask(self, round_: int, kind: str, clients: int) -> None:
        """Start the clients' bar anew."""
        self._progress.reset(self._clients, total=clients, description=f"clients {kind}")

    @_shown
    def on_reply(self) -> None:
        """Move the clients' bar."""
        self._progress.advance(self._clients)

    @_shown
    def on_round(self, record: Mapping[str, Any]) -> None:
        """Move the rounds' bar and show the metrics."""
        metrics = record["metrics"]
        parts = [f"{name} {metrics[name]:.4f}" for name in _SHOWN if metrics.get(name) is not None]
        if record["failures"]:
            parts.append(f"[red]{len(record['failures'])} failed[/]")
        self._progress.update(self._rounds, completed=record["round"], note="  ".join(parts))

    @_shown
    def close(self) -> None:
        """Take the bars away."""
        self._status.stop()
        self._progress.stop()


def summary_table(summary: Mapping[str, Any], folder: Path) -> Table:
    """Give the table that closes a run."""
    table = _facts_table(f"{escape(summary['name'])}: {escape(summary['strategy'])}")
    colour = "green" if summary["status"] in WHOLE else "red"
    table.add_row("status", f"[{colour}]{summary['status']}[/] after {summary['rounds']} rounds")
    _add_metrics(table, summary["metrics"], summary["best"])
    table.add_row("clients", f"{summary['clients']}, {summary['failures']} failures")
    table.add_row("sent", f"{human_bytes(summary['bytes_up'])} up, {human_bytes(summary['bytes_down'])} down")
    table.add_row("time", f"{summary['seconds']:.1f} s on {summary['workers']} workers ({summary['engine']})")
    table.add_row("peak memory", f"{summary['peak_rss_mb']:.0f} MB")
    table.add_row("model sha256", str(summary["model_sha256"]))
    table.add_row("left in", escape(str(folder)))
    return table


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Give the table of a model that was measured again; metrics by domain or class are mappings."""
    table = _facts_table()
    _add_metrics(table, metrics, {})
    return table


def _add_metrics(table: Table, metrics: Mapping[str, Any], best: Mapping[str, Any]) -> None:
    for name, value in metrics.items():
        if not isinstance(value, float):
            if not _STRICTER.search(name):
                table.add_row(escape(name), escape("  ".join(f"{key} {part:.3f}" for key, part in value.items())))
            continue
        top = best.get(name)
        tail = f"   best {top['value']:.4f} in round {top['round']}" if top else ""
        table.add_row(escape(name), f"{value:.4f}{tail}")


def plan_table(name: str, facts: Sequence[tuple[str, str]]) -> Table:
    """Give the table of a run that was planned and not run."""
    table = _facts_table(f"{escape(name)}: what a run would do")
    for topic, text in facts:
        table.add_row(escape(topic), escape(text))
    return table


def _facts_table(title: str | None = None) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    return table


def partition_table(federation: Federation, held: ClientTable, most: int, console: Console) -> Table:
    """Give the samples of the first `most` clients by class and by role; by role alone where classes need more room."""
    whole = _partition_table(federation, held, most, federation.dataset.classes)
    if Measurement.get(console, console.options.update(width=10**6), whole).maximum <= console.width:
        return whole
    table = _partition_table(federation, held, most, ())
    more = f"{table.caption}; " if table.caption else ""
    table.caption = f"{more}{len(federation.dataset.classes)} classes, too many to stand here: --plot shows them"
    return table


def _partition_table(federation: Federation, held: ClientTable, most: int, classes: Sequence[str]) -> Table:
    rule = federation.config.data.partition
    title = f"{federation.dataset.name}: {len(federation)} clients, {rule.kind}"
    table = Table(title=escape(title), title_justify="left", box=SIMPLE, padding=0, pad_edge=False)
    table.add_column("client", no_wrap=True, min_width=9)
    for label in classes:
        table.add_column(escape(label), justify="right", no_wrap=True, max_width=7)
    for role in ("labelled", "unlabelled", "test"):
        table.add_column(role, justify="right", no_wrap=True, min_width=len(role))
    total = held.labelled + held.unlabelled
    roles = [rows.sum(axis=1) for rows in (held.labelled, held.unlabelled, held.test)]
    for number in range(min(len(federation), most)):
        name = federation.name(number)
        if federation.clients.keys is not None:
            name += f" ({federation.clients.keys[number]})"
        cells = [str(count) if count else "[dim].[/]" for count in total[number][: len(classes)]]
        table.add_row(escape(name), *cells, *(str(int(sums[number])) for sums in roles))
    if len(federation) > most:
        table.caption = f"and {len(federation) - most} more clients (--most)"
    return table
