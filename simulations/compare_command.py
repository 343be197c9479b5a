"""The command `fedbox compare`; heavy imports stand inside."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = [0, 1, 2, 3, 4, 7]
_COST = 8  # the first column of what the target cost
_GAP = 2  # spaces between columns
_LABEL = 8  # places that a label has at least, on however narrow a terminal


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
    from rich.console import Console

    from ..server.compare_files import cells as written
    from ..server.compare_files import explain, headings
    from .compare import grid, read_seeds, read_target, run_grid, summarize, wanted_metrics
    from .run import raise_on_sigterm

    sources = [source.strip() for source in configs.split(",") if source.strip()]
    place = out or Path("runs") / f"compare-{'-'.join(Path(source).stem for source in sources)}"
    goal = read_target(target) if target else None
    runs = grid(sources, overrides or [], sweep or [], read_seeds(seeds), place)
    raise_on_sigterm()
    try:
        failed = run_grid(
            runs,
            (lambda _: None) if quiet else (lambda text: typer.echo(text, err=True)),
            progress=not quiet,
            metrics=wanted_metrics(metric, goal),
        )
        for text in failed:  # before all that may go wrong with what the others left
            typer.secho(f"error: {text}", fg=typer.colors.RED, err=True)
        rows, chosen, files = summarize(runs, place, goal, metric)
    except KeyboardInterrupt:  # told here: typer would end the program without a word
        typer.secho("error: stopped; the same command goes on", fg=typer.colors.RED, err=True)
        raise typer.Exit(130) from None
    if not quiet:
        heads, lines, console = headings(chosen, goal), written(rows), Console()
        # A terminal is narrow: the files have every column, here the rest of what matters stands below.
        for columns in (_SHOWN, [0, *range(_COST, len(heads))] if goal else []):
            if columns:
                _print_columns(console, [[line[column] for column in columns] for line in (heads, *lines)])
        typer.echo("\n".join([*explain(rows, chosen, goal), *(f"written: {path}" for path in files)]))
    if failed:
        told = f"error: {len(failed)} of {len(runs)} runs failed, as told above; the same command tries again"
        typer.secho(told, fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


def _print_columns(console: "Console", lines: Sequence[Sequence[str]]) -> None:
    """Print a table, heads first. Labels and heads are broken over lines where they must be, figures never."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    _, *columns = zip(*lines, strict=True)
    heads = [_broken(head, max(len(figure) for figure in figures)) for head, *figures in columns]
    widths = [
        max(len(text) for text in (*head.splitlines(), *figures))
        for head, (_, *figures) in zip(heads, columns, strict=True)
    ]
    room = console.width - sum(widths) - _GAP * (len(widths) + 1)
    whole = console.width - room + _LABEL if room < _LABEL else None  # wider than the terminal, which breaks its lines
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, _GAP - 1, 0, 0), width=whole)
    table.add_column(overflow="fold", max_width=max(room, _LABEL))
    for head, width in zip(heads, widths, strict=True):
        table.add_column(escape(head), min_width=width, no_wrap=True)
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    console.print(table, crop=False)


def _broken(head: str, width: int) -> str:
    """Break a head after its first comma, and a metric's name after underscores where it is longer than `width`."""
    name, comma, rest = head.partition(", ")
    lines = [""]
    for part in re.findall("[^_]*_|[^_]+", name + comma.strip()):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join([*lines, rest] if rest else lines)
