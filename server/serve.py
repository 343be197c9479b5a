"""`fedbox serve`: host a run for clients on other machines, over the same loop, records and report as a simulation."""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..configs import Config, ConfigError, Fault
from ..configs.faults import some
from ..configs.tls import Identity, is_loopback
from ..strategies.atomic import write_atomic
from ..strategies.contract import Plugin
from ..strategies.device import check_device
from ..strategies.federation import Federation
from ..strategies.registry import find
from .callbacks import Callback, Callbacks
from .enrolment import Enrolment
from .fleet import Fleet
from .folder import RUN_ID_FILE, RunFolder, default_folder
from .grpc_grid import GrpcGrid
from .lines import Terms
from .loop import Coordinator
from .metrics import Metrics
from .outcome import Result, finish
from .pictures import Shown, save_examples
from .report import write_report
from .session import claimed, conduct, session
from .tracking import trackers

log = logging.getLogger("fedbox.server")
_LINGER = 30.0  # seconds: a client that was off line when the run ended is told so if it comes back soon


@dataclass(frozen=True)
class Host:
    """How a run is served: where, to whom, on which terms."""

    listen: str
    identity: Identity | None = None
    clients: Path | None = None
    """The list of clients; without it those of the configuration."""
    wait_for: int | None = None
    """Clients that must be on line before the first round; None: all."""
    metrics_port: int | None = None
    terms: Terms = field(default_factory=Terms)


def serve(
    config: Config,
    service: Host,
    *,
    out: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    listening: Callable[[int], None] = lambda _port: None,
) -> Result:
    """Host a checked configuration until its last round. Raises what `fedbox.run` raises, and ListenError.

    `listening` is told the port once clients can come.
    """
    plugin = find(config.strategy)
    check_device(config.engine.device)
    folder = RunFolder(out or default_folder(config, resume), resume)
    with ExitStack() as stack:
        stack.enter_context(session(folder))
        with claimed(folder, config, resume):
            grid, coordinator, watcher = _set_up(config, plugin, service, folder, callbacks, stack)
        first = coordinator.restore() if resume else 1
        watcher.see(first - 1, coordinator.records.metrics)
        folder.write_config(config)
        log.info("%s listens on port %d for %d clients", config.name, grid.port, len(grid.roster))
        listening(grid.port)
        if coordinator.left(first):  # else the clients may have gone home: all that is left is to write it down
            _await_clients(grid, service.wait_for)
        summary = conduct(coordinator, first, partial(_end, coordinator, folder))
        write_report([folder.path], folder.path / "report.html")
        grid.close("the run is complete", over=True, linger=_LINGER)
    return Result(folder.path, summary)


def _end(coordinator: Coordinator, folder: RunFolder, status: str) -> dict[str, Any]:
    summary = finish(coordinator, folder, status, engine="grpc")
    # What the clients keep stays with them: the pictures show the global model's boxes.
    save_examples(folder.path, coordinator.federation, Shown(coordinator.records.rounds, coordinator.measured()))
    return summary


def _set_up(
    config: Config,
    plugin: Plugin,
    service: Host,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    stack: ExitStack,
) -> "tuple[GrpcGrid, Coordinator, Watcher]":
    """Open all that the run needs; `stack` closes it."""
    federation, enrolment = _who(service, config)
    classes = federation.dataset.classes
    _check_wanted(service.wait_for, enrolment.names)
    fleet = Fleet(enrolment, service.terms, config.model_dump_json(), _run_id(folder), classes)
    grid = GrpcGrid(fleet, service.listen, service.identity, uuid.uuid4().hex[:8])
    stack.callback(grid.close)
    listeners = [*callbacks, *trackers(config)]
    if service.metrics_port is not None:
        metrics = Metrics(fleet, service.metrics_port)
        stack.callback(metrics.close)
        listeners.append(metrics)
    watcher = Watcher(config)
    grid.service.status = watcher.status
    return grid, Coordinator(federation, plugin, grid, folder.path, Callbacks([watcher, *listeners])), watcher


