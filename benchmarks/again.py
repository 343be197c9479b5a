"""A finished run measured again, on other test data: the global model, and each client's own on what is its own."""

import json
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fedbox.simulations.finished import evaluate, keepers


def measured(folder: Path, changes: Mapping[str, Any]) -> dict[str, float]:
    """Give a run's metrics under changes to its data, by the names that they have in a round's line.

    Those of the clients' own models are `personal_NAME`, the mean over the clients that have it. All are kept in the
    run's folder.
    """
    kept = folder / "measured.json"
    if kept.is_file() and (found := json.loads(kept.read_text()))["changes"] == changes:
        return dict(found["metrics"])
    _, metrics, _ = evaluate(folder, changes)
    own: dict[str, list[float]] = {}
    for client in keepers(folder):
        for name, value in evaluate(folder, changes, client=client, own=True)[1].items():
            own.setdefault(f"personal_{name}", []).append(value)
    found = {**metrics, **{name: statistics.fmean(values) for name, values in own.items()}}
    kept.write_text(json.dumps({"changes": changes, "metrics": found}))
    return found


def measure_all(folders: Sequence[Path], changes: Mapping[str, Any], at_once: int) -> dict[Path, dict[str, float]]:
    """Measure several runs, each in a process of its own; give their metrics by folder."""
    with ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
        return dict(zip(folders, pool.map(partial(measured, changes=changes), folders), strict=True))
