"""A group of clients in one message: they run where it arrives, and one sum of their updates comes back.

For small models, carrying, checking and adding up an update costs more than the training. The exact sum of `exact.py`
gives the same bits wherever its terms are added, so a server whose aggregation is the contract's weighted mean may have
them checked and added where they were made. A message of the type `train.group` carries what a `train` message does
and the names of the clients. The reply carries a row for each client, with what its own reply would have said and
weighed, and the halves of the sum.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import (
    ArrayRecord,
    ConfigRecord,
    RecordDict,
    WireError,
    content_size,
    decoded,
    read_update,
    records_of,
    to_record,
    update_content,
)
from .contract import RefusedUpdateError, Update
from .exact import ExactSum, SumRangeError
from .validate import check_update

GROUP = "train.group"
_PLAIN = 2**31  # more examples than this are looked at as they would travel

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Row:
    """What became of one client of a group.

    `kind` is empty for a client whose update is in the sum, else that of a failure; `size` is that of its reply in
    bytes, 0 where there was none; `began` and `ended` are seconds since the group began.
    """

    client: str
    kind: str = ""
    reason: str = ""
    size: int = 0
    examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0


class Partial:
    """The checked sum of a group's updates, and the group's rows. `expects` is what each update must look like."""

    def __init__(self, expects: Mapping[str, NDArray[Any]], max_change: float | None) -> None:
        self.total = ExactSum()
        self.rows: list[Row] = []
        self._expects, self._max_change = expects, max_change

    def add(self, client: str, update: Update, began: float, ended: float) -> None:
        """Take a client's update, or note why it is refused. Raises what making a reply of it raises."""
        size, content = 0, None if _everyday(update) else update_content(update)
        try:
            size = _size(_layout(update), tuple(update.metrics), update.examples) if content is None else weigh(content)
            update = update if content is None else read_update(content)
            check_update(update, self._expects, self._max_change)
            if update.examples > 0:
                self.total.add(update.weights, update.examples)
        except (WireError, RefusedUpdateError, SumRangeError) as error:
            self.rows.append(Row(client, "refused", str(error), size, began=began, ended=ended))
            return
        self.rows.append(Row(client, "", "", size, update.examples, dict(update.metrics), began, ended))

    def fail(self, client: str, kind: str, reason: str, began: float, ended: float) -> None:
        """Note a client that gave no update."""
        self.rows.append(Row(client, kind, reason, began=began, ended=ended))

    def content(self) -> RecordDict:
        """Give the content of the reply."""
        facts = json.dumps({"rows": [vars(row) for row in self.rows], "sum": self.total.facts()})
        return RecordDict({"arrays": to_record(self.total.halves()), "group": ConfigRecord({"facts": facts})})


def read_partial(content: RecordDict) -> tuple[list[Row], ExactSum]:
    """Give the rows and the sum of a group's reply."""
    facts = json.loads(str(records_of(content, ConfigRecord)["group"]["facts"]))
    halves: dict[str, Any] = decoded(records_of(content, ArrayRecord)["arrays"])
    return [Row(**row) for row in facts["rows"]], ExactSum.restored(facts["sum"], halves)


@dataclass(frozen=True)
class Group:
    """What a group's message says besides what each client receives.

    `expects` names the arrays, of those that were sent, that an update must look like; `stacked` asks that the clients
    train in one pass.
    """

    clients: Sequence[str]
    expects: Sequence[str]
    stacked: bool = False


def group_content(task: RecordDict, group: Group) -> RecordDict:
    """Give the content of the message to a group; `task` is what each of its clients would receive."""
    told: dict[str, Any] = {"clients": list(group.clients), "expects": list(group.expects), "stacked": group.stacked}
    return RecordDict({**task, "group": ConfigRecord(told)})


def read_group(content: RecordDict) -> Group:
    """Give what a group's message says of the group."""
    told: Any = records_of(content, ConfigRecord)["group"]
    return Group(list(told["clients"]), list(told["expects"]), bool(told["stacked"]))


def _everyday(update: Update) -> bool:
    """Say whether an update comes out of its reply as it went in, and the reply's size follows from its layout."""
    numbers = all(type(value) is float for value in update.metrics.values())
    arrays = all(type(value) is np.ndarray and value.dtype.kind in "fiub" for value in update.weights.values())
    return numbers and arrays and not update.extra and type(update.examples) is int and 0 <= update.examples < _PLAIN


def _layout(update: Update) -> Layout:
    return tuple((name, value.dtype.str, value.shape) for name, value in update.weights.items())


def weigh(content: RecordDict) -> int:
    """Give the size of a reply's content in bytes. Raises WireError for what cannot be sent."""
    try:
        return content_size(content)
    except ValueError as error:  # such as a number of examples beyond 64 bits
        raise WireError(f"the reply cannot be sent: {error}") from error


@lru_cache(maxsize=4096)
def _size(layout: Layout, metrics: tuple[str, ...], examples: int) -> int:
    weights = {name: np.zeros(shape, dtype) for name, dtype, shape in layout}
    return content_size(update_content(Update(weights, examples, dict.fromkeys(metrics, 0.0))))
