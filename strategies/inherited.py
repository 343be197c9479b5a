"""Options that a configuration gives its data set or model, where a change names another one that lacks them."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from ..configs.faults import some
from ..configs.schema import DataConfig, ModelConfig, named
from ..data.arrays import DataError
from ..data.registry import foreign_options, reads_files
from ..models.build import foreign_options as foreign_to_model
from ..models.errors import ModelError
from .logs import warn_once

log = logging.getLogger(__name__)

Raw = dict[str, Any]
Foreign = Callable[[str, Iterable[str]], list[str]]
_OWNERS: tuple[tuple[str, str, str, str, Foreign], ...] = (
    ("data", "dataset", DataConfig().dataset, "data set", foreign_options),
    ("model", "name", ModelConfig().name, "model", foreign_to_model),
)


def leave_out_foreign(base: Mapping[str, Any], raw: Raw, changed: Collection[str]) -> None:
    """Take out of `raw` the options of `base` that its new data set or model does not take, and say so.

    `base` is the configuration before the changes of the keys `changed`, `raw` after them. An option that was itself
    changed stays: it is the user's own, and a fault if nothing takes it. So it is with the root where none is read.
    """
    _leave_out_root(base, raw, changed)
    for block, key, default, kind, foreign in _OWNERS:
        before, after = _block(base, block), _block(raw, block)
        old, new = before.get(key, default), after.get(key, default)
        options = after.get("options")
        if new == old or not isinstance(new, str) or not isinstance(options, dict):
            continue
        inherited = [name for name in options if name in _block(before, "options") and not _given(block, name, changed)]
        try:
            left_out = foreign(new, inherited) if inherited else []
        except (DataError, ModelError):  # nothing has that name: told where it is looked for
            continue
        if left_out:
            after["options"] = {name: value for name, value in options.items() if name not in left_out}
            names = some([f"{block}.options.{name}" for name in left_out])
            warn_once(log, f"left out {names}: the configuration gives {old} this, but {kind} {new} does not take it")


def _leave_out_root(base: Mapping[str, Any], raw: Raw, changed: Collection[str]) -> None:
    before, after = _block(base, "data"), _block(raw, "data")
    old, new = (block.get("dataset", DataConfig().dataset) for block in (before, after))
    inherited = before.get("root") is not None and {"data", "data.root"}.isdisjoint(changed)
    if new == old or not isinstance(new, str) or not inherited:
        return
    try:
        left_out = not reads_files(new)
    except DataError:  # nothing has that name: told where it is looked for
        return
    if left_out:
        after["root"] = None
        warn_once(log, f"left out data.root: data set {new} reads no files")


def _block(raw: Mapping[str, Any], key: str) -> Raw:
    value = raw.get(key)
    block = named(value) if key == "model" else value
    return block if isinstance(block, dict) else {}


def _given(block: str, name: str, changed: Collection[str]) -> bool:
    """Say whether one of the changed keys is this option, holds it, or lies within it."""
    path = f"{block}.options.{name}."
    return any(path.startswith(f"{key}.") or f"{key}.".startswith(path) for key in changed)
