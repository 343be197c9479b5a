"""What a round gave: the clients' figures, the bytes that travelled, who failed and why; and its line."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..strategies.grids import brief
from .stats import natural
from .traces import Visit


@dataclass(frozen=True)
class Failure:
    """A client that did not succeed: `kind` is raised, timeout, lost or refused."""

    client: str
    kind: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", brief(self.reason))  # whoever sent it: it is recorded, maybe every round


@dataclass
class Collected:
    """What a cohort gave: metrics by client in roster order, bytes as serialised, failures."""

    clients: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    late: int = 0
    """Updates of earlier rounds that were used."""
    not_finite: Counter[str] = field(default_factory=Counter)
    """By metric, how many clients gave a value that was not finite, and so is in no mean."""
    visits: list[Visit] = field(default_factory=list)
    """When each client of the cohort had its turn."""

    def sort(self) -> None:
        """Put clients and failures in the order of their names, whatever the order of arrival was."""
        self.clients = {name: self.clients[name] for name in sorted(self.clients, key=natural)}
        self.failures.sort(key=lambda failure: natural(failure.client))

    def mean(self, metric: str, weight: str | None = "examples") -> float | None:
        """Give the mean of a metric over the clients that have it, weighted by another one; None without any.

        Where that is 0 for all of them they count the same: why nobody used a sample is worth telling.
        """
        rows = [row for row in self.clients.values() if metric in row]
        if not rows:
            return None
        weights = [row[weight] if weight else 1.0 for row in rows]
        if not any(weights):
            weights = [1.0] * len(rows)
        total = math.fsum(weights)
        return math.fsum(row[metric] * share for row, share in zip(rows, weights, strict=True)) / total

    def means(self) -> dict[str, float]:
        """Give the mean of every metric that clients gave, weighted by their examples.

        Beside these, where there are any: `late_updates`, and in `NAME_not_finite` how many clients are in no mean of a
        metric.
        """
        names = sorted({name for row in self.clients.values() for name in row} - {"examples"})
        means = {name: self.mean(name) for name in names}
        late = {"late_updates": float(self.late)} if self.late else {}
        lacking = {f"{name}_not_finite": float(count) for name, count in sorted(self.not_finite.items())}
        return {name: value for name, value in means.items() if value is not None} | late | lacking

    def reasons(self, most: int = 5) -> str:
        """Give the first reasons in lines, each with the clients that have it, and how many failed beside these."""
        alike: dict[tuple[str, str], list[str]] = {}
        for each in self.failures:
            alike.setdefault((each.kind, each.reason), []).append(each.client)
        groups = list(alike.items())
        lines = [f"  {_some(clients)} ({kind}): {reason}" for (kind, reason), clients in groups[:most]]
        more = sum(len(clients) for _, clients in groups[most:])
        return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))

    def failure_rows(self) -> list[dict[str, str]]:
        """Give the failures as plain mappings."""
        return [asdict(failure) for failure in self.failures]


def _some(clients: list[str]) -> str:
    """Name clients: all up to three, of more the first two and how many there are besides."""
    if len(clients) > 3:
        return f"{', '.join(clients[:2])} and {len(clients) - 2} more"
    return ", ".join([*clients[:-2], " and ".join(clients[-2:])])


def line_of(
    round_: int, phase: str, metrics: dict[str, float], probed: Collected, trained: Collected, evaluated: Collected
) -> dict[str, Any]:
    """Give a round's line without its seconds: `probed` is what choosing the cohort took."""
    clients: dict[str, dict[str, float]] = {name: dict(row) for name, row in trained.clients.items()}
    for name, row in evaluated.clients.items():
        measured = {key: value for key, value in row.items() if key != "examples"}
        clients.setdefault(name, {}).update({**measured, "test_examples": row["examples"]})
    parts = (probed, trained, evaluated)
    return {
        "round": round_,
        "phase": phase,
        "metrics": metrics,
        "clients": clients,
        "bytes_up": sum(part.bytes_up for part in parts),
        "bytes_down": sum(part.bytes_down for part in parts),
        "failures": [row for part in parts for row in part.failure_rows()],
    }
