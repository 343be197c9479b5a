"""`fedbox.run`: one call that checks a configuration, simulates the federation and leaves a folder behind."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..client.state import StateStore
from ..client.workspace import Workspace, forget, use
from ..configs import Config, ConfigError, Fault
from ..configs.schema import WORKERS_A_GPU
from ..data.cores import cores
from ..data.progress import shown_by
from ..server.callbacks import Callback, Callbacks
from ..server.console import ProgressBar
from ..server.folder import RunFolder, default_folder
from ..server.holdings import write_holdings
from ..server.loop import PAUSE, Coordinator
from ..server.outcome import Result, finish
from ..server.pictures import save_examples
from ..server.session import check, claimed, conduct, raise_on_sigterm, session
from ..server.tracking import trackers
from ..strategies.contract import Plugin
from ..strategies.device import check_device, gpus
from ..strategies.exact import Arrays
from ..strategies.federation import Federation
from ..strategies.registry import find, settings_of
from ..strategies.validate import warn_of_labels
from .examples import shown
from .forking import NURSERY
from .inprocess import InProcessGrid
from .pool import Pool
from .workers import Workers

__all__ = ["Parts", "check", "raise_on_sigterm", "run_config"]


@dataclass(frozen=True)
class Parts:
    """What a test may put in the place of a run's own parts; `plugin` with one worker only, `pool` is not closed."""

    plugin: Plugin | None = None
    prepare: Callable[[Config], Federation] = Federation.prepare
    grid: type[InProcessGrid] = InProcessGrid
    pool: Pool | None = None


def run_config(
    config: Config,
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    report: bool = True,
    callbacks: Sequence[Callback] = (),
    parts: Parts | None = None,
) -> Result:
    """Run a checked configuration; see `fedbox.run`."""
    parts = parts or Parts()
    plugin = parts.plugin or find(config.strategy)
    check_device(config.engine.device)
    folder = RunFolder(out or default_folder(config, resume), resume)
    bar = ProgressBar() if progress else None
    listeners = [*callbacks, *trackers(config), *([bar] if bar else [])]
    with ExitStack() as stack:
        stack.enter_context(session(folder))
        if bar:
            stack.callback(bar.close)
        stack.enter_context(shown_by(bar.on_read if bar else lambda *_: None))
        summary = _simulate(config, plugin, folder, resume, Callbacks(listeners), stack, parts)
        if report:
            from ..server.report import write_report

            write_report([folder.path], folder.path / "report.html")
    return Result(folder.path, summary)


def _simulate(
    config: Config, plugin: Plugin, folder: RunFolder, resume: bool, callback: Callback, stack: ExitStack, parts: Parts
) -> dict[str, Any]:
    workers = workers_of(config)
    with claimed(folder, config, resume):
        coordinator, pool = _set_up(config, plugin, folder.path, workers, callback, stack, parts)
    first = coordinator.restore() if resume else 1
    folder.write_config(config)
    write_holdings(folder.path, coordinator.federation)

    def end(status: str) -> dict[str, Any]:
        weights = _final_weights(coordinator, folder.path)
        rss = pool.peak_rss_mb if pool else 0.0
        count = pool.workers if pool else workers
        summary = finish(coordinator, folder, status, weights=weights, workers=count, workers_rss_mb=rss)
        save_examples(folder.path, coordinator.federation, shown(coordinator, folder.path))
        return summary

    return conduct(coordinator, first, end)


def _set_up(
    config: Config, plugin: Plugin, folder: Path, workers: int, callback: Callback, stack: ExitStack, parts: Parts
) -> tuple[Coordinator, Workers | None]:
    # Workers start before the data is read: they import torch in the meantime.
    pool = parts.pool or _pool(config, workers)
    if pool is not None and pool is not parts.pool:
        stack.callback(pool.close)
    federation = parts.prepare(config)
    warn_of_labels(config.strategy, plugin.client, federation)
    config_json, path = config.model_dump_json(), str(folder.resolve())
    grid = parts.grid(len(federation), config_json, path, pool)
    coordinator = Coordinator(federation, plugin, grid, folder, callback, pause=PAUSE)
    if pool is not None:
        pool.setup(federation, config_json, path)
    else:
        half = plugin.client(settings_of(plugin, config.strategy, config.settings))
        use(Workspace(federation, folder, half), config_json, path)
        stack.callback(forget)
    return coordinator, pool


def workers_of(config: Config) -> int:
    """Give the number of workers that a configuration asks for. Raises ConfigError for several on the plain path."""
    wanted = config.engine.workers
    if config.engine.kind != "plain":
        return wanted or _default_workers(config.engine.device)
    if wanted not in (None, 1):
        problem = f"got {wanted}, but engine.kind=plain runs in one process; leave it out, or take another engine"
        raise ConfigError("given", [Fault("engine.workers", problem)])
    return 1


def _default_workers(device: str) -> int:
    """Give a worker for each core; on GPUs, whose memory they share, no more than a few for each."""
    if device.startswith("cpu"):
        return cores()
    return min(cores(), WORKERS_A_GPU * max(len(gpus(device)), 1))


def _pool(config: Config, workers: int) -> Workers | None:
    """Give who runs the clients; None: this process does."""
    if config.engine.kind == "ray" or workers == 1:
        NURSERY.dismiss()
    if workers > 1:
        _refuse_own_script(config)
    if config.engine.kind == "ray":
        if find_spec("ray") is None:
            problem = "the engine 'ray' needs Ray, which is not installed; install it with: pip install 'fedbox[ray]'"
            raise ConfigError("given", [Fault("engine.kind", problem)])
        from .ray_pool import RayPool

        return RayPool(config.engine.ray, workers, config.engine.device)
    return Pool(workers) if workers > 1 else None


def _refuse_own_script(config: Config) -> None:
    """Raise ConfigError for a plugin in the script that runs: another process has a `__main__` of its own."""
    named = {"strategy": config.strategy, "model.name": config.model.name}
    problem = "is in the running script, which workers cannot import; give it a module of its own, or take workers=1"
    faults = [Fault(key, f"{name} {problem}") for key, name in named.items() if name.startswith("__main__:")]
    if faults:
        raise ConfigError("given", faults)


def _final_weights(coordinator: Coordinator, folder: Path) -> Arrays:
    """Give the global model; for personal models every client's kept arrays as CLIENT/NAME.

    The server's stand beside them as server/NAME: a backbone that all share would else be in no hash.
    """
    if not coordinator.personal:
        return coordinator.committed
    kept = StateStore(folder / "clients").after(coordinator.records.rounds)
    shared = {f"server/{name}": value for name, value in coordinator.committed.items()}
    return shared | {f"{client}/{name}": value for client, arrays in kept for name, value in arrays.items()}
