"""Ask a cohort, take the replies as they come, check each one, and say what went wrong with the others."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ..configs import ClientsConfig
from ..strategies.base import (
    ERROR_KINDS,
    Grid,
    Message,
    WireError,
    content_size,
    read_update,
    task_content,
    to_record,
)
from ..strategies.contract import Ask, RefusedUpdateError, ServerHalf, Update
from ..strategies.exact import SumRangeError
from ..strategies.grids import Span
from ..strategies.partial import GROUP, weigh
from ..strategies.selection import PROBE
from ..strategies.validate import check_update
from . import hooks
from .collected import Collected, Failure
from .grouping import Grouping, Merge, cut_of
from .roster import Roster, everyone
from .traces import visits

_LARGEST = 1e100
"""The largest figure of a client that counts. What is beyond is as if it were not given, like one that is not finite:
squares and weighted sums of the others stay in range, whatever one client reports."""


class Collector:
    """Carries asks to clients and updates back over any Flower Grid."""

    def __init__(self, grid: Grid, roster: Roster, half: ServerHalf[Any], clients: ClientsConfig) -> None:
        self.grid = grid
        self.roster = roster
        self.half = half
        self.clients = clients
        self.timeout = clients.timeout
        self._late = clients.late == "use" and hasattr(grid, "late_replies")

    def collect(
        self,
        kind: str,
        round_: int,
        ask: Ask,
        cohort: Sequence[str],
        use: Callable[[str, Update], None],
        tick: Callable[[], None] = lambda: None,
        merge: Merge | None = None,
    ) -> Collected:
        """Send `ask` as a message of `kind` (train, evaluate) to the cohort and hand each good update to `use`.

        Messages are made as the Grid takes them and updates are used as they arrive, so memory does not grow with
        the cohort. An update that `use` cannot take (SumRangeError) counts as refused. Where `merge` is given, groups
        of clients may be added up where they run; it takes their sums.
        """
        result = Collected()
        if self._late and kind == "train":
            self._use_late(round_, use, result)
        times = _Times()
        waiting = set(cohort)
        grouping = self._grouping(round_, ask, cohort, merge)
        parts: Sequence[Sequence[str]] = grouping.cut.groups if grouping else self._alone(kind, cohort)
        while parts:
            messages = self._messages(kind, round_, ask, parts, result, times, grouping)
            names = {self.roster.node(part[0]): part[0] for part in parts}
            for reply in exchange(self.grid, messages, self.timeout, self._late and kind == "train"):
                name = names.get(reply.metadata.src_node_id)
                if name is None or name not in waiting:
                    continue  # not of this cohort, or a second reply of the same client
                if grouping and reply.metadata.message_type == GROUP:
                    done = self._take_group(name, reply, grouping, result)
                else:
                    self._take(name, reply, hooks.expects(self.half) if kind == "train" else {}, use, result)
                    done = [name]
                waiting.difference_update(done)
                times.now(times.came, done)
                for _ in done:
                    tick()
            parts = [(name,) for name in grouping.rest()] if grouping else []
        limit = f"no reply within {self.timeout:g} s (clients.timeout)" if self.timeout else "no reply"
        result.failures += [Failure(name, "timeout", limit) for name in waiting]
        result.sort()
        spans: list[Span] = getattr(self.grid, "spans", list)()
        spans = grouping.spread(spans) if grouping else spans
        what = PROBE if ask.phase == PROBE else kind
        result.visits = visits(what, times.sent, times.came, spans, time.monotonic())
        return result

    def _grouping(self, round_: int, ask: Ask, cohort: Sequence[str], merge: Merge | None) -> Grouping | None:
        """Give how the cohort goes out in groups; None where each client is asked by itself."""
        if merge is None or self.timeout is not None or self._late:  # of a group that is late, nobody would count
            return None
        cut = cut_of(self.grid, self.half, ask, cohort)
        return None if cut is None else Grouping(self.half, ask, round_, merge, cut)

    def _alone(self, kind: str, cohort: Sequence[str]) -> list[tuple[str]]:
        """Give the clients one by one, in the order in which the Grid wants to be asked."""
        ordered = getattr(self.grid, "ordered", lambda _kind, names: names)(kind, cohort)
        return [(name,) for name in ordered]

    def _take_group(self, head: str, reply: Message, grouping: Grouping, result: Collected) -> list[str]:
        """Take the reply of a group; give its clients, none where they are to be asked one by one."""
        members = grouping.members(head)
        rows = grouping.rows(reply, members)
        if rows is None:
            return []
        for row in rows:
            result.bytes_up += row.size
            if row.kind:
                result.failures.append(Failure(row.client, row.kind, row.reason))
            else:
                self._count(row.client, row.metrics, row.examples, result)
        return list(members)

    def _use_late(self, round_: int, use: Callable[[str, Update], None], result: Collected) -> None:
        """Use updates of earlier rounds: each counts less, the later it is."""
        names = {self.roster.node(name): name for name in everyone(self.roster)}
        for reply in self.grid.late_replies():  # type: ignore[attr-defined]
            name = names[reply.metadata.src_node_id]
            factor = (1.0 + round_ - int(reply.metadata.group_id)) ** -self.clients.staleness

            def aged(client: str, update: Update, factor: float = factor) -> None:
                examples = max(1, round(update.examples * factor)) if update.examples else 0
                use(client, replace(update, examples=examples))

            late = Collected()
            self._take(name, reply, hooks.expects(self.half), aged, late)
            result.bytes_up += late.bytes_up
            result.failures += late.failures
            result.late += len(late.clients)

    def _messages(
        self,
        kind: str,
        round_: int,
        ask: Ask,
        parts: Iterable[Sequence[str]],
        result: Collected,
        times: "_Times",
        grouping: Grouping | None,
    ) -> Iterator[Message]:
        shared = to_record(ask.arrays)
        for part in parts:
            name, node = part[0], self.roster.node(part[0])
            if grouping and not grouping.alone(part):
                message, size = grouping.message(part, shared, node)
            else:
                content = task_content(ask, round_, shared, hooks.ask_client(self.half, round_, name))
                message, size = Message(content, node, kind, group_id=str(round_)), content_size(content)
            if not any(name in times.sent for name in part):  # what is sent once more is counted once
                result.bytes_down += size
            times.now(times.sent, part)
            yield message

    def _take(
        self,
        name: str,
        reply: Message,
        expects: Mapping[str, NDArray[Any]],
        use: Callable[[str, Update], None],
        result: Collected,
    ) -> None:
        if reply.has_error():
            code = ERROR_KINDS.get(reply.error.code, "raised")
            result.failures.append(Failure(name, code, reply.error.reason or "no reason given"))
            return
        try:
            result.bytes_up += weigh(reply.content)
            update = read_update(reply.content)
            check_update(update, expects, self.clients.max_change if expects else None)
            use(name, update)
        except (WireError, RefusedUpdateError, SumRangeError) as error:
            result.failures.append(Failure(name, "refused", str(error)))
            return
        self._count(name, update.metrics, update.examples, result)

    @staticmethod
    def _count(name: str, metrics: Mapping[str, float], examples: int, result: Collected) -> None:
        usable = {key: value for key, value in metrics.items() if abs(value) <= _LARGEST}  # NaN is not, either
        result.clients[name] = usable | {"examples": examples}
        result.not_finite.update(metrics.keys() - usable.keys())


@dataclass
class _Times:
    """When clients were asked and when they answered, of `time.monotonic`."""

    sent: dict[str, float] = field(default_factory=dict)
    came: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def now(into: dict[str, float], names: Iterable[str]) -> None:
        """Note that it happened to these clients now."""
        into.update(dict.fromkeys(names, time.monotonic()))


def exchange(
    grid: Grid, messages: Iterable[Message], timeout: float | None, keep_late: bool = False
) -> Iterator[Message]:
    """Give the replies as they come: from our Grids one by one, from any other when all are there."""
    stream = getattr(grid, "stream", None)
    if stream is not None:
        yield from stream(messages, timeout=timeout, **({"keep_late": True} if keep_late else {}))
    else:
        yield from grid.send_and_receive(list(messages), timeout=timeout)
