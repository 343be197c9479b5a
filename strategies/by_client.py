"""Arrays that a server half remembers of each client, as the flat names that a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from .exact import Arrays


def joined(head: str, by_client: Mapping[str, Arrays]) -> Arrays:
    """Give the arrays of all clients, each under HEAD/CLIENT/NAME."""
    return {f"{head}/{client}/{name}": value for client, own in by_client.items() for name, value in own.items()}


def divided(head: str, state: Mapping[str, NDArray[Any]]) -> dict[str, Arrays]:
    """Give back what `joined` was given; arrays under other heads are left out."""
    by_client: dict[str, Arrays] = {}
    for key, value in state.items():
        if key.startswith(f"{head}/"):
            client, _, name = key.removeprefix(f"{head}/").partition("/")
            by_client.setdefault(client, {})[name] = value
    return by_client
