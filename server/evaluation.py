"""Figures over clients: mean, spread and the worst decile of what each measured on its own test set."""

import math
from collections.abc import Sequence
from typing import Literal

from .collected import Collected
from .stats import SCORES, worst_decile

OTHER_SCORES = ("prototype_accuracy",)
"""Scores that some strategies measure beside the task's own."""
PERSONAL = ("personal_", "teacher_")
"""How metrics begin that a client measured on models of its own."""
SHARED = "shared_"
"""How those begin that personal models have on the server's samples."""


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Give (mean, population standard deviation, worst decile) of accuracies.

    The worst decile is the mean of the lowest tenth of the clients: floor(n / 10) of them, at least one.
    """
    count = len(values)
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / count)
    return mean, deviation, worst_decile(values)


def client_metrics(evaluated: Collected, personal: Literal["server", "clients"] | None) -> dict[str, float]:
    """Give the metrics of a client evaluation.

    For the task's score, `accuracy` or `map50`: `client_accuracy`, `client_accuracy_std` and
    `client_accuracy_worst_decile` over the clients that have a test set, each client counting once; and their mean
    `client_loss`. So have others that a strategy's `evaluate` gives (`client_NAME`), but for those of single classes
    and domains (`NAME.PART`), which stand in the clients' rows alone. What clients measured on models of their own
    beside the global one keeps its name (`personal_map50`, `teacher_map50`) and is the mean over those that have it.

    Personal models without a global one are also measured on the server's test set. With `personal` "server" the mean
    over clients of each of these metrics has the name that a global model's would have (`accuracy`, `loss`, `map50`,
    `map50_by_domain.NAME`). With "clients" the means of what they reached on their own test sets have these names, and
    those on the server's begin with `shared_`.
    """
    metrics: dict[str, float] = {}
    for score in (*SCORES, *OTHER_SCORES):
        values = [row[score] for row in evaluated.clients.values() if score in row]
        if values:
            names = (f"client_{score}", f"client_{score}_std", f"client_{score}_worst_decile")
            metrics |= dict(zip(names, spread(values), strict=True))
    told = {name for row in evaluated.clients.values() for name in row} - {"examples"}
    own = {name for name in told if name.startswith(PERSONAL)}
    metrics |= _means(evaluated, own, "")
    whole = {name for name in told - own if "." not in name and not name.startswith(SHARED)}
    metrics |= _means(evaluated, whole - {*SCORES, *OTHER_SCORES}, "client_")
    if personal is not None:
        for name in sorted(told - own):
            shared = name.startswith(SHARED)
            if (shared or personal == "clients") and (mean := evaluated.mean(name, weight=None)) is not None:
                metrics[name if personal == "clients" else name.removeprefix(SHARED)] = mean
    return metrics


def _means(evaluated: Collected, names: set[str], prefix: str) -> dict[str, float]:
    """Give the means of metrics over the clients that have them, each client counting once."""
    means = {prefix + name: evaluated.mean(name, weight=None) for name in sorted(names)}
    return {name: mean for name, mean in means.items() if mean is not None}
