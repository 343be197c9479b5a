"""The server's commands: `fedbox serve` and `fedbox certs`. Heavy imports stand inside, so that --help is quick."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_FORMS = Literal["text", "json"]


def serve(
    config: Annotated[str, typer.Argument(help="A bundled configuration (see fedbox configs) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it.")] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on.")] = "127.0.0.1:9091",
    cert: Annotated[Path | None, typer.Option(help="The server's certificate, server.pem.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, server.key.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The authority that signed all certificates, ca.pem.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="No TLS; on loopback only.")] = False,
    clients: Annotated[
        Path | None,
        typer.Option(help="List of those who may join (default: clients.txt beside --ca, else the config's clients)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: a new one under runs/).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was broken off.")] = False,
    wait_for: Annotated[
        int | None, typer.Option(min=1, help="Clients to wait for before the first round (default: all).")
    ] = None,
    heartbeat: Annotated[float, typer.Option(min=0.5, help="Seconds of silence after which a line is dead.")] = 30.0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds that a round waits for a client that went off line.")
    ] = 60.0,
    compress: Annotated[bool, typer.Option("--compress", help="Compress what travels.")] = False,
    max_message: Annotated[int, typer.Option(min=1, help="Most megabytes of one message.")] = 4096,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port of loopback.")
    ] = None,
    track: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME...]", help="Trackers, as tensorboard,csv (see fedbox plugins).")
    ] = None,
    log: Annotated[_FORMS, typer.Option(help="Form of the log on stderr.")] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings and errors only.")] = False,
) -> None:
    """Host a federation for clients on other machines ([bold]fedbox join[/]).

    Same configuration, strategy, records and report as [bold]fedbox run[/]; and, on CPUs, the same model to the bit. A
    server that is killed goes on with [bold]--resume[/]; its clients come back by themselves.

    [dim]fedbox serve quickstart --listen 0.0.0.0:9091 --cert pki/server.pem --key pki/server.key --ca pki/ca.pem[/]
    """
    import logging

    from rich.console import Console

    from ..configs.tls import doubts, read_identity
    from ..strategies.logs import set_up_logs
    from .console import summary_table
    from .lines import Terms
    from .serve import Host, check_exposure, serve
    from .session import check, raise_on_sigterm

    identity = read_identity(cert, key, ca, insecure)
    check_exposure(listen, secure=identity is not None)
    if clients is None and ca is not None and (ca.parent / "clients.txt").is_file():
        clients = ca.parent / "clients.txt"
    set_up_logs(log, quiet)
    for doubt in doubts(identity):
        logging.getLogger("fedbox.server").warning("%s", doubt)
    raise_on_sigterm()
    terms = Terms(heartbeat=heartbeat, grace=grace, largest=max_message * 2**20, compress=compress)
    service = Host(listen, identity, clients, wait_for, metrics_port, terms)
    try:
        changes = [*(overrides or []), *([f"track=[{track}]"] if track is not None else [])]
        result = serve(check(config, changes), service, out=out, resume=resume)
    except KeyboardInterrupt:
        typer.secho("error: stopped; the run can go on with --resume", fg=typer.colors.RED, err=True)
        raise typer.Exit(130) from None
    if not quiet:
        Console().print(summary_table(result.summary, result.folder))


def certs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for keys and certificates.")],
    server: Annotated[
        list[str] | None, typer.Option(help="Host name or address of the server; may be repeated.")
    ] = None,
    client: Annotated[list[str] | None, typer.Option(help="Name of a client; may be repeated.")] = None,
    revoke: Annotated[list[str] | None, typer.Option(help="Strike a client off the list; may be repeated.")] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Make the certificates anew that --client and --server name.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, help="Days for which new certificates hold.")] = 365,
) -> None:
    """Make a small certificate authority: ca.pem, server.pem and NAME.pem with their keys, and clients.txt.

    Run it again to add clients; what is there stays, unless [bold]--renew[/] asks for it anew. Give each client its
    NAME.pem, NAME.key and ca.pem, and keep ca.key to yourself. [bold]--revoke NAME[/] strikes a client off clients.txt:
    a server that reads this list drops it at once.

    [dim]fedbox certs pki --server fed.example.org --client site-a --client site-b[/]
    """
    from .certificates import make_certificates
    from .certificates import revoke as strike

    if revoke:
        strike(folder, revoke)
        typer.echo(f"revoked: {', '.join(revoke)}")
    if server or client or renew or not revoke:
        made = make_certificates(folder, server or [], client or [], days, renew)
        for path in made.written:
            typer.echo(str(path))
        for line in made.kept:
            typer.echo(f"note: {line}", err=True)


def pack(
    config: Annotated[str, typer.Argument(help="A bundled configuration (see fedbox configs) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the app (default: NAME-app).")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where a run will leave its files (default: runs/NAME-flower, here).")
    ] = None,
) -> None:
    """Make an app for Flower's own runtime, SuperLink and SuperNodes, that runs this configuration by `flwr run`.

    Server and clients are fedbox's; SuperNodes need fedbox installed and `--node-config "partition-id=N"`.

    [dim]fedbox pack quickstart --out quickstart-app && flwr run quickstart-app --stream[/]
    """
    from ..strategies.federation import Federation
    from .pack import pack
    from .session import check

    checked = check(config, overrides or [])
    clients = len(Federation.prepare(checked))
    place = (folder or Path("runs") / f"{checked.name}-flower").resolve()
    typer.echo(f"app: {pack(checked, clients, out or Path(f'{checked.name}-app'), place)}")
