"""Checkpoints: the state of the server after a round, written whole or not at all.

`checkpoint/round-000012/` holds `weights.safetensors`, `state.safetensors` (the strategy's own arrays) and `meta.json`
(round, configuration, checksums, the order of the arrays). It is written under another name and renamed, so a reader
never sees half of one. All randomness is a pure function of (seed, round, client), so the round's number is the whole
random state. The clients' states lie beside it, versioned by round (see `client/state.py`).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from ..configs import Config, completed
from ..strategies.atomic import as_safetensors, sync_folder, write_atomic

# What a resumed run may change: none of these alters the rounds that were already run.
_FREE = ("name", "rounds", "engine", "evaluate.stop", "clients.timeout", "track")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, missing or of another configuration."""

    exit_code = 5


@dataclass(frozen=True)
class Checkpoint:
    """The server after round `round`."""

    round: int
    weights: dict[str, NDArray[Any]]
    state: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Frozen:
    """A checkpoint as the bytes of its files: the server may go on and change its arrays."""

    round: int
    files: Mapping[str, bytes]
    order: Mapping[str, list[str]]
    """The arrays' names of each file as they stood: safetensors gives them back in any order."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Frozen":
        """Take a checkpoint's arrays as they are now."""
        parts = {"weights": checkpoint.weights, "state": checkpoint.state}
        files = {name: as_safetensors(part) for name, part in parts.items()}
        return cls(checkpoint.round, files, {name: list(part) for name, part in parts.items()})


class Pace:
    """Says after which rounds a checkpoint is written: every `every`-th, or by the clock where that is None.

    By the clock: `pause` seconds after the last one, so every round that takes longer. A short round takes less time
    than a disk needs for its checkpoint. Where clients keep state (the folder `clients` is there) it is every round, as
    a client keeps only what the run may come back to if it is.
    """

    def __init__(self, folder: Path, every: int | None, pause: float) -> None:
        self._clients, self._every, self._pause = folder / "clients", every, pause
        self.begin()

    def begin(self) -> None:
        """Begin a pause: before the first round there is nothing to write down, however long the start takes."""
        self._last = time.monotonic()

    def due(self, round_: int) -> bool:
        """Say whether a checkpoint of this round is to be written; if so, the next pause begins."""
        now = time.monotonic()
        if self._every is not None:
            found = round_ % self._every == 0
        else:
            found = now - self._last >= self._pause or self._clients.is_dir()
        if found:
            self._last = now
        return found


def draft_checkpoint(folder: Path, frozen: Frozen, config: Config) -> Path:
    """Write a checkpoint below `folder` under a name that `load_checkpoint` does not see; give its path."""
    draft = folder / f".round-{frozen.round:06d}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    folder.mkdir(exist_ok=True)  # not what it lies in: a run that was moved away meanwhile is not begun anew
    draft.mkdir()
    try:
        for name, data in frozen.files.items():
            write_atomic(draft / f"{name}.safetensors", data)
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in frozen.files.items()}
        told = {"round": frozen.round, "sha256": sums, "order": frozen.order}
        meta = {**told, "config": config.model_dump(mode="json")}
        write_atomic(draft / "meta.json", json.dumps(meta).encode())
        sync_folder(draft)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return draft


def commit_checkpoint(draft: Path) -> None:
    """Give a drafted checkpoint its name and remove the older ones."""
    target = draft.with_name(draft.stem.removeprefix("."))
    shutil.rmtree(target, ignore_errors=True)
    draft.replace(target)
    sync_folder(target.parent)  # clients let go of what is older than it
    for other in target.parent.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """Give where the newest checkpoint lies, None when there is none."""
    return max(folder.glob("round-*"), default=None) if folder.is_dir() else None


def load_checkpoint(folder: Path, config: Config) -> Checkpoint | None:
    """Give the newest checkpoint, None when there is none. Raises CheckpointError."""
    path = newest(folder)
    while path is not None:
        try:
            checkpoint, before = _read(path)
            break
        except CheckpointError:  # a run that writes takes the older ones away, maybe while one of them is read
            gone, path = path, newest(folder)
            if path == gone:
                raise
    if path is None:
        return None
    now = config.model_dump(mode="json")
    differing = differences(before, now) + _rounding(before, now)
    if differing:
        lines = "\n".join(f"  {line}" for line in differing)
        raise CheckpointError(
            f"the checkpoint in {folder.parent} is of another configuration:\n{lines}\n"
            "resume with the configuration that stands in its config.yaml, or give another --out"
        )
    return checkpoint


def _read(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """Give a checkpoint and the configuration that it is of. Raises CheckpointError."""
    file = path / "meta.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        round_, before, sums = int(meta["round"]), completed(meta["config"]), dict(meta["sha256"])
        order = dict(meta.get("order", {}))  # an older fedbox wrote none
        file = path / "weights.safetensors"
        weights = _read_arrays(file, sums["weights"], order.get("weights"))
        file = path / "state.safetensors"
        state = _read_arrays(file, sums["state"], order.get("state"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint file {file} is damaged ({error}); remove {path.parent} to start the run anew"
        ) from error
    return Checkpoint(round_, weights, state), before


def _read_arrays(file: Path, checksum: str, order: list[str] | None) -> dict[str, NDArray[Any]]:
    """Give the arrays in the order in which they were: a strategy may draw noise, or add up, from one to the next."""
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError("it is not what was written")
    arrays = load(data)
    return {name: arrays[name] for name in (sorted(arrays) if order is None else order)}


def _rounding(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what rounds otherwise: the engine may change, but for the plain path and stacks of a given size."""
    lines = []
    for key in ("kind", "stack"):
        old, new = (config.get("engine", {}).get(key) for config in (before, now))
        if old != new and any(value == "plain" or isinstance(value, int) for value in (old, new)):
            lines.append(f"engine.{key}: the checkpoint has {old!r}, this run has {new!r}")
    return lines


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name the keys in which two configurations differ, but for those that a resumed run may change."""
    lines: list[str] = []
    for key in sorted({*before, *now}):
        path, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if path in _FREE or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{path}.")
        else:
            lines.append(f"{path}: the checkpoint has {old!r}, this run has {new!r}")
    return lines
