"""The command line: `fedbox run`, `serve`, `join` and the commands around them.

Exit codes: 0 all went well; 1 the run failed or broke off; 2 the command or the configuration is at fault; 3 data or
model; 4 a strategy; 5 a run's folder or checkpoint; 130 stopped by Ctrl-C or SIGTERM. Heavy imports stand inside the
commands, so that `fedbox --help` answers at once.
"""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .client import commands as client_commands
from .server import commands as server_commands
from .server import folder_commands
from .server.misplaced import Commands, SettingsCommand
from .simulations import use_commands
from .simulations.compare_command import compare
from .simulations.forking import working_folder
from .testing import commands as testing_commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A federation in a box: federated learning for vision where labels are scarce, clients differ and data may "
    "not move.\n\nStart with [bold]fedbox run[/], then look at the report it leaves.",
)

ConfigArgument = Annotated[
    str | None,
    typer.Argument(help="A bundled configuration (see fedbox configs) or a YAML file.", show_default="quickstart"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes, for example train.lr=0.05 strategy=fedprox."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedbox {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Hold the options that belong to no command."""


@app.command(cls=SettingsCommand)
def run(
    config: ConfigArgument = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: a new one under runs/).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was broken off.")] = False,
    engine: Annotated[str | None, typer.Option(help="Engine that runs the clients: inprocess, plain, ray.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes (default: the cores); 1 runs everything in this one.")
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME...]", help="Trackers, as tensorboard,csv (see fedbox plugins)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, build the model, say what a run would do, and stop there.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")] = False,
) -> None:
    """Train a federation on this machine.

    CONFIG is a bundled configuration ([bold]fedbox configs[/]) or a YAML file; without it, quickstart. Each
    KEY=VALUE changes one of its keys, such as train.lr=0.05 or strategy=fedprox.

    [bold]fedbox run[/] alone trains 20 clients on handwritten digits in under a minute. The same seed gives the same
    model, bit for bit, on any number of workers and after a kill and [bold]--resume[/].

    [bold]--dry-run[/] trains and writes nothing. It ends as the run would that finds a fault before its first round, or
    shows who holds what, the weights of each part of the model, and the bytes that travel.

    CONFIG may be a bundle of [bold]fedbox export[/], zipped or unpacked: it is run again, and exit code 0 says that the
    same model came out of it, bit for bit.

    [dim]fedbox run quickstart strategy=fedprox settings.fedprox.mu=0.1 --out runs/prox[/]
    """
    from .simulations.forking import begin_early

    begin_early(1 if dry_run else workers, engine)
    from .server.console import plan_table, summary_table
    from .simulations.plan import plan
    from .simulations.reproduce import apart, carry_out, given
    from .simulations.run import raise_on_sigterm

    source, changes = _split(config, overrides)
    if engine is not None:
        changes.append(f"engine.kind={engine}")
    if workers is not None:
        changes.append(f"engine.workers={workers}")
    if track is not None:
        changes.append(f"track=[{track}]")
    if resume and source is None and out is not None and (out / "config.yaml").is_file():
        source = str(out / "config.yaml")
    raise_on_sigterm()
    checked, bundle = given(source or "quickstart", changes)
    for line in apart(bundle) if bundle and not quiet else []:
        typer.echo(f"note: {line}", err=True)
    if dry_run:
        table = plan_table(checked.name, plan(checked))
        if not quiet:
            _print(table)
        return
    try:
        done = carry_out(checked, bundle, out=out, resume=resume, progress=not quiet)
    except KeyboardInterrupt:  # told here: typer would end the program without a word
        _complain("stopped; the run can go on with --resume")
        raise typer.Exit(130) from None
    if not quiet:
        _print(summary_table(done.result.summary, done.result.folder))
        typer.echo(f"report: {done.result.folder / 'report.html'}")
    for line in done.lines:
        typer.echo(line, err=not done.same)
    if not done.same:
        raise typer.Exit(1)


@app.command(cls=SettingsCommand)
def strategies(
    name: Annotated[str | None, typer.Argument(help="Show this strategy's settings.")] = None,
) -> None:
    """List the strategies, those of installed plugins included; with NAME, its settings."""
    from rich.markup import escape

    from .strategies.registry import find, listings

    if name is not None:
        table = _listing("setting", "default", "meaning", title=f"settings.{escape(name)}")
        for key, field in find(name).settings.model_fields.items():
            table.add_row(key, escape(repr(field.default)), escape(field.description or ""))
        _print(table)
        return
    table = _listing("strategy", "what it does", "from")
    broken = []
    for item in listings():
        table.add_row(escape(item.name), escape(item.summary) or "[red]cannot be used[/]", escape(item.origin))
        if item.problem:
            broken.append(item.problem)
    _print(table)
    for problem in broken:
        _complain(problem)


@app.command(cls=SettingsCommand)
def configs(
    name: Annotated[str | None, typer.Argument(help="Show this configuration's YAML.")] = None,
) -> None:
    """List the bundled configurations; with NAME, its YAML."""
    from .configs import ConfigError, Fault, bundled, load_config
    from .configs.faults import suggest

    found = bundled()
    if name is not None:
        if name not in found:
            raise ConfigError(name, [Fault(name, f"no bundled configuration; {suggest(name, found)}")])
        typer.echo(found[name].read_text(encoding="utf-8"), nl=False)
        return
    table = _listing("config", "strategy", "data", "model", "clients", "rounds")
    for key in found:
        item = load_config(key)
        clients = item.data.partition.clients
        table.add_row(key, item.strategy, item.data.dataset, item.model.name, str(clients or "-"), str(item.rounds))
    _print(table)


@app.command(cls=SettingsCommand)
def data(
    config: ConfigArgument = None,
    overrides: Overrides = None,
    plot: Annotated[Path | None, typer.Option(help="Write the picture of the partition to this PNG file.")] = None,
    most: Annotated[int, typer.Option(min=0, help="Show at most so many clients.")] = 50,
) -> None:
    """Show who holds what: samples of every client by class, labelled, unlabelled and test.

    CONFIG and KEY=VALUE are those of [bold]fedbox run[/]; nothing is trained.
    """
    from rich.console import Console

    from .data.describe import plot_partition
    from .server.console import partition_table
    from .simulations.run import check
    from .strategies.federation import Federation

    source, changes = _split(config, overrides)
    checked = check(source or "quickstart", changes)
    federation = Federation.prepare(checked)
    held = federation.table()
    console = Console()
    console.print(partition_table(federation, held, most, console))
    typer.echo(
        f"server: {len(federation.server)} labelled samples, {len(federation.dataset.test)} for testing, "
        f"{len(federation.validation)} for validation"
    )
    if plot is not None:
        plot_partition(
            held.labelled + held.unlabelled, federation.dataset.classes, plot, checked.name, federation.clients.keys
        )
        typer.echo(f"picture: {plot}")


app.command(cls=SettingsCommand)(folder_commands.report)
app.command("list", cls=SettingsCommand)(folder_commands.list_runs)
for command in (
    server_commands.serve,
    client_commands.join,
    client_commands.status,
    server_commands.certs,
    server_commands.pack,
    compare,
    folder_commands.watch,
    folder_commands.export,
    use_commands.predict,
    use_commands.evaluate,
    testing_commands.check,
    testing_commands.new,
    testing_commands.plugins,
):
    app.command(cls=SettingsCommand)(command)


def _split(config: str | None, overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """Tell the configuration from the changes: `fedbox run rounds=3` changes the default one."""
    changes = list(overrides or [])
    if config is not None and "=" in config and not Path(config).exists():
        return None, [config, *changes]
    return config, changes


def _listing(*headers: str, title: str | None = None) -> Any:
    """Give a table whose first column, of names to type, is never broken; nor is any text cut."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, header in enumerate(headers):
        table.add_column(header, no_wrap=number == 0, overflow="fold")
    return table


def _print(what: Any) -> None:
    from rich.console import Console

    Console().print(what)


def _complain(text: str) -> None:
    typer.secho(f"error: {text}", fg=typer.colors.RED, err=True, color=_colour())


def _colour() -> bool | None:
    """Give False where NO_COLOR is set (no-color.org), else None: colours in a terminal alone."""
    return False if os.environ.get("NO_COLOR") else None


def main() -> None:
    """Run the command line; turn errors that fedbox knows into a message and an exit code."""
    here = working_folder()
    if here and here not in sys.path:  # `strategy=my_module:plugin` finds a module here, last of all places
        sys.path.append(here)
    if isinstance(sys.stdout, TextIOWrapper):  # names of files and classes may be no text, or none of the terminal's
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(color=_colour())
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise  # a fault of fedbox itself: the traceback is what a maintainer needs
        _complain(str(error))
        sys.exit(code)


if __name__ == "__main__":
    main()
