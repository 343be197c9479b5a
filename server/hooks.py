"""The hooks of a server half as the platform calls them: what comes back is held against the contract.

A half that gives something else is told by class and method (PluginError), before it is an error of some other place.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.contract import Ask, Metrics, ServerHalf, Settings, Site, Update
from ..strategies.exact import DIVERGED, Arrays
from ..strategies.grids import sayable
from ..strategies.registry import PluginError
from ..strategies.validate import breach, figures

Half = ServerHalf[Any]
_Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
_ARRAYS = "arrays by name, {} for none"
_RESERVED = "__metadata__"  # in a file of safetensors it stands for something else


class DivergedError(RuntimeError):
    """The global model has weights that are not finite: no client could train on it, and no measure would tell."""

    exit_code = 1


def made(kind: type[Half], settings: Settings, site: Site) -> Half:
    """Make the half; it must have its weights."""
    half = kind(settings, site)
    if not hasattr(half, "weights"):
        raise PluginError(f"{kind.__name__}.__init__ left no self.weights; call super().__init__(settings, site) first")
    _hold(half, f"{kind.__name__}.__init__", {})
    return half


def ask(half: Half, round_: int) -> Ask | None:
    """Give what is asked in a round."""
    given: object = half.ask(round_)
    if given is not None and not isinstance(given, Ask):
        raise breach(half, "ask", given, "an Ask or None")
    if given is not None:
        _arrays(given.arrays, half, "ask")
    return given


def ask_client(half: Half, round_: int, client: str) -> Mapping[str, NDArray[Any]]:
    """Give what one client receives besides."""
    return _arrays(half.ask_client(round_, client), half, "ask_client")


def ask_evaluate(half: Half, round_: int) -> Ask:
    """Give what the clients need to evaluate."""
    given: object = half.ask_evaluate(round_)
    if not isinstance(given, Ask):
        raise breach(half, "ask_evaluate", given, "an Ask")
    _arrays(given.arrays, half, "ask_evaluate")
    return given


def expects(half: Half) -> Mapping[str, NDArray[Any]]:
    """Give what an update's weights must look like."""
    return _arrays(half.expects(), half, "expects")


def mergeable(half: Half, asked: Ask) -> bool:
    """Say whether updates may be added up where the clients run."""
    expects(half)
    return bool(half.mergeable(asked))


def begin(half: Half) -> Any:
    """Give an empty total, which the contract's own `add` and `finish` can use where the half has none."""
    total = half.begin()
    inherited = [name for name in ("add", "finish") if getattr(type(half), name) is getattr(ServerHalf, name)]
    wanted = {"add": "add", "finish": "mean"}
    if not all(callable(getattr(total, wanted[name], None)) for name in inherited):
        raise breach(half, "begin", total, f"an ExactSum, or a half with {' and '.join(inherited)} of its own")
    return total


def add(half: Half, total: Any, client: str, update: Update) -> None:
    """Add an update to the total."""
    _nothing(half.add, half, "add", "change the total in place", total, client, update)


def finish(half: Half, total: Any, round_: int) -> None:
    """Make the new weights; they must look like the old ones."""
    before = _layout(half)
    _nothing(half.finish, half, "finish", "set self.weights", total, round_)
    _hold(half, f"round {round_}: {type(half).__name__}.finish", before)


def refine(half: Half, site: Site) -> Metrics:
    """Train on the server's own data; the weights must look like the old ones."""
    before = _layout(half)
    metrics = figures(half.refine(site), half, "refine")
    _hold(half, f"round {site.round}: {type(half).__name__}.refine", before)
    _hold_finite(half, site.round)
    return metrics


def landmarks(half: Half) -> Arrays:
    """Give copies of the named points."""
    return {name: value.copy() for name, value in _arrays(half.landmarks(), half, "landmarks").items()}


def state(half: Half) -> Arrays:
    """Give what a checkpoint must hold."""
    found = _arrays(half.state(), half, "state")
    for name, value in found.items():
        if name == _RESERVED or sayable(name) != name or value.dtype.itemsize > 8:
            raise PluginError(
                f"{type(half).__name__}.state: {sayable(name)!r} of type {value.dtype} cannot be written to a "
                f"checkpoint; wanted: numbers of at most 64 bits, under another name than {_RESERVED}"
            )
    return found


def _nothing(hook: Callable[..., object], half: Half, name: str, do: str, total: Any, *given: Any) -> None:
    value = hook(total, *given)
    if value is not None and value is not total:
        raise breach(half, name, value, f"None: {do}")


def _arrays(given: object, half: Half, method: str) -> Arrays:
    """Give what are to be arrays of numbers by name as such."""
    if not isinstance(given, Mapping):
        raise breach(half, method, given, _ARRAYS)
    found: Arrays = {}
    for name, value in given.items():
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):  # a tensor on a GPU, a list of lists of several lengths
            array = np.empty(0, object)
        if not isinstance(name, str) or array.dtype.kind not in "fiub":
            raise PluginError(
                f"{type(half).__name__}.{method}: {name!r} is {type(value).__name__}; "
                "wanted: texts for names, and arrays of numbers or booleans"
            )
        found[name] = array
    return found


def _layout(half: Half) -> _Layout:
    return {name: (value.shape, value.dtype) for name, value in half.weights.items()}


def _hold(half: Half, told: str, before: _Layout) -> None:
    """Raise PluginError unless the weights are arrays with the names, shapes and types that they had; {} had none."""
    weights: object = half.weights
    if not isinstance(weights, Mapping):
        raise PluginError(f"{told} left self.weights as {type(weights).__name__}; wanted: {_ARRAYS}")
    for name, value in weights.items():
        if not isinstance(value, np.ndarray | np.generic):
            raise PluginError(
                f"{told} left self.weights[{name!r}] as {type(value).__name__}; wanted: a NumPy array, np.asarray(...)"
            )
        shape, kind = before.get(name, (value.shape, value.dtype))
        if value.dtype != kind:
            raise PluginError(
                f"{told} left self.weights[{name!r}] in {value.dtype}; wanted: {kind}, as it was and as clients send "
                "it; np.asarray(value, old.dtype) turns it back"
            )
        if value.shape != shape:
            raise PluginError(
                f"{told} left self.weights[{name!r}] with shape {value.shape}; wanted: {shape}, as it was"
            )
    odd = sorted(set(before) ^ set(weights)) if before else []
    if odd:
        what = "without" if odd[0] in before else "with a new name,"
        raise PluginError(
            f"{told} left self.weights {what} {odd[0]!r}; wanted: the names that it had, for these are what clients "
            "are sent and give back; other arrays go into attributes and state()"
        )


def _hold_finite(half: Half, round_: int) -> None:
    """Raise DivergedError for weights that the server's own steps spoilt; those of clients were refused before."""
    for name, value in half.weights.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad = int(value.size - np.isfinite(value).sum())
            raise DivergedError(
                f"round {round_}: {type(half).__name__} left self.weights['{name}'] with {bad} of {value.size} values "
                f"that are not finite (NaN or infinite); {DIVERGED}; a changed key needs a new --out"
            )
