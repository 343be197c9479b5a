"""The catalogue of plugins: every name that a configuration may use, by group, with its package and its fault."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

from ..data.registry import DATASETS, find_reader
from ..models import MODELS, find_model
from ..strategies.registry import find
from ..strategies.selection import find_selector
from .tracking import find_callback


@dataclass(frozen=True)
class Entry:
    """One plugin; `problem` says why it cannot be used, and is empty otherwise."""

    name: str
    summary: str
    package: str
    target: str
    problem: str = ""


@dataclass(frozen=True)
class Group:
    """A kind of plugin: where its names are used, how one is told in a line, and those that need no entry point."""

    used: str
    summary: Callable[[str], str]
    built_in: Mapping[str, Any] = field(default_factory=dict)


def _first_line(value: Any) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0].rstrip(".")


def _of_strategy(name: str) -> str:
    plugin = find(name)
    return plugin.summary or _first_line(plugin.client)


def _of_selector(name: str) -> str:
    plugin = find_selector(name)
    return plugin.summary or _first_line(plugin.selector)


GROUPS: Mapping[str, Group] = {
    "strategies": Group("strategy=NAME", _of_strategy),
    "selectors": Group("clients.selector=NAME", _of_selector),
    "models": Group("model=NAME", lambda name: _first_line(find_model(name)), MODELS),
    "datasets": Group("data.dataset=NAME", lambda name: _first_line(find_reader(name)), DATASETS),
    "callbacks": Group("--track NAME", lambda name: _first_line(find_callback(name))),
}


def catalog(group: str) -> list[Entry]:
    """Give the plugins of a group (a key of GROUPS) by name, the built-in ones and those of installed packages."""
    kind = GROUPS[group]
    own = f"fedbox {version('fedbox')}"
    entries = [
        Entry(name, _first_line(value), own, f"{value.__module__}:{value.__qualname__}")
        for name, value in kind.built_in.items()
    ]
    entries += [_entry(point, kind) for point in entry_points(group=f"fedbox.{group}")]
    return sorted(entries, key=lambda entry: (entry.name, entry.package))


def _entry(point: EntryPoint, kind: Group) -> Entry:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
    if point.name in kind.built_in:
        return Entry(point.name, "", package, point.value, "a built-in one has this name; register it under another")
    try:
        return Entry(point.name, kind.summary(point.name), package, point.value)
    except (Exception, SystemExit) as error:  # one broken package must not hide the others
        return Entry(point.name, "", package, point.value, str(error))
