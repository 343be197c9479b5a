"""Commands about a run's folder: `fedbox watch` and `fedbox export`. Heavy imports stand inside, so --help is quick."""

import time
from pathlib import Path
from typing import Annotated

import typer


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

    from .follow import Follower
    from .watch import follow, teller
    from .watch import watch as in_terminal

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
