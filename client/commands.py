"""The client's commands: `fedbox join` and `fedbox status`. Heavy imports stand inside, so that --help is quick."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

_FORMS = Literal["text", "json"]
Target = Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server.")]
Cert = Annotated[Path | None, typer.Option(help="This client's certificate, NAME.pem.")]
Key = Annotated[Path | None, typer.Option(help="Its key, NAME.key.")]
Authority = Annotated[Path | None, typer.Option(help="The authority that signed all certificates, ca.pem.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="No TLS; to a server on this machine only.")]


def join(
    target: Target,
    name: Annotated[str, typer.Option(help="This client's name, as in its certificate.")],
    data: Annotated[
        Path | None,
        typer.Option(help="This client's own data (default: its part of the data set that the configuration deals)."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Torch device: cpu, cuda, cuda:0 (default: as configured).")
    ] = None,
    cert: Cert = None,
    key: Key = None,
    ca: Authority = None,
    insecure: Insecure = False,
    state: Annotated[
        Path | None, typer.Option(help="Folder for what the client keeps (default: fedbox-state/NAME).")
    ] = None,
    give_up: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds without a server after which to end (default: never).")
    ] = None,
    log: Annotated[_FORMS, typer.Option(help="Form of the log on stderr.")] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings and errors only.")] = False,
) -> None:
    """Take part in a federation that [bold]fedbox serve[/] hosts.

    The data stay here: the server learns how many samples there are, and what the strategy sends. The process, its
    model and its device stay warm between rounds. A line that drops comes back by itself; the command ends when the
    run does.

    [dim]fedbox join fed.example.org:9091 --name site-a --data /data --cert site-a.pem --key site-a.key --ca ca.pem[/]
    """
    import logging

    from ..configs.tls import doubts
    from ..strategies.logs import set_up_logs
    from .grpc_line import RefusedError
    from .join import join, leave_now

    set_up_logs(log, quiet)
    identity = _identity(cert, key, ca, insecure, target)
    for doubt in doubts(identity):
        logging.getLogger("fedbox.client").warning("%s", doubt)
    state = state or Path("fedbox-state") / name
    try:
        word = join(target, name, identity, data=data, device=device, state=state, give_up=give_up)
    except KeyboardInterrupt:
        typer.secho("stopped", err=True)
        leave_now(130)
        return
    except RefusedError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        leave_now(error.exit_code)
        return
    if not quiet:
        typer.secho(f"{name}: {word}", err=True)
    leave_now(0)


def status(
    target: Target,
    cert: Cert = None,
    key: Key = None,
    ca: Authority = None,
    insecure: Insecure = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Show where a served run is: round, metrics, and every client, on line or not.

    Any certificate that may join may ask, and the server's own.
    """
    import asyncio
    import json

    from rich.console import Console
    from rich.table import Table

    from .grpc_line import ask_status

    text = asyncio.run(ask_status(target, _identity(cert, key, ca, insecure, target)))
    if as_json:
        typer.echo(text)
        return
    found = json.loads(text)
    console = Console()
    console.print(
        f"{found['name']} ({found['strategy']}): {found['state']}; {found['round']} of {found['rounds']} rounds done"
    )
    for name, value in found["metrics"].items():
        if value is not None and "." not in name:
            console.print(f"  {name} {value:.4g}")
    table = Table("client", "line", "for", "labelled", "unlabelled", "test")
    for each in found["clients"]:
        line = "[green]on[/]" if each["online"] else "[red]off[/]"
        counts = (str(each.get(role, "")) for role in ("labelled", "unlabelled", "test"))
        table.add_row(each["name"], line, f"{each['seconds']:.0f} s", *counts)
    console.print(table)


def _identity(cert: Path | None, key: Path | None, ca: Path | None, insecure: bool, target: str) -> Any:
    from ..configs import ConfigError, Fault
    from ..configs.tls import is_loopback, read_identity

    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError("given", [Fault("HOST:PORT", f"got {target!r}; wanted such as fed.example.org:9091")])
    if insecure and not is_loopback(host):
        problem = f"without TLS only to this machine (127.0.0.1), not to {host}"
        raise ConfigError("given", [Fault("--insecure", problem)])
    return read_identity(cert, key, ca, insecure)
