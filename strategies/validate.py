"""Checks on what a strategy gives: an update before it touches the model, and figures for the records."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configs.faults import some
from ..data.arrays import DataSet
from .contract import ClientHalf, Metrics, RefusedUpdateError, ServerHalf, UnsuitableError, Update
from .exact import DIVERGED
from .federation import Federation
from .logs import warn_once
from .registry import PluginError, block_name

log = logging.getLogger(__name__)


def check_update(update: Update, expects: Mapping[str, NDArray[Any]], max_change: float | None = None) -> None:
    """Raise RefusedUpdateError unless the update's weights look like `expects` and every number is finite.

    The names must be all of those in `expects`: a sum to which some clients bring fewer arrays would depend on who
    comes first. A client without samples (0 examples) may leave all its weights out.
    """
    if update.examples < 0:
        raise RefusedUpdateError(f"{update.examples} examples; wanted: 0 or more")
    missing = [name for name in expects if name not in update.weights]
    if missing and (update.weights or update.examples):
        raise RefusedUpdateError(f"{len(missing)} of {len(expects)} arrays are missing: {some(missing)}")
    for name, value in update.weights.items():
        wanted = expects.get(name)
        if wanted is None:
            raise RefusedUpdateError(f"array '{name}' was not asked for; wanted: {some(expects)}")
        if value.shape != wanted.shape:
            raise RefusedUpdateError(f"array '{name}' has shape {value.shape}; wanted: {wanted.shape}")
        if value.dtype != wanted.dtype:
            raise RefusedUpdateError(f"array '{name}' has type {value.dtype}; wanted: {wanted.dtype}")
    for name, value in {**update.weights, **update.extra}.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad = int(value.size - np.isfinite(value).sum())
            raise RefusedUpdateError(
                f"array '{name}' has {bad} of {value.size} values that are not finite (NaN or infinite); {DIVERGED}"
            )
    if max_change is not None:
        _check_change(update, expects, max_change)


def check_extra(update: Update, wanted: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise RefusedUpdateError unless the update's extra arrays have these shapes and kinds of type, `f` or `i`."""
    for name, (shape, kind) in wanted.items():
        value = update.extra.get(name)
        if value is None:
            raise RefusedUpdateError(f"extra array '{name}' is missing; wanted: {some(wanted)}")
        if value.shape != shape or value.dtype.kind != kind:
            what = "whole numbers" if kind == "i" else "floats"
            raise RefusedUpdateError(
                f"extra array '{name}' has shape {value.shape} and type {value.dtype}; wanted: {what} of shape {shape}"
            )


def check_late(strategy: str, half: type[ServerHalf[Any]], late: str) -> None:
    """Raise UnsuitableError where late updates are to be used that the server half cannot use."""
    if late == "use" and not half.takes_late:
        raise UnsuitableError(
            f"clients.late=use, but an update of {strategy} belongs to its own round alone; wanted: clients.late=drop"
        )


def check_needs(strategy: str, half: type[ClientHalf[Any]], dataset: str, boxed: bool) -> None:
    """Raise UnsuitableError where the client half needs other samples than the data set has."""
    if half.needs == "boxes" and not boxed:
        raise UnsuitableError(
            f"strategy {strategy} needs images with boxes, such as data.dataset=scenes; "
            f"{dataset} has one class for each sample"
        )
    if half.needs == "classes" and boxed:
        raise UnsuitableError(f"strategy {strategy} needs samples with one class each; {dataset} has images with boxes")


def warn_of_labels(strategy: str, half: type[ClientHalf[Any]], federation: Federation) -> None:
    """Warn where the labels that participants hold, or lack, make a run of something else than it seems."""
    _warn_all_labelled(strategy, half, federation)
    _warn_unannotated(strategy, federation)


def _warn_all_labelled(strategy: str, half: type[ClientHalf[Any]], federation: Federation) -> None:
    """Warn where a strategy that learns from unlabelled samples finds none: it would pass for a plain one."""
    if half.wants_unlabelled and federation.all_labelled():
        warn_once(
            log,
            f"strategy {strategy} learns from unlabelled samples, but no client holds unlabelled samples; set "
            "data.labels.share, such as 0.1",
        )


