"""Figures over clients: mean, spread and the worst decile of what each measured on its own test set."""

import math
from collections.abc import Sequence

from .collect import Collected
from .stats import worst_decile


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Give (mean, population standard deviation, worst decile) of accuracies.

    The worst decile is the mean of the lowest tenth of the clients: floor(n / 10) of them, at least one.
    """
    count = len(values)
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / count)
    return mean, deviation, worst_decile(values)


def client_metrics(evaluated: Collected, personal: bool) -> dict[str, float]:
    """Give the metrics of a client evaluation.

    `client_accuracy`, `client_accuracy_std`, `client_accuracy_worst_decile` and `client_loss` are over the clients
    that have a test set, each client counting once. Personal models are also measured on the server's test set:
    the means over clients are `accuracy` and `loss`.
    """
    metrics: dict[str, float] = {}
    accuracies = [row["accuracy"] for row in evaluated.clients.values() if "accuracy" in row]
    if accuracies:
        names = ("client_accuracy", "client_accuracy_std", "client_accuracy_worst_decile")
        metrics |= dict(zip(names, spread(accuracies), strict=True))
    loss = evaluated.mean("loss", weight=None)
    if loss is not None:
        metrics["client_loss"] = loss
    if personal:
        for name in ("accuracy", "loss"):
            value = evaluated.mean(f"shared_{name}", weight=None)
            if value is not None:
                metrics[name] = value
    return metrics
