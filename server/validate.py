"""Checks on an update before it touches the model: names, shapes, types, finiteness, number of examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.contract import Update


class RefusedUpdateError(ValueError):
    """An update cannot be used; the text names the array and what is wrong with it."""


def check_update(update: Update, expects: Mapping[str, NDArray[Any]]) -> None:
    """Raise RefusedUpdateError unless the update's weights look like `expects` and every number is finite.

    A client without samples (0 examples) may leave its weights out. `expects` may hold more names than the update:
    a strategy can ask for some parts of the model only.
    """
    if update.examples < 0:
        raise RefusedUpdateError(f"{update.examples} examples; wanted: 0 or more")
    for name, value in update.weights.items():
        wanted = expects.get(name)
        if wanted is None:
            raise RefusedUpdateError(f"array '{name}' was not asked for; wanted: {_some(expects)}")
        if value.shape != wanted.shape:
            raise RefusedUpdateError(f"array '{name}' has shape {value.shape}; wanted: {wanted.shape}")
        if value.dtype != wanted.dtype:
            raise RefusedUpdateError(f"array '{name}' has type {value.dtype}; wanted: {wanted.dtype}")
    for name, value in {**update.weights, **update.extra}.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad = int(value.size - np.isfinite(value).sum())
            raise RefusedUpdateError(
                f"array '{name}' has {bad} of {value.size} values that are not finite (NaN or infinite); "
                "a smaller train.lr or train.clip_norm often mends it"
            )


def _some(names: Mapping[str, Any], most: int = 6) -> str:
    listed = list(names)[:most]
    return ", ".join(listed) + (f" and {len(names) - most} more" if len(names) > most else "")