def _warn_unannotated(strategy: str, federation: Federation) -> None:
    """Warn where samples that the server or a client trains on with their labels have none; see `warn_bare`."""
    data = federation.dataset
    known = None if isinstance(data, DataSet) else data.train.annotated
    if known is None or known.all():
        return
    warn_bare(strategy, known[np.concatenate([federation.server, federation.pooled_labelled()])].tolist())


def warn_bare(strategy: str, annotated: Sequence[bool]) -> None:
    """Warn where images count as labelled of which no annotation speaks: they teach that there is nothing in them."""
    if bare := annotated.count(False):
        warn_once(
            log,
            f"strategy {strategy}: {bare:,} of {len(annotated):,} images that are trained on with their labels have no "
            "annotations, and count as images without any object; give those that are meant so an empty label file, "
            "and take the labels of the others away (data.labels, data.server)",
        )


def warn_unmeasured(federation: Federation, personal: bool) -> None:
    """Warn where neither the server nor a client has a sample to be measured on."""
    config, part = federation.config.evaluate, federation.dataset.test
    held = len(federation.validation) if config.split == "validation" else len(part)
    asked = personal or config.clients != "none"
    if held == 0 and not (asked and config.client_split == "own"):
        warn_once(
            log,
            f"nothing will be measured: {federation.dataset.name} has no test samples (evaluate.split={config.split}); "
            "give it a test part, or set data.validation_share, such as 0.1, and evaluate.split=validation",
        )


def warn_never_asked(strategy: str, half: ServerHalf[Any], rounds: int) -> None:
    """Warn where the run ends before the strategy asks its first client: the server's model would pass for theirs."""
    first: object = half.first_ask()
    if first is not None and not isinstance(first, int):
        raise breach(half, "first_ask", first, "the number of a round, or None")
    if first is not None and first > rounds:
        warn_once(
            log,
            f"strategy {strategy} asks no client before round {first}, and the run has {rounds}: no client ever "
            f"trains; raise rounds, or change settings.{block_name(strategy)}",
        )


def warn_idle(strategy: str, examples: Sequence[float]) -> None:
    """Warn where clients answered a round and none trained on a sample: an untrained model would pass for a result."""
    if examples and not any(examples):
        warn_once(
            log,
            f"strategy {strategy}: no client of a round trained on a sample, so the model is what it would be without "
            "them; either they hold no labelled samples (data.labels) and it wants some, or it took none of those "
            "they hold",
        )


def breach(giver: object, method: str, value: object, wanted: str) -> PluginError:
    """Give the error that a method of a half, client's or server's, returned something else than is wanted."""
    given = f"{type(giver).__name__}.{method} returned {type(value).__name__}"
    return PluginError(f"{given}; the contract wants {wanted}")


def figures(value: object, giver: object, method: str) -> Metrics:
    """Give metrics as plain floats. Raises PluginError, which names the method that gave something else.

    `giver` is the half, client's or server's, whose `method` returned `value`.
    """
    told = f"{type(giver).__name__}.{method}"
    if not isinstance(value, Mapping):
        raise breach(giver, method, value, "metrics by name, {} for none")
    found: Metrics = {}
    for name, number in value.items():
        try:
            found[str(name)] = float(number)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise PluginError(
                f"{told}: metric '{name}' is {number!r} ({type(number).__name__}); wanted: one number"
            ) from error
    return found


def _check_change(update: Update, expects: Mapping[str, NDArray[Any]], bound: float) -> None:
    """Raise RefusedUpdateError when the weights differ from `expects` by a Euclidean norm above `bound`."""
    squares = 0.0
    for name, value in update.weights.items():
        change = value.astype(np.float64) - expects[name]
        squares += float(np.vdot(change, change))
    if squares > bound**2:
        raise RefusedUpdateError(f"it changes the weights by {squares**0.5:.4g}; clients.max_change is {bound:g}")
