"""The site: all that a half of a strategy may touch of one participant (a client, or the server itself)."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..configs import TrainConfig
from ..models import BufferPolicy, FlatModel, shared_names
from .exact import Arrays
from .optim import backward, lr_factor, make_optimizer, set_lr
from .order import Order
from .samples import Batch, Metrics, Samples
from .seeds import derive, generator
from .statistics import norms_of

Loss = Callable[[Batch], Tensor]
View = Literal["none", "weak", "strong"]
T = TypeVar("T")


class NotAvailableError(RuntimeError):
    """A participant was asked for something that it does not have, such as the clients' pooled data."""


@dataclass(frozen=True)
class Fit:
    """What `Site.fit` did: the samples it trained on, its optimiser steps, and metrics (`train_loss`, when any)."""

    examples: int
    steps: int
    metrics: dict[str, float]


@dataclass
class Holdings:
    """The data of one participant, each part read when it is first asked for."""

    labelled: Callable[[], Samples]
    unlabelled: Callable[[], Samples]
    test: Callable[[], Samples]
    pooled: Callable[[], Samples] | None = None
    pooled_labelled: Callable[[], Samples] | None = None
    pooled_unlabelled: Callable[[], Samples] | None = None
    pooled_size: Callable[[], int] | None = None


@dataclass
class Site:
    """One participant in one round.

    `model` is resident: it is shared by the clients of a process, so each visit begins from the initial weights and
    `ClientHalf.prepare` brings in what is this client's. `state` is saved under the client's name after `train`; it
    holds arrays only. `values` and `phase` come from `Ask`; `received` are the arrays of the message. `rounds` is how
    many the run has, which a resumed one may change. `population`, the number of clients in the federation, is known to
    the server alone.
    """

    name: str
    flat: FlatModel
    train_config: TrainConfig
    holdings: Holdings
    classes: int
    seed: int
    buffers: BufferPolicy = "global"
    batch_size: int = 512
    round: int = 0
    rounds: int = 0
    phase: str = "train"
    values: Mapping[str, Any] = field(default_factory=dict)
    received: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    build: Callable[[], FlatModel] | None = None
    population: int = 0
    order: Order | None = None

    def __post_init__(self) -> None:
        self.generator = generator(self.seed, "site", self.round, self.phase, self.name)
        self._parts: dict[str, Samples] = {}
        self._views: Any = None

    @property
    def model(self) -> nn.Module:
        """The network, on `device`."""
        return self.flat.module

    @property
    def device(self) -> torch.device:
        """The torch device of the model and the samples."""
        return self.flat.flat.device

    @property
    def lr(self) -> float:
        """The learning rate of this round: `train.lr * train.lr_decay ** (round - 1)`."""
        return self.train_config.lr * self.train_config.lr_decay ** max(self.round - 1, 0)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The state names that travel: all parameters, and the buffers where their policy is global."""
        return shared_names(self.model, self.buffers)

    @property
    def labelled(self) -> Samples:
        """The samples whose labels this participant knows."""
        return self._part("labelled", self.holdings.labelled)

    @property
    def unlabelled(self) -> Samples:
        """The samples whose labels it does not know."""
        return self._part("unlabelled", self.holdings.unlabelled)

    @property
    def test(self) -> Samples:
        """Its own test samples."""
        return self._part("test", self.holdings.test)

    @property
    def pooled(self) -> Samples:
        """The server's and every client's training samples with their labels: simulation only, for reference points."""
        return self._part("pooled", self._simulated(self.holdings.pooled))

    @property
    def pooled_labelled(self) -> Samples:
        """Every client's labelled samples: simulation only, for methods whose server holds the labels."""
        return self._part("pooled_labelled", self._simulated(self.holdings.pooled_labelled))

    @property
    def pooled_unlabelled(self) -> Samples:
        """Every client's unlabelled samples: simulation only, for reference points."""
        return self._part("pooled_unlabelled", self._simulated(self.holdings.pooled_unlabelled))

    @property
    def pooled_size(self) -> int:
        """How many samples `pooled` has; they are not read for it."""
        return self._simulated(self.holdings.pooled_size)()

    def _simulated(self, read: Callable[[], T] | None) -> Callable[[], T]:
        if read is None:
            raise NotAvailableError(
                f"{self.name} has no access to the clients' pooled data: only a simulation holds it, at the server"
            )
        return read

    def _part(self, key: str, read: Callable[[], Samples]) -> Samples:
        if key not in self._parts:
            self._parts[key] = read()
        return self._parts[key]

    def weights(self, parts: tuple[str, ...] | None = None) -> Arrays:
        """Give copies of the travelling arrays, of all parts of the model or of the named ones."""
        return self.flat.state(self.names if parts is None else shared_names(self.model, self.buffers, parts))

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays into the model by name. Raises ModelError for an unknown name or a wrong shape."""
        self.flat.load(arrays)

    def fit(
        self,
        loss: Loss | None = None,
        *,
        samples: Samples | None = None,
        parts: tuple[str, ...] | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        adjust: Callable[[], None] | None = None,
        after_step: Callable[[], None] | None = None,
        view: View | None = None,
        batch_size: int | None = None,
        freeze_statistics: bool = False,
    ) -> Fit:
        """Train the model on `samples` (default: the labelled ones) and return what was done.

        `loss` maps a batch to a scalar (default: that of the samples' task); `parts` are the only parts that change;
        `epochs`, `steps`, `batch_size` and `view` default to the configuration's; `view` is "none" for a loss that
        makes its own views. `adjust` is called after each backward pass and may change `flat.flat_grad`; `after_step`
        after each step of the optimiser. `freeze_statistics` leaves the running statistics of normalisation layers as
        they are, and uses them. No samples: nothing happens, 0 examples.
        """
        samples = self.labelled if samples is None else samples
        if len(samples) == 0:
            return Fit(0, 0, {})
        measure = loss or (lambda batch: samples.loss(self.model, batch))
        leaves = self.flat.trainable(parts)
        optimizer = make_optimizer(self.train_config, leaves, self.lr, plain=self.flat.plain)
        self.model.train()
        if freeze_statistics:
            for norm in norms_of(self.model):
                norm.eval()
        total, seen, done = torch.zeros((), dtype=torch.float64, device=self.device), 0, 0
        schedule, last = self.train_config.schedule, self.steps(len(samples), epochs, steps, batch_size)
        for batch in self.batches(samples, epochs=epochs, steps=steps, view=view, batch_size=batch_size):
            self.flat.zero_grad()
            value = measure(batch)
            backward(value, measure)
            if adjust is not None:
                adjust()
                self.flat.settle()
            if self.train_config.clip_norm is not None:
                nn.utils.clip_grad_norm_(leaves, self.train_config.clip_norm)
            if schedule != "constant":
                set_lr(optimizer, self.lr * lr_factor(schedule, done, last))
            optimizer.step()
            if after_step is not None:
                after_step()
            total += value.detach().double() * len(batch)
            seen, done = seen + len(batch), done + 1
        return Fit(len(samples), done, {"train_loss": float(total) / seen} if seen else {})

    def steps(
        self, count: int, epochs: int | None = None, steps: int | None = None, batch_size: int | None = None
    ) -> int:
        """Give the optimiser steps that `fit` takes over `count` samples, with the same arguments."""
        steps = self.train_config.steps if steps is None and epochs is None else steps
        if steps is not None:
            return steps if count else 0
        epochs = self.train_config.epochs if epochs is None else epochs
        return epochs * math.ceil(count / (batch_size or self.train_config.batch_size))

    def batches(
        self,
        samples: Samples,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        view: View | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """Give shuffled batches for so many epochs or exactly so many steps; see `fit` for what may be given.

        Where `clients.order` asks for it, labelled samples come in that order, in as many steps as without.
        """
        view = self.train_config.view if view is None else view
        if self.order is not None:
            self.order.begin(self.flat)
        if self.order is not None and samples.known and len(samples):
            for index in self.order.batches(
                samples,
                self.flat,
                size=batch_size or self.train_config.batch_size,
                total=self.steps(len(samples), epochs, steps, batch_size),
                measured=self.batch_size,
                generator=self.generator,
            ):
                yield self._viewed(samples, index.to(self.device), view)
            return
        for index in self.indices(len(samples), epochs=epochs, steps=steps, batch_size=batch_size):
            yield self._viewed(samples, index, view)

    def indices(
        self, count: int, *, epochs: int | None = None, steps: int | None = None, batch_size: int | None = None
    ) -> Iterator[Tensor]:
        """Give the places, int64 [up to the batch's size], of each step's batch of `count` samples, without an order.

        They are drawn from `generator`, an epoch at a time.
        """
        steps = self.train_config.steps if steps is None and epochs is None else steps
        epochs = self.train_config.epochs if epochs is None else epochs
        size, done = batch_size or self.train_config.batch_size, 0
        while (done < steps) if steps is not None else (epochs > 0):
            epochs -= 1
            order = torch.randperm(count, generator=self.generator).to(self.device)
            for index in torch.split(order, size):
                if steps is not None and done >= steps:
                    return
                done += 1
                yield index

    def _viewed(self, samples: Samples, index: Tensor, view: View) -> Batch:
        if view == "none":
            return samples.batch(index)
        return samples.viewed(index, getattr(self.views(samples), view), self.generator)

    def views(self, samples: Samples) -> Any:
        """Give the configured views that fit the samples: `weak` and `strong`, on images in [0, 1]."""
        if self._views is None:
            self._views = samples.views(self.train_config.flip, self.train_config.view_strength)
        return self._views

    def evaluate(self, samples: Samples) -> Metrics:
        """Measure the model on the samples in eval mode; nothing without samples."""
        if len(samples) == 0:
            return {}
        self.model.eval()
        return samples.evaluate(self.model, self.batch_size)

    @cached_property
    def spare(self) -> FlatModel:
        """A second model of the same kind, for a teacher; it holds what its last user left in it."""
        if self.build is None:
            raise NotAvailableError(f"{self.name} was made without a way to build a second model")
        return self.build()

    def derive(self, *parts: object) -> int:
        """Give a seed for a purpose of this participant in this round."""
        return derive(self.seed, self.round, self.name, *parts)