class Watcher(Callback):
    """Knows where the run is, for `fedbox status` and the log."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._done: tuple[int, Mapping[str, float]] = (0, {})
        self._state = "waiting for clients"

    def see(self, round_: int, metrics: Mapping[str, float]) -> None:
        """Hear how many rounds are done, and the last metrics."""
        self._done = round_, dict(metrics)

    def status(self) -> dict[str, Any]:
        """Give what `fedbox status` shows of the run."""
        round_, metrics = self._done
        return {
            "name": self._config.name,
            "strategy": self._config.strategy,
            "state": self._state,
            "round": round_,
            "rounds": self._config.rounds,
            "metrics": dict(metrics),
        }

    def on_ask(self, round_: int, kind: str, clients: int) -> None:
        """Hear what is under way."""
        self._state = f"round {round_}: {clients} client(s) {'train' if kind == 'train' else 'are evaluated'}"

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Keep the last round, and log it."""
        self.see(record["round"], record["metrics"])
        failed = len(record["failures"])
        extra = {"round": record["round"], "metrics": record["metrics"], "seconds": record["seconds"]}
        log.info("round %d: %d failure(s), %.1f s", record["round"], failed, record["seconds"]["total"], extra=extra)
        for failure in record["failures"]:
            log.warning("round %d: %s %s: %s", record["round"], *(failure[k] for k in ("client", "kind", "reason")))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Hear how the run ended: clients may still be awaited to be told."""
        self._state = str(summary["status"])


def check_exposure(listen: str, secure: bool) -> None:
    """Raise ConfigError for an address without a port, or one that others reach although there is no TLS."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError("given", [Fault("--listen", f"got {listen!r}; wanted: HOST:PORT, such as 0.0.0.0:9091")])
    if not secure and not is_loopback(host):
        problem = (
            f"without TLS only on loopback (127.0.0.1), not on {host or 'all addresses'}; `fedbox certs` makes keys"
        )
        raise ConfigError("given", [Fault("--insecure", problem)])


def _who(service: Host, config: Config) -> tuple[Federation, Enrolment]:
    """Give what the server holds, and who may join. Where all have names, and so data, of their own, none are dealt."""
    listed = Enrolment(service.clients) if service.clients is not None else None
    if listed is not None and not any(map(Federation.deals_to, listed.names)):
        return Federation.hosting(config), listed
    federation = Federation.prepare(config)
    dealt = [federation.name(number) for number in range(len(federation))]
    if listed is not None:
        _tell_differences(listed.names, dealt)
    return federation, listed or Enrolment(None, dealt)


def _tell_differences(listed: Sequence[str], dealt: Sequence[str]) -> None:
    """Warn of names on the list that get no part of the data though they look so, and of parts that nobody gets."""
    if without := [name for name in listed if Federation.deals_to(name) and name not in dealt]:
        words = "%s may join, but data.partition.clients deals data to %d only; others need fedbox join --data"
        log.warning(words, some(without, 8), len(dealt))
    if absent := [name for name in dealt if name not in listed]:
        words = "data.partition.clients deals data to %d, but %s may not join: nobody trains on those parts"
        log.warning(words, len(dealt), some(absent, 3))


def _check_wanted(wanted: int | None, names: Sequence[str]) -> None:
    """Raise ConfigError for more clients to wait for than may join."""
    if wanted is not None and wanted > len(names):
        problem = f"got {wanted}, but only {len(names)} may join ({some(names, 8)}); wanted: at most as many"
        raise ConfigError("given", [Fault("--wait-for", problem)])


def _run_id(folder: RunFolder) -> str:
    """Give the run's own name, made once: clients keep their state under it, a resumed run finds it again."""
    path = folder.path / RUN_ID_FILE
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex.encode())
    return path.read_text().strip()


def _await_clients(grid: GrpcGrid, wanted: int | None) -> None:
    def missing(names: list[str]) -> None:
        log.info("waiting for %s", some(names, 8))

    grid.wait_for(len(grid.roster) if wanted is None else wanted, missing)
