"""Commands about folders of runs: `fedbox report`, `list`, `watch`, `export`. Heavy imports stand inside."""

import time
from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: DIR/report.html; report.html for several).")
    ] = None,
) -> None:
    """Write one self-contained HTML page about one run or several: figures, curves, spread over clients, bytes.

    DIR is the folder of a run, or one that holds runs, which are all taken. Runs that differ in their seed alone are
    drawn as one, with a band.

    [dim]fedbox report runs/fedavg runs/local --out report.html[/]
    """
    from .folder import asked_for
    from .listing import runs_in
    from .report import write_report

    out = out or (folders[0] / "report.html" if len(folders) == 1 else Path("report.html"))
    # What holds no run stays in the list: the report says so, and what to do.
    runs = [run for folder in folders for run in (runs_in(folder) or [folder])]
    with asked_for(out):
        typer.echo(f"report: {write_report(runs, out)}")


def list_runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR...", help="Folders of runs.", show_default="runs")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The score that is shown (default: the task's).")] = None,
    best: Annotated[bool, typer.Option("--best", help="The best run first; else by name.")] = False,
) -> None:
    """List runs: strategy, seed, how far each came, its last score and its best one.

    DIR is the folder of a run, or one that holds runs. Without a terminal it prints a line a run, its cells parted by
    tabs.

    [dim]fedbox list runs --best[/]
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from .folder import FolderError
    from .listing import HEADINGS, listing, narrow, runs_in

    places = folders or [Path("runs")]
    runs = [run for place in places for run in runs_in(place, begun=True)]
    if not runs:
        raise FolderError(f"{', '.join(map(str, places))}: no run here; give a folder in which runs are")
    rows, console = listing(runs, metric, best_first=best), Console()
    if not console.is_terminal:
        typer.echo("\n".join("\t".join(row) for row in (HEADINGS, *rows)))
        return
    heads, *lines = narrow(rows)
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for place, heading in enumerate(heads):
        table.add_column(heading, overflow="fold", no_wrap=place > 0, justify="right" if place > 4 else "left")
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)


def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, which may not have begun yet.")],
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Give up if no run has begun after so many seconds (default: never).")
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Serve the report as a live page, on this machine alone.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the live page; 0 takes a free one.")] = 8127,
) -> None:
    """Follow a run: rounds, pace, the metric so far, clients, failures, bytes. Reads its folder and writes nothing.

    Ends with the run, and its exit code tells how that ended: 0 completed, 1 failed or broken off, 130 interrupted.
    With [bold]--web[/] the page stays until Ctrl-C.

    [dim]fedbox watch runs/quickstart-fedavg-seed0[/]
    """
    from rich.console import Console

    from .folder import FolderError
    from .follow import Follower
    from .watch import follow, teller
    from .watch import watch as in_terminal

    if folder.is_file():
        raise FolderError(f"{folder} is a file, in which no run will begin; give the folder of a run")
    console, code = Console(), 130
    try:
        if not web:
            raise typer.Exit(in_terminal(folder, timeout, console))
        from .watch_web import LiveServer

        server = LiveServer(Follower(folder), port)
        try:
            console.print(f"live page: {server.url} (Ctrl-C ends it)", markup=False, highlight=False, soft_wrap=True)
            code = follow(Follower(folder), timeout, teller(console)).code
            while True:
                time.sleep(3600)
        finally:
            server.close()
    except KeyboardInterrupt:
        raise typer.Exit(code) from None


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run that has ended.")],
    out: Annotated[Path | None, typer.Option(help="File to write (default: DIR.zip).")] = None,
) -> None:
    """Write a bundle of a run: configuration, records, model, model card, versions, and a hash of each file. No data.

    [bold]fedbox run BUNDLE.zip[/] runs it again and says whether the same model came out. The same run gives the same
    bytes.

    [dim]fedbox export runs/quickstart-fedavg-seed0 --out quickstart.zip[/]
    """
    from .bundle import export as write

    typer.echo(f"bundle: {write(folder, out)}")
