"""What a run leaves in its folder: config.yaml, rounds.jsonl (a line a round, as it happens), summary.json."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.atomic import write_atomic
from .checkpoint import CheckpointError

Record = dict[str, Any]
_LOWER_IS_BETTER = ("loss", "_std", "_not_finite")
_NEEDED = {"round", "phase", "metrics", "failures", "bytes_up", "bytes_down", "seconds"}
"""What a line of rounds.jsonl has at least, for a run to go on behind it."""
FAILED = "failed"
"""Phase of the line of a round in which too few clients succeeded; a resumed run drops the line."""
WHOLE = ("completed", "stopped")
"""How a run that came to its end says so: all its rounds, or the stop that its configuration asks for."""


def lower_is_better(metric: str) -> bool:
    """Say whether a metric improves as it falls: losses, spreads, counts of what is missing; by domain, too."""
    return metric.partition(".")[0].partition("_by_")[0].endswith(_LOWER_IS_BETTER)


class Records:
    """The lines of rounds.jsonl, and what can be told from them: totals, best values, the last metrics."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best: dict[str, dict[str, float]] = {}
        self.metrics: dict[str, float] = {}
        self.totals = {"bytes_up": 0, "bytes_down": 0, "seconds": 0.0, "failures": 0}
        self.rounds = 0
        self.refused: dict[str, dict[str, int]] = {}
        """Updates that were refused, counted by client and reason."""

    def resume(self, last: int) -> None:
        """Keep the lines up to round `last` and drop the later ones, which will be run again."""
        kept: list[bytes] = []
        for line, record in read_lines(self.path):
            if record is None or not record.keys() >= _NEEDED or record["round"] > last:
                break
            kept.append(line)
            self._count(record)
        if self.rounds != last:
            raise CheckpointError(
                f"{self.path} holds rounds 1 to {self.rounds}, but the checkpoint was taken after round {last}; "
                "restore the file, or start anew with another --out"
            )
        write_atomic(self.path, b"".join(kept))

    def append(self, record: Record, *, sync: bool = True) -> None:
        """Write a round's line; with `sync` see it on disk, and all before it."""
        data = (json.dumps(clean(record), allow_nan=False) + "\n").encode()
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        self._count(record)

    def _count(self, record: Mapping[str, Any]) -> None:
        if record["phase"] != FAILED:
            self.rounds = int(record["round"])
        for key in ("bytes_up", "bytes_down"):
            self.totals[key] += record[key]
        self.totals["seconds"] += record["seconds"]["total"]
        self.totals["failures"] += len(record["failures"])
        for failure in record["failures"]:
            if failure["kind"] == "refused":
                reasons = self.refused.setdefault(failure["client"], {})
                reasons[failure["reason"]] = reasons.get(failure["reason"], 0) + 1
        for name, value in record["metrics"].items():
            if value is None or not math.isfinite(value):
                continue
            self.metrics[name] = value
            best = self.best.get(name)
            better = best is None or (value < best["value"] if lower_is_better(name) else value > best["value"])
            if better:
                self.best[name] = {"value": value, "round": self.rounds}


def read_lines(path: Path) -> Iterator[tuple[bytes, Record | None]]:
    """Give each line with its record; None for a line that was cut off or holds no round."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            whole = isinstance(record, dict) and "round" in record and line.endswith(b"\n")
            yield line, record if whole else None


def read_rounds(path: Path) -> list[Record]:
    """Give all whole records of a rounds.jsonl."""
    return [record for _, record in read_lines(path) if record is not None]


def clean(value: Any) -> Any:
    """Make a value fit for JSON: a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Give the SHA-256 of named arrays: names in order, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        total.update(f"{name}\x1f{value.dtype.str}\x1f{arrays[name].shape}\x1e".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def nested(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Give metrics such as `map50_by_domain.rainy` as mappings in a mapping."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        head, dot, tail = name.partition(".")
        if dot and head not in metrics:  # beside a figure of that name it keeps its own
            found.setdefault(head, {})[tail] = value
        else:
            found[head] = value
    return found


def versions() -> dict[str, str]:
    """Give the versions that a result depends on, and the kind of processor."""
    import torch

    found = {"python": platform.python_version(), "platform": platform.platform()}
    found["cpu"] = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"  # it decides how sums are split
    for package in ("fedbox", "flwr", "flwr-datasets", "numpy", "torch", "pillow", "kornia"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
