"""What is told of a strategy's halves before they run: hooks that cannot be called, names that nothing calls."""

import ast
import difflib
import inspect
import logging
import sys
from collections.abc import Iterator
from typing import Any

from .contract import ClientHalf, Plugin, ServerHalf
from .logs import warn_once

log = logging.getLogger(__name__)

_CLOSE = 0.75  # of difflib's likeness: `trian` and `finsh` are hooks misspelt, `local_train` is another name
_FLOWER = {
    "aggregate": "add and finish",
    "aggregate_evaluate": "left to fedbox, which averages what clients measure",
    "aggregate_fit": "add and finish",
    "aggregate_train": "add and finish",
    "configure_evaluate": "ask_evaluate",
    "configure_fit": "ask",
    "configure_train": "ask",
    "fit": "train",
    "get_parameters": "train, whose Update holds the weights",
    "initialize_parameters": "__init__, which sets self.weights",
    "set_parameters": "prepare",
}
"""Flower's names for what a half does, and what that is here."""


def uncallable(plugin: Plugin) -> list[str]:
    """Tell of each hook that does not take what the platform gives it."""
    return [problem for half, base in _halves(plugin) for problem in _misfits(half, base)]


def unheard(plugin: Plugin) -> list[str]:
    """Tell of each public name of the plugin's own classes that nothing calls and that was likely meant as a hook."""
    return [problem for half, base in _halves(plugin) for problem in _strays(half, base)]


def warn_unheard(plugin: Plugin) -> None:
    """Log what `unheard` tells, each only once in a process."""
    for problem in unheard(plugin):
        warn_once(log, problem)


def _halves(plugin: Plugin) -> tuple[tuple[type, type], ...]:
    return (plugin.client, ClientHalf), (plugin.server, ServerHalf)


def _misfits(half: type, base: type) -> Iterator[str]:
    for name, hook in vars(base).items():
        own = inspect.getattr_static(half, name)
        if own is hook or not (inspect.isfunction(hook) and inspect.isfunction(own)):
            continue
        wanted, given = inspect.signature(hook), inspect.signature(own)
        try:
            given.bind(*wanted.parameters)
        except TypeError:
            told = ", ".join(wanted.parameters)
            yield f"its {half.__name__}.{name} takes ({', '.join(given.parameters)}); wanted: ({told})"


def _strays(half: type, base: type) -> Iterator[str]:
    own = [kind for kind in half.__mro__ if kind not in base.__mro__]
    found = {
        f"{kind.__name__}.{name}": (name, meant)
        for kind in own
        for name in vars(kind)
        if not name.startswith("_") and not hasattr(base, name) and (meant := _meant(name, base))
    }
    used = _used(own) if found else set()
    for told, (name, meant) in found.items():
        if name not in used:
            yield f"{told} is called by nothing: {meant}"


def _meant(name: str, base: type) -> str:
    """Say which hook a name was likely meant as; nothing for the ordinary name of a helper."""
    if name in _FLOWER:
        return f"the name is Flower's; here it is {_FLOWER[name]}"
    hooks: dict[type, list[str]] = {
        kind: [hook for hook in vars(kind) if not hook.startswith("_")] for kind in (ClientHalf, ServerHalf)
    }
    for kind, names in hooks.items():
        if name in names:  # not of this half, or it would be none of its own names
            return f"it is a hook of {kind.__name__}"
    close = difflib.get_close_matches(name, hooks[base], n=1, cutoff=_CLOSE)
    return f"did you mean '{close[0]}'?" if close else ""


def _used(kinds: list[type]) -> set[str]:
    """Give every name that the classes' modules read from an object, by a dot or as a text (for getattr)."""
    names: set[str] = set()
    for module in {kind.__module__ for kind in kinds}:
        try:
            tree = ast.parse(inspect.getsource(sys.modules[module]))
        except (KeyError, OSError, TypeError, SyntaxError):  # typed in, or made by a program: there is no source
            continue
        for node in ast.walk(tree):
            found: Any = getattr(node, "attr", None) or getattr(node, "value", None)
            if isinstance(found, str):
                names.add(found)
    return names
