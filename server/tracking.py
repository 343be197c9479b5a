"""Trackers by name: found (entry-point group `fedbox.callbacks`), checked before a run, guarded while it lasts."""

import inspect
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..configs import Config, Fault
from ..configs.faults import suggest
from ..strategies.registry import PluginError, look_up, registered
from .callbacks import Callback

GROUP = "fedbox.callbacks"
DEFAULT = "tensorboard"
"""The tracker of a run that names none, where its package is installed."""
log = logging.getLogger("fedbox.server")


class TrackerError(RuntimeError):
    """A tracker cannot start. Nothing was trained."""

    exit_code = 1


def find_callback(name: str) -> type[Callback]:
    """Give the callback of a registered name, or of `module:attribute`. Raises PluginError."""
    value, told = look_up("callback", GROUP, name)
    if not (inspect.isclass(value) and issubclass(value, Callback)):
        raise PluginError(f"{told} is {value!r}, not a subclass of fedbox.Callback")
    wanted = [
        each.name
        for each in inspect.signature(value).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if wanted:
        raise PluginError(f"{told} wants {', '.join(wanted)}; a tracker is made without arguments")
    return value


def missing(kind: type[Callback]) -> dict[str, str]:
    """Give the packages that a callback needs and that are not installed, each with the command that installs it."""
    return {package: command for package, command in kind.needs.items() if find_spec(package) is None}


def track_faults(raw: Mapping[str, Any]) -> Iterable[Fault]:
    """Find the faults of `track`: names that are not registered, or twice there, and packages that are missing."""
    names = raw.get("track")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return  # the schema says so
    known = registered(GROUP)
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Fault("track", f"'{name}' stands there more than once")
        if ":" not in name and name not in known:
            yield Fault("track", f"got '{name}', which is not registered; {suggest(name, known)}")
            continue
        for package, command in missing(find_callback(name)).items():
            yield Fault("track", f"'{name}' needs {package}, which is not installed; install it with: {command}")


def trackers(config: Config) -> list[Callback]:
    """Give the trackers of a checked configuration, guarded."""
    names = config.track
    if names is None:
        names = [DEFAULT] if DEFAULT in registered(GROUP) and not missing(find_callback(DEFAULT)) else []
    return [Guarded(name, find_callback(name)()) for name in names]


class Guarded(Callback):
    """A tracker that a run outlives: once it has failed it is told no more, with one warning.

    A tracker that cannot even start ends the run before its first round: better now than unseen. Raises TrackerError.
    """

    def __init__(self, name: str, tracker: Callback) -> None:
        self.name, self.tracker, self.failed = name, tracker, False

    def _tell(self, hook: str, *given: Any) -> None:
        if self.failed:
            return
        try:
            getattr(self.tracker, hook)(*given)
        except (Exception, SystemExit) as error:  # it may raise anything, and none of it is worth a run
            self.failed = True
            log.warning(
                "tracker '%s' failed (%s: %s); the run goes on without it", self.name, type(error).__name__, error
            )

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Start the tracker."""
        try:
            self.tracker.on_start(config, folder, first)
        except (Exception, SystemExit) as error:
            raise TrackerError(
                f"tracker '{self.name}' cannot start: {type(error).__name__}: {error}; mend the cause, or leave it out "
                "(--track), then go on with --resume"
            ) from error

    def on_ask(self, round_: int, kind: str, clients: int) -> None:
        """Tell the tracker."""
        self._tell("on_ask", round_, kind, clients)

    def on_reply(self) -> None:
        """Tell the tracker."""
        self._tell("on_reply")

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Tell the tracker."""
        self._tell("on_round", record)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Tell the tracker, even one that failed: it may have something to close."""
        if not self.failed:
            self._tell("on_end", summary)
            return
        with suppress(Exception, SystemExit):
            self.tracker.on_end(summary)
