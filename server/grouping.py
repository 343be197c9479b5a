"""Groups of a cohort whose updates are added up where they are made; see `strategies/partial.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..strategies.base import ERROR_KINDS, ArrayRecord, Grid, Message, content_size, task_content
from ..strategies.contract import Ask, ServerHalf
from ..strategies.exact import ExactSum
from ..strategies.grids import Span
from ..strategies.partial import GROUP, Group, Row, group_content, read_partial
from . import hooks

Merge = Callable[[ExactSum], None]


@dataclass(frozen=True)
class Cut:
    """A cohort cut into groups by whoever runs them; `stacked`: the clients of a group train in one pass."""

    groups: Sequence[Sequence[str]]
    stacked: bool = False


@dataclass
class Grouping:
    """How one round's cohort goes out in groups, and what came of them.

    In a group of one a client is asked as ever, unless it is to be stacked: a stack of one may differ in its last bits
    from a client on its own.
    """

    half: ServerHalf[Any]
    ask: Ask
    round: int
    merge: Merge
    cut: Cut
    _broken: list[str] = field(default_factory=list)
    _members: dict[str, Sequence[str]] = field(default_factory=dict)
    _rows: dict[str, list[Row]] = field(default_factory=dict)
    _size: int = 0

    def message(self, members: Sequence[str], shared: ArrayRecord, node: int) -> tuple[Message, int]:
        """Give the message to a group, and the bytes that its clients' own messages would have had."""
        task = task_content(self.ask, self.round, shared, {})
        self._size = self._size or content_size(task)
        group = Group(members, list(hooks.expects(self.half)), self.cut.stacked)
        self._members[members[0]] = members
        return Message(group_content(task, group), node, GROUP, group_id=str(self.round)), self._size * len(members)

    def alone(self, members: Sequence[str]) -> bool:
        """Say whether this is one client that is asked as ever."""
        return len(members) == 1 and not self.cut.stacked

    def members(self, head: str) -> Sequence[str]:
        """Give the clients of the group whose message went to the node of `head`."""
        return self._members[head]

    def rows(self, reply: Message, members: Sequence[str]) -> list[Row] | None:
        """Give the rows of a group's reply, its sum merged; None where its clients are to be asked one by one."""
        if reply.has_error():
            if len(members) > 1:
                self._broken += members
                return None
            kind = ERROR_KINDS.get(reply.error.code, "raised")
            return [Row(members[0], kind, reply.error.reason or "no reason given")]
        rows, total = read_partial(reply.content)
        self.merge(total)
        self._rows[members[0]] = rows
        return rows

    def rest(self) -> list[str]:
        """Give, once, the clients of groups that came to nothing."""
        broken, self._broken = self._broken, []
        return broken

    def spread(self, spans: Sequence[Span]) -> list[Span]:
        """Give, in place of the span of a group, those of its clients."""
        found: list[Span] = []
        for span in spans:
            rows = self._rows.get(span.client)
            if rows is None:
                found.append(span)
                continue
            at = span.began
            found += [Span(row.client, span.worker, at + row.began, at + row.ended) for row in rows]
        return found


def cut_of(grid: Grid, half: ServerHalf[Any], ask: Ask, cohort: Sequence[str]) -> Cut | None:
    """Give the groups in which a Grid runs a cohort; None where each client is to be asked by itself."""
    cut = getattr(grid, "cut", None)
    if cut is None or not hooks.mergeable(half, ask):
        return None
    found: Cut | None = cut(cohort)
    return found
