"""The contract: a strategy is one value, `Plugin(settings, client, server)`, written in one file.

The server half says what is asked of the clients in a round and makes a model of what comes back; the client half
trains. Neither sees a message, a process or a network, so the same file runs in one process, on a cluster and on
machines far apart. `docs/plugins.md` builds one step by step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .exact import Arrays, ExactSum
from .samples import Batch, Metrics, Samples
from .site import Site

Scalar = int | float | str | bool


class Settings(BaseModel):
    """Base of a strategy's settings: strict, frozen; give every field a default, a range and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


S = TypeVar("S", bound=Settings)
_INTEGERS = range(-(2**63), 2**63)


def _told(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def _check_names(kind: type, **parts: object) -> None:
    """Raise TypeError for a part of an Ask or an Update that is no mapping, or whose keys are no texts."""
    for part, given in parts.items():
        if not isinstance(given, Mapping):
            raise TypeError(f"{kind.__name__}.{part} is {type(given).__name__}; wanted: a mapping by name")
        for name in given:
            if not isinstance(name, str):
                raise TypeError(f"{kind.__name__}.{part} has the name {_told(name)}; wanted: a text")


@dataclass(frozen=True)
class Ask:
    """What the server asks of its clients in a round.

    `arrays` goes to every client; the names that are the model's are loaded before `ClientHalf.train` is called.
    `phase` and `values` (scalars) reach the client half as `site.phase` and `site.values`.
    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    phase: str = "train"
    values: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise TypeError for a value that cannot travel, here, where the traceback points at who made it."""
        _check_names(Ask, arrays=self.arrays, values=self.values)
        phase: object = self.phase
        if not isinstance(phase, str):
            raise TypeError(f"Ask.phase is {_told(phase)}; wanted: a text, such as 'train'")
        for name, value in self.values.items():
            if not isinstance(value, Scalar):
                raise TypeError(
                    f"Ask.values['{name}'] is {_told(value)}; wanted: int, float, str or bool, such as float(...) of it"
                )
            if isinstance(value, int) and value not in _INTEGERS:
                raise TypeError(
                    f"Ask.values['{name}'] is {value}; wanted: a whole number of 64 bits, or str(...) of it"
                )


@dataclass(frozen=True)
class Update:
    """What a client gives back: `weights` to be averaged by `examples`, `extra` arrays for the server half alone.

    `metrics` are plain numbers for the records, for example `{"train_loss": 0.7}`. `examples` is a whole number: other
    weights go into an `add` of your own.
    """

    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise TypeError for what cannot travel, and for a part of a sample: it would be cut off on the way."""
        _check_names(Update, weights=self.weights, metrics=self.metrics, extra=self.extra)
        try:
            whole = self.examples == int(self.examples)
        except (TypeError, ValueError, OverflowError):  # a text, NaN, infinity
            whole = False
        if not whole:
            raise TypeError(
                f"Update.examples is {_told(self.examples)}; wanted: a whole number of samples "
                "(another weight goes into `extra`, and into an `add` of your own)"
            )


@dataclass(frozen=True)
class Plain:
    """Supervised training on the labelled samples by the task's own loss: what several clients can do in one pass.

    `pull` is the weight of a proximal term: pull (w - w_received) is added to every gradient.
    """

    pull: float = 0.0


class RefusedUpdateError(ValueError):
    """An update cannot be used; the text says what is wrong with it. `ServerHalf.add` may raise it."""


class UnsuitableError(ValueError):
    """A strategy cannot work with this model or these data. `ServerHalf.__init__` may raise it: nothing is trained."""

    exit_code = 2


class ClientHalf(Generic[S]):
    """What a client does. One object serves many clients in turn: keep nothing on `self`, use `site.state`."""

    needs: ClassVar[Literal["any", "classes", "boxes"]] = "any"
    """What the samples must be: images (or texts) with one class each, images with boxes, or either."""
    wants_unlabelled: ClassVar[bool] = False
    """True when it learns from samples without labels: where no client holds any, a simulation warns."""
    any_model: ClassVar[bool] = False
    """True when clients may have different networks (`model.family`): no weights are averaged."""
    personal: ClassVar[bool] = False
    """True when every client ends with a model of its own and there is no global one."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def prepare(self, site: Site) -> None:
        """Bring the model into the state in which it trains or is evaluated; here: load what the server sent."""
        travelling = set(site.names)
        site.load({name: array for name, array in site.received.items() if name in travelling})

    def train(self, site: Site) -> Update:
        """Train on the site's labelled samples; give all shared weights back."""
        fit = site.fit(partial(self.loss, site))
        return Update(site.weights(), fit.examples, fit.metrics)

    def plain(self) -> Plain | None:
        """Say that `train` is plain supervised training, which an engine may do for several clients in one pass.

        None: it is more than that. Here: it is, unless a subclass has a `prepare`, `train` or `loss` of its own.
        """
        return Plain() if self._keeps(ClientHalf) else None

    def _keeps(self, kind: type["ClientHalf[Any]"]) -> bool:
        """Say whether this half still trains by the methods of `kind`."""
        return all(getattr(type(self), name) is getattr(kind, name) for name in ("prepare", "train", "loss"))

    def loss(self, site: Site, batch: Batch) -> torch.Tensor:
        """Give the loss of a batch, a scalar tensor; here: that of the data's task (cross-entropy for classes)."""
        return site.labelled.loss(site.model, batch)

    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        """Measure the model on the samples: `accuracy` in [0, 1], mean `loss`."""
        return site.evaluate(samples)


class ServerHalf(Generic[S]):
    """What the server does. All that must survive a restart stands in `weights` and in `state()`."""

    takes_late: ClassVar[bool] = True
    """Whether an update may count in a later round than the one it was made in (`clients.late=use`)."""

    def __init__(self, settings: S, site: Site) -> None:
        self.settings = settings
        self.weights: Arrays = site.weights()

    def ask(self, round_: int) -> Ask | None:
        """Say what is asked in round `round_` (from 1); None when the clients rest in this round."""
        return Ask(self.weights)

    def first_ask(self) -> int | None:
        """Give the first round in which clients are asked to train; None: by design they never are.

        A run that ends before it is warned of. Here: 1.
        """
        return 1

    def ask_client(self, round_: int, client: str) -> Mapping[str, NDArray[Any]]:
        """Give the arrays that only this client receives, on top of `ask`.

        A client that is to be measured or asked for its loss is given them as well: after `finish`, or before `begin`.
        Clients are asked in no fixed order: draw from a generator of the client's own, not from the global ones.
        """
        return {}

    def ask_evaluate(self, round_: int) -> Ask:
        """Say what the clients need to evaluate after round `round_`; here: the global weights."""
        return Ask(self.weights, phase="evaluate")

    def expects(self) -> Mapping[str, NDArray[Any]]:
        """Give arrays with the names, shapes and types that `Update.weights` must have; others are refused."""
        return self.weights

    def begin(self) -> Any:
        """Give an empty total of a round. Whatever it is, adding updates in any order must give the same result."""
        return ExactSum()

    def add(self, total: Any, client: str, update: Update) -> None:
        """Add one update to the total; here: weighted by its examples."""
        if update.examples > 0:
            total.add(update.weights, update.examples)

    def mergeable(self, ask: Ask) -> bool:
        """Say whether updates may be checked and added up where the clients run, and only the sum be sent here.

        They may where an update's checks and its place in the total follow from what was asked: everybody receives the
        same, weights of the shapes that were sent are expected back, and they are added by their examples.
        """
        own = all(getattr(type(self), name) is getattr(ServerHalf, name) for name in ("ask_client", "begin", "add"))
        expected = self.expects()
        return own and all(ask.arrays.get(name) is value for name, value in expected.items())

    def finish(self, total: Any, round_: int) -> None:
        """Make the new global weights from the total; here: the weighted mean."""
        self.weights = {**self.weights, **total.mean()}

    def refine(self, site: Site) -> Metrics:
        """Train on the server's own data after the aggregation; here: nothing. Returns metrics for the record."""
        return {}

    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        """Measure the global model on the server's samples."""
        self.bring(site)
        return site.evaluate(samples)

    def bring(self, site: Site) -> None:
        """Bring the global model into the site's."""
        travelling = set(site.names)
        site.load({name: array for name, array in self.weights.items() if name in travelling})

    def landmarks(self) -> Arrays:
        """Give named points [classes, d] that the report draws round by round; a row of NaN is not known yet."""
        return {}

    def state(self) -> Arrays:
        """Give the arrays, besides `weights`, that a checkpoint must hold (moments, anchors, counters)."""
        return {}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""


@dataclass(frozen=True)
class Plugin:
    """A strategy: its settings' schema, its client half and its server half. `summary` is one line for listings."""

    settings: type[Settings] = Settings
    client: type[ClientHalf[Any]] = ClientHalf
    server: type[ServerHalf[Any]] = ServerHalf
    summary: str = ""


__all__ = [
    "Arrays",
    "Ask",
    "Batch",
    "ClientHalf",
    "ExactSum",
    "Metrics",
    "Plain",
    "Plugin",
    "RefusedUpdateError",
    "Samples",
    "Scalar",
    "ServerHalf",
    "Settings",
    "Site",
    "UnsuitableError",
    "Update",
]
