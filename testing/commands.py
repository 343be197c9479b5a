"""The commands for those who write plugins: `fedbox check`, `new` and `plugins`. Heavy imports stand inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from .subject import Subject
    from .suite import Outcome

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
_FAILED = 4


def check(
    strategy: Annotated[
        str, typer.Argument(metavar="MODULE:ATTR|NAME|FILE.py", help="The strategy: importable, registered, or a file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the toy problem, as rounds=20.")
    ] = None,
    toy: Annotated[
        Literal["classes", "few-labels", "boxes"] | None,
        typer.Option(help="Toy problem (default: classes, or boxes where the client half needs them)."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Make this check alone; may be repeated.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the outcome to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show what failed only.")] = False,
) -> None:
    """Put a strategy through the conformance suite, fedbox.testing, and say what failed, where, and what to do.

    It trains on a toy problem several times: on one worker and on two, stopped and resumed, with a client that diverges
    and with one that has no data. The exit code is 0 only if every check passed, else 4.

    [dim]fedbox check fedprox settings.fedprox.mu=0.1 --json outcome.json[/]
    """
    from rich.console import Console

    from ..configs import ConfigError, Fault
    from ..configs.faults import suggest
    from .checks import CHECKS

    known = {each.name: each for each in CHECKS}
    if unknown := [name for name in only or [] if name not in known]:
        raise ConfigError("given", [Fault("--only", f"got '{name}'; {suggest(name, known)}") for name in unknown])
    chosen = [known[name] for name in only] if only else list(CHECKS)
    subject, outcomes = _tried(strategy, toy, overrides or [], chosen, quiet)
    if json is not None:
        _write(json, subject, outcomes)
    bad = [outcome for outcome in outcomes if outcome.status != "passed"]
    console = Console()
    if not quiet:
        console.print(_table(subject, outcomes))
    for outcome in bad:
        console.print(_told(outcome), markup=False, highlight=False, soft_wrap=True)
    if bad:
        raise typer.Exit(_FAILED)
    if not quiet:
        console.print(f"[green]all {len(outcomes)} checks passed[/]")


def _tried(
    strategy: str, toy: str | None, changes: list[str], chosen: list[Any], quiet: bool
) -> "tuple[Subject, list[Outcome]]":
    """Make the checks under a bar that shows which one is under way, and which round."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..server.callbacks import Callback
    from .subject import Subject
    from .suite import outcomes as made

    columns = (TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    note = TextColumn("{task.fields[note]}")
    screen = Console(stderr=True)
    with Progress(*columns, note, TimeElapsedColumn(), console=screen, transient=True, disable=quiet) as bar:
        task = bar.add_task(chosen[0].name, total=len(chosen), note=chosen[0].about)

        class Rounds(Callback):
            def on_round(self, record: Any) -> None:
                bar.update(task, note=f"round {record['round']}")

        with Subject(strategy, toy=toy, changes=changes, callback=Rounds()) as subject:
            outcomes = []
            for outcome in made(subject, chosen):
                outcomes.append(outcome)
                following = chosen[min(len(outcomes), len(chosen) - 1)]
                bar.update(task, completed=len(outcomes), description=following.name, note=following.about)
            return subject, outcomes


def _table(subject: "Subject", outcomes: "list[Outcome]") -> Any:
    from rich.markup import escape
    from rich.table import Table

    title = f"{escape(subject.strategy)} on {subject.trial.toy}: {subject.toy.about}"
    table = Table("check", "what it wants", "", "remark", "seconds", title=title, title_justify="left")
    table.columns[-1].justify = "right"
    for outcome in outcomes:
        state = f"[{_COLOURS[outcome.status]}]{outcome.status}[/]"
        remark = escape(outcome.what) if outcome.status == "passed" else ""
        table.add_row(outcome.name, outcome.about, state, remark, f"{outcome.seconds:.1f}")
    return table


def _told(outcome: "Outcome") -> str:
    lines = [f"{outcome.name} {outcome.status}: {outcome.what}"]
    lines += [f"  where: {outcome.where}"] if outcome.where else []
    lines += [f"  what to do: {outcome.do}"] if outcome.do else []
    return "\n".join(lines)


def _write(file: Path, subject: "Subject", outcomes: "list[Outcome]") -> None:
    import json
    from dataclasses import asdict
    from importlib.metadata import version

    told = {
        "strategy": subject.strategy,
        "fedbox": version("fedbox"),
        "toy": subject.trial.toy,
        "config": subject.config.model_dump(mode="json"),
        "passed": all(outcome.status == "passed" for outcome in outcomes),
        "checks": [asdict(outcome) for outcome in outcomes],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def new(
    kind: Annotated[Literal["strategy", "callback"], typer.Argument(help="What to begin: strategy or callback.")],
    name: Annotated[str, typer.Argument(help="Its name, as it will be registered.")],
    into: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write (default: fedbox-NAME).")] = None,
) -> None:
    """Write a small package to begin a plugin with: the code in one file, a test, a README; it works as it is.

    A strategy also gets a configuration, and its test is the conformance suite of [bold]fedbox check[/].

    [dim]fedbox new strategy mymethod && pip install -e fedbox-mymethod && fedbox check mymethod[/]
    """
    from .scaffold import write_package

    folder, files, steps = write_package(kind, name, into)
    typer.echo(f"{folder}:")
    for file, about in files.items():
        typer.echo(f"  {file:<28}{about}")
    typer.echo("\n".join(["", "Now:", *(f"  {step}" for step in steps)]))


def plugins(
    group: Annotated[
        Literal["strategies", "selectors", "models", "datasets", "callbacks"] | None,
        typer.Argument(help="Show this group alone."),
    ] = None,
) -> None:
    """List what can be named in a configuration, by group: fedbox's own and that of every installed package.

    A plugin that cannot be used is shown with the reason, and disturbs no other.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..server.catalog import GROUPS, catalog

    console = Console()
    for kind in [group] if group else list(GROUPS):
        entries = catalog(kind)
        title = f"{kind} ({escape(GROUPS[kind].used)}; entry points fedbox.{kind})"
        table = Table("name", title=title, title_justify="left", box=SIMPLE, padding=(0, 1), pad_edge=False)
        table.columns[0].no_wrap = True
        for heading in ("what it is", "package", "where from"):
            table.add_column(heading, overflow="fold")
        for entry in entries:
            about = f"[red]cannot be used[/]: {escape(entry.problem)}" if entry.problem else escape(entry.summary)
            table.add_row(entry.name, about, entry.package, escape(entry.target))
        console.print(table)
