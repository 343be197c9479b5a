"""`fedbox watch`: a run in the terminal as it goes, or a line for each round where there is no terminal."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .folder import FolderError
from .follow import ENDED, RUNNING, WAITING, Follower, View
from .records import WHOLE, lower_is_better
from .runs import RoundRecord
from .stats import duration, finite, human_bytes, natural, number, whole

EVERY = 1.0  # seconds between two looks
MAX_CLIENTS, MAX_FAILURES = 8, 3
_BLOCKS = "▁▂▃▄▅▆▇█"

Seen = Callable[[View], None]


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw values as blocks from the lowest to the highest; of more than `width` the last of each share."""
    kept = list(values)
    if len(kept) > width:
        kept = [kept[(i + 1) * len(kept) // width - 1] for i in range(width)]
    low, high = min(kept, default=0.0), max(kept, default=0.0)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(top * (v - low) / (high - low)) if high > low else top // 2] for v in kept)


def watch(folder: Path, timeout: float | None, console: Console, *, every: float = EVERY) -> int:
    """Follow the run in a folder to its end; give the exit code that says how it ended.

    Raises FolderError if none has begun within `timeout` seconds (None: waits for ever).
    """
    follower = Follower(folder)
    if not console.is_terminal:
        return follow(follower, timeout, teller(console), every=every).code
    with Live(console=console, auto_refresh=False, transient=False) as live:
        view = follow(follower, timeout, lambda view: live.update(screen(view), refresh=True), every=every)
    return view.code


def follow(follower: Follower, timeout: float | None, seen: Seen, *, every: float = EVERY) -> View:
    """Show each look to `seen` until the run has ended; give the last one. Raises FolderError as `watch` does."""
    limit = None if timeout is None else time.monotonic() + timeout
    while True:
        view = follower.look()
        seen(view)
        if view.state == ENDED:
            return view
        if view.state == WAITING and limit is not None and time.monotonic() >= limit:
            raise FolderError(f"{view.folder}: no run has begun within {timeout:g} s; is it the folder of --out?")
        time.sleep(every)


def teller(console: Console) -> Seen:
    """Give what prints a line for each new round, and one when the run waits, begins or ends."""
    told, before = 0, ""

    def tell(view: View) -> None:
        nonlocal told, before
        if view.state == RUNNING and before != RUNNING:
            console.print(headline(view), markup=False, highlight=False, soft_wrap=True)
        for record in view.run.rounds:
            if record.round > told:
                console.print(round_line(view, record), markup=False, highlight=False, soft_wrap=True)
                told = record.round
        if view.state not in (RUNNING, before):
            console.print(headline(view), markup=False, highlight=False, soft_wrap=True)
        before = view.state

    return tell


def headline(view: View) -> str:
    """Say in one line where the run is."""
    if view.state == WAITING:
        return f"waits for a run in {view.folder}"
    run = view.run
    if view.state == ENDED:
        hint = "; it can go on with --resume" if view.code else ""
        return f"{run.name}: {view.outcome} after {view.done} of {view.total} rounds{hint}"
    return f"{run.name}: {run.strategy}, seed {run.seed}, {view.total} rounds, in {view.folder}"


def round_line(view: View, record: RoundRecord) -> str:
    """Say in one line what a round gave."""
    parts = [f"round {record.round} of {view.total}"]
    if view.metric in record.metrics:
        parts.append(f"{view.metric} {number(record.metrics[view.metric])}")
    parts.append(duration(record.seconds.get("total", math.nan)))
    parts.append(human_bytes(math.fsum(finite([record.bytes_up, record.bytes_down]))))
    if record.failures:
        parts.append(f"{len(record.failures)} failed")
    return ", ".join(parts)


def screen(view: View) -> RenderableType:
    """Give the whole picture for a terminal."""
    if view.state == WAITING:
        return Text(f"waits for a run in {view.folder} (Ctrl-C ends this)", style="dim")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    run, rounds = view.run, view.run.rounds
    colour = "cyan" if not view.outcome else "green" if view.outcome in WHOLE else "red"
    facts.add_row("run", f"{escape(run.name)}: {escape(run.strategy)}, seed {escape(run.seed)}")
    facts.add_row("state", f"[{colour}]{escape(view.outcome or 'running')}[/]{_since(view)}")
    bar = ProgressBar(total=max(view.total, 1), completed=view.done, width=32)
    tail = f"{view.done} of {view.total}" + (f", about {duration(view.left)} left" if math.isfinite(view.left) else "")
    facts.add_row("rounds", _beside(bar, tail))
    if view.curve:
        best = view.best
        told = f"{number(view.curve[-1])}" + (f", best {number(best[0])} in round {best[1]}" if best else "")
        facts.add_row(escape(view.metric), f"{sparkline(view.curve)}  {told}")
    up, down = (math.fsum(finite([getattr(r, key) for r in rounds])) for key in ("bytes_up", "bytes_down"))
    facts.add_row("sent", f"{human_bytes(up)} up, {human_bytes(down)} down")
    failures = [(r.round, f) for r in rounds for f in r.failures]
    facts.add_row("failures", f"[red]{len(failures)}[/]" if failures else "none")
    for at, failure in failures[-MAX_FAILURES:]:
        text = f"round {at}: {failure.get('client')} {failure.get('kind')}: {failure.get('reason')}"
        facts.add_row("", Text(text[:200], style="red"))
    return Group(facts, *_clients(view))


def _since(view: View) -> str:
    if view.state != RUNNING or not math.isfinite(view.since):
        return ""
    return f", round {view.done + 1} for {duration(view.since)}"


def _beside(bar: ProgressBar, text: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(bar, text)
    return row


def _clients(view: View) -> list[RenderableType]:
    """Give the clients of the last round that has any, those that fare worst first."""
    last = next((r for r in reversed(view.run.rounds) if r.clients), None)
    if last is None:
        return []
    told = {key for row in last.clients.values() for key in row}
    shown = [key for key in dict.fromkeys((view.metric, "train_loss", "loss", "examples")) if key in told]
    first = shown[0] if shown else ""
    sign = -1.0 if lower_is_better(first) else 1.0

    def place(name: str) -> tuple[float, object]:
        value = last.clients[name].get(first, math.nan)
        return (sign * value if math.isfinite(value) else math.inf, natural(name))

    names = sorted(last.clients, key=place)
    table = Table(title=f"clients of round {last.round}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("client")
    for key in shown:
        table.add_column(key, justify="right")
    for name in names[:MAX_CLIENTS]:
        cells = ((whole if key == "examples" else number)(last.clients[name].get(key, math.nan)) for key in shown)
        table.add_row(escape(name), *cells)
    if len(names) > MAX_CLIENTS:
        table.caption = f"and {len(names) - MAX_CLIENTS} that fare better"
        table.caption_justify = "left"
    return [Text(""), table]
