"""fedbox: a federation in a box, bounding boxes included.

>>> import fedbox
>>> result = fedbox.run("quickstart", rounds=3, strategy="fedprox")  # doctest: +SKIP

Heavy imports (torch, Flower) happen on first use, so `import fedbox` and `fedbox --help` are quick.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configs import Config, ConfigError, load_config
    from .server.callbacks import Callback
    from .server.outcome import Result
    from .simulations.predicting import FinishedModel, Found
    from .strategies.contract import (
        Ask,
        Batch,
        ClientHalf,
        Plugin,
        Samples,
        ServerHalf,
        Settings,
        Site,
        Update,
    )

__version__ = "0.1.0"

_LAZY = {
    "Ask": "strategies.contract",
    "Batch": "strategies.contract",
    "Callback": "server.callbacks",
    "ClientHalf": "strategies.contract",
    "Config": "configs",
    "ConfigError": "configs",
    "FinishedModel": "simulations.predicting",
    "Found": "simulations.predicting",
    "Plugin": "strategies.contract",
    "Result": "server.outcome",
    "Samples": "strategies.contract",
    "ServerHalf": "strategies.contract",
    "Settings": "strategies.contract",
    "Site": "strategies.contract",
    "Update": "strategies.contract",
    "load_config": "configs",
}

__all__ = [
    "__version__",
    "run",
    "load",
    "Ask",
    "Batch",
    "Callback",
    "ClientHalf",
    "Config",
    "ConfigError",
    "FinishedModel",
    "Found",
    "Plugin",
    "Result",
    "Samples",
    "ServerHalf",
    "Settings",
    "Site",
    "Update",
    "load_config",
]


def run(
    config: "str | Path | Mapping[str, Any] | Config" = "quickstart",
    /,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    callbacks: "Sequence[Callback]" = (),
    **overrides: Any,
) -> "Result":
    """Simulate a federation and return what came out.

    `config` is the name of a bundled configuration, the path of a YAML file, a mapping, or what `load_config` gave.
    `overrides` change keys of it: top-level keys by name (`rounds=3`, `strategy="fedprox"`), deeper ones with two
    underscores for the dot (`train__lr=0.05`, `data__partition__alpha=0.1`) or as `**{"train.lr": 0.05}`; `workers=2`
    is short for `engine__workers=2`, and `strategy` may be a Plugin. The run leaves its files in `out` (default: a new
    folder under `runs/`).

    Raises ConfigError (all faults at once), DataError, PluginError, CheckpointError, or RunFailedError when too few
    clients of a round succeed.
    """
    from .simulations.forking import begin_early

    short = {"workers": "engine.workers"}
    if isinstance(overrides.get("engine"), str):
        overrides["engine.kind"] = overrides.pop("engine")
    changes = {short.get(key, key.replace("__", ".")): value for key, value in overrides.items()}
    begin_early(changes.get("engine.workers"), changes.get("engine.kind"))
    from .simulations.run import check, run_config

    checked = check(config, changes)
    folder = Path(out).expanduser() if out is not None else None
    return run_config(checked, out=folder, resume=resume, progress=not quiet, report=report, callbacks=callbacks)


def load(folder: str | Path, *, client: str | None = None, device: str | None = None) -> "FinishedModel":
    """Give the model that a run left in its folder, ready for use: `.model`, `.classes`, `.config`, `.predict(images)`.

    `folder` is that of a run that has ended. Of one that was broken off it is the model of the last whole round, and
    `.note` says so. `client` takes the model that a client of this name kept, where the strategy lets clients keep one.
    `device` is a torch device such as cpu or cuda:0, by default that of the run. The data set is not read, unless the
    run has not ended or the strategy has code of its own that brings the model in.

    Raises FolderError for a folder without a run or a whole round, for a strategy that leaves no global model (name a
    client), and for a client that kept none; CheckpointError for a damaged checkpoint; ConfigError, PluginError and
    ModelError where the configuration, the strategy or the network is not to be had here.
    """
    from .simulations.finished import load as read

    return read(Path(folder).expanduser(), client=client, device=device)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
