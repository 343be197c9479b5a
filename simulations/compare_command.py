"""The command `fedbox compare`; heavy imports stand inside."""

from pathlib import Path
from typing import Annotated

import typer

_SHOWN = [0, 1, 2, 3, 4, 7]
_COST = 8  # the first column of what the target cost


def compare(
    configs: Annotated[str, typer.Argument(metavar="CONFIG[,CONFIG...]", help="Configurations, names or YAML files.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to every run.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="So many seeds from 0 on; or a list, as 3,7,11.")] = "5",
    sweep: Annotated[
        list[str] | None, typer.Option(metavar="KEY=A,B,C", help="A row for each value; several sweeps make a grid.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="METRIC=VALUE", help="Tell the cost of reaching it.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric compared (default: the task's score).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: runs/compare-CONFIG).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")] = False,
) -> None:
    """Run configurations over seeds and compare them with the first: means, intervals, paired tests.

    Every run is a plain one in a folder of its own. The same command again does only what is missing.

    [dim]fedbox compare quickstart --sweep strategy=fedavg,fedprox --seeds 5 --target accuracy=0.9[/]
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..server.compare_files import cells as written
    from ..server.compare_files import explain, headings
    from .compare import grid, read_seeds, read_target, run_grid, summarize
    from .run import raise_on_sigterm

    sources = [source.strip() for source in configs.split(",") if source.strip()]
    place = out or Path("runs") / f"compare-{'-'.join(Path(source).stem for source in sources)}"
    goal = read_target(target) if target else None
    runs = grid(sources, overrides or [], sweep or [], read_seeds(seeds), place)
    raise_on_sigterm()
    try:
        failed = run_grid(
            runs, (lambda _: None) if quiet else (lambda text: typer.echo(text, err=True)), progress=not quiet
        )
        rows, chosen, files = summarize(runs, place, goal, metric)
    except KeyboardInterrupt:  # told here: typer would end the program without a word
        typer.secho("error: stopped; the same command goes on", fg=typer.colors.RED, err=True)
        raise typer.Exit(130) from None
    if not quiet:
        heads, lines, console = headings(chosen, goal), written(rows), Console()
        # A terminal is narrow: the files have every column, here the rest of what matters stands below.
        for columns in (_SHOWN, [0, *range(_COST, len(heads))] if goal else []):
            if columns:
                # Heads are broken after their first comma, so that no figure has to be at 80 columns.
                table = Table(
                    *(escape(heads[column].replace(", ", ",\n", 1)) for column in columns), box=SIMPLE, pad_edge=False
                )
                for line in lines:
                    table.add_row(*(escape(line[column]) for column in columns))
                console.print(table)
        typer.echo("\n".join([*explain(rows, chosen, goal), *(f"written: {path}" for path in files)]))
    for text in failed:
        typer.secho(f"error: {text}", fg=typer.colors.RED, err=True)
    if failed:
        raise typer.Exit(1)
