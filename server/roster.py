"""Who can be asked: clients by name, whatever ids the Grid gives its nodes; and how many of them."""

import math
from collections.abc import Iterator
from typing import Protocol

from ..strategies.base import Grid, Message, RecordDict
from .stats import natural


class Roster(Protocol):
    """Clients in a fixed order, which depends on their names only."""

    def __len__(self) -> int:
        """Give the number of clients."""

    def name(self, number: int) -> str:
        """Give the name of the client at a place in the order."""

    def node(self, name: str) -> int:
        """Give the node id of a client."""


class NamedRoster:
    """A roster over names that nodes gave themselves."""

    def __init__(self, nodes: dict[str, int]) -> None:
        self._nodes = nodes
        self._names = sorted(nodes, key=natural)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        """Give the name at a place in natural order (client-2 before client-10)."""
        return self._names[number]

    def node(self, name: str) -> int:
        """Give the node id of a client."""
        return self._nodes[name]


def roster_of(grid: Grid, timeout: float | None = 60.0) -> Roster:
    """Give the Grid's roster; a Grid that has none is asked, node by node, which client each one is."""
    own: Roster | None = getattr(grid, "roster", None)
    if own is not None:
        return own
    messages = [Message(RecordDict(), node, "query") for node in sorted(grid.get_node_ids())]
    found: dict[str, int] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout):
        if reply.has_content():
            found[str(reply.content.config_records["who"]["client"])] = reply.metadata.src_node_id
    return NamedRoster(found)


def everyone(roster: Roster) -> Iterator[str]:
    """Give all names in the roster's order."""
    return (roster.name(number) for number in range(len(roster)))


def size_of(wanted: int | float | None, population: int) -> int:
    """Turn a number, a share or None (all) into a number of clients between 1 and the population."""
    if wanted is None:
        return population
    count = wanted if isinstance(wanted, int) else math.ceil(wanted * population - 1e-9)
    return max(1, min(int(count), population))
