"""What a run would do: its configuration checked, its data read and dealt, its model built; nothing trained or written.

The strategy's server half is asked for every round what it would ask of its clients, so the bytes are those of the
messages, but for the metrics and extra arrays that only a client that has trained can give.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configs import Config
from ..data.rows import Rows
from ..models import FlatModel
from ..server import hooks
from ..server.loop import Coordinator
from ..server.roster import size_of
from ..server.stats import human_bytes
from ..strategies.base import content_size, task_content, to_record, update_content
from ..strategies.contract import Ask, ServerHalf, Update
from ..strategies.device import check_device
from ..strategies.federation import Federation
from ..strategies.registry import find, settings_of
from ..strategies.validate import warn_of_labels
from .inprocess import InProcessGrid
from .run import workers_of

Facts = list[tuple[str, str]]

_EACH = 4  # clients that are told one by one
_STRETCHES = 6  # stretches of rounds that are told
_BUFFERS = {"global": "averaged", "local": "kept by each client", "drop": "thrown away"}


@dataclass(frozen=True)
class Stretch:
    """Rounds, `first` to `last`, in which the same is asked of each client; `phase` is None where nothing is.

    down, up: bytes of the message to one client and of its reply.
    """

    first: int
    last: int
    phase: str | None = None
    down: int = 0
    up: int = 0

    def joined(self, after: "Stretch") -> "Stretch | None":
        """Give both as one, None where they differ in more than their rounds."""
        longer = replace(self, last=after.last)
        return longer if longer == replace(after, first=self.first) else None


def plan(config: Config) -> Facts:
    """Give what a run would do, as pairs of a topic and a text.

    Raises what the run would raise before its first round: PluginError, ConfigError, DataError, ModelError.
    """
    plugin = find(config.strategy)
    check_device(config.engine.device)
    federation = Federation.prepare(config)
    warn_of_labels(config.strategy, plugin.client, federation)
    grid = InProcessGrid(len(federation), config.model_dump_json(), "")
    coordinator = Coordinator(federation, plugin, grid, Path(os.devnull))
    settings = settings_of(plugin, config.strategy, config.settings).model_dump()
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    engine, train = config.engine, config.train
    workers = workers_of(config)
    length = f"{train.steps} step(s)" if train.steps else f"{train.epochs} epoch(s)"
    return [
        ("strategy", f"{config.strategy} ({told or 'no settings'})"),
        ("data", _data(federation)),
        *_holdings(federation),
        *_models(federation, coordinator.flat),
        ("training", f"{length} a round, batches of {train.batch_size}, {train.optimizer}, lr {train.lr:g}"),
        *_rounds(config, coordinator.half, len(federation)),
        ("engine", f"{engine.kind}, {workers} worker(s), device {engine.device}, seed {config.seed}"),
    ]


def _data(federation: Federation) -> str:
    data = federation.dataset
    shape = " x ".join(map(str, data.shape))
    size = human_bytes(sum(prod(part.images.shape) for part in (data.train, data.test)))
    images = data.train.images
    place = f"mapped from {images.path.parent}" if isinstance(images, Rows) else "in memory"
    count = f"{len(data.train):,} train and {len(data.test):,} test images"
    return f"{data.name}: {count} of {shape}, {len(data.classes)} classes; {size} {place}"


def _holdings(federation: Federation) -> Facts:
    """Give who holds what: the server, then few clients one by one and many in one line."""
    config, table = federation.config, federation.table()
    parts = {"labelled": table.labelled, "unlabelled": table.unlabelled, "test": table.test}
    counts = {role: part.sum(axis=1) for role, part in parts.items()}
    if config.evaluate.client_split == "domain":
        names = [federation.name(number) for number in range(len(federation))]
        counts["test"] = np.array([len(federation.client_test_index(name)[1]) for name in names])
    split = config.evaluate.split
    measured = len(federation.validation if split == "validation" else federation.dataset.test)
    facts = [("server", f"{len(federation.server):,} labelled; measures on {measured:,} {split} images")]
    if len(federation) <= _EACH:
        for number in range(len(federation)):
            key = f" ({federation.clients.keys[number]})" if federation.clients.keys is not None else ""
            told = ", ".join(f"{int(part[number]):,} {role}" for role, part in counts.items())
            facts.append((f"{federation.name(number)}{key}", told))
        return facts
    sizes = table.total.sum(axis=1)
    told = ", ".join(f"{int(part.sum()):,} {role}" for role, part in counts.items())
    facts.append(("clients", f"{len(federation):,} with {sizes.min():,} to {sizes.max():,} samples; in all {told}"))
    return facts


def _models(federation: Federation, flat: FlatModel) -> Facts:
    """Give the network of all, or of a family each with the number of its clients."""
    config = federation.config
    if not (config.model.family or config.model.by_client):
        return _model(config, flat)
    kinds: dict[str, list[str]] = {}
    for name in map(federation.name, range(len(federation))):
        kinds.setdefault(federation.kind(name), []).append(name)
    facts: Facts = [("models", f"{len(kinds):,} kinds")]
    for names in kinds.values():
        spec, module = federation.spec(names[0]), federation.model(torch.device("cpu"), names[0]).module
        told = ", ".join(f"{key} {value}" for key, value in spec.options.items())
        facts.append(
            (f"  {spec.name}", f"{_size(module.parameters(), 'weights')}, {len(names):,} client(s) {told}".strip())
        )
    return facts


def _model(config: Config, flat: FlatModel) -> Facts:
    """Give the weights of the model and of its parts, and what becomes of its buffers."""
    parameters = dict(flat.module.named_parameters())
    buffers = list(flat.module.buffers())
    facts = [("model", f"{config.model.name}: {_size(parameters.values(), 'weights')}")]
    facts += [
        (f"  {part}", _size([parameters[name] for name in names], "weights")) for part, names in flat.parts.items()
    ]
    if buffers:
        facts.append(("  buffers", f"{_size(buffers, 'values')}, {_BUFFERS[config.model.buffers]}"))
    return facts


def _size(tensors: Iterable[torch.Tensor], what: str) -> str:
    values = list(tensors)
    size = sum(value.numel() * value.element_size() for value in values)
    return f"{sum(value.numel() for value in values):,} {what}, {human_bytes(size)}"


def _rounds(config: Config, half: ServerHalf[Any], clients: int) -> Facts:
    """Give the cohort, what is asked of it in which rounds, and the bytes of all rounds."""
    cohort = size_of(config.clients.per_round, clients)
    stretches, unknown = schedule(half, config.rounds)
    idle = unknown is None and all(each.phase is None for each in stretches)
    told = "no client is asked to train" if idle else f"{cohort:,} of {clients:,} clients in a round"
    facts = [("rounds", f"{config.rounds:,}; {told}")]
    for each in stretches[:_STRETCHES]:
        asked = f"{each.phase}: each client is sent {human_bytes(each.down)} and sends back {human_bytes(each.up)}"
        rounds = f"  {each.first}" if each.first == each.last else f"  {each.first} to {each.last}"
        facts.append((rounds, "the server alone" if each.phase is None else asked))
    if len(stretches) > _STRETCHES:
        facts.append(("  ...", f"and so on, {len(stretches) - _STRETCHES} changes more"))
    if unknown is not None:
        facts.append((f"  from {unknown}", "depends on what comes back"))
        return facts
    down, up = (
        cohort * sum((each.last - each.first + 1) * size for each, size in zip(stretches, sizes, strict=True))
        for sizes in ([each.down for each in stretches], [each.up for each in stretches])
    )
    facts.append(("  in all", f"{human_bytes(up)} up, {human_bytes(down)} down, for training"))
    return facts


def schedule(half: ServerHalf[Any], rounds: int) -> tuple[list[Stretch], int | None]:
    """Give what a fresh server half asks in rounds 1 to `rounds`, and the first round that it cannot tell yet.

    A strategy may need the replies of a round before it can say what comes next; only round 1 must never need any.
    """
    stretches: list[Stretch] = []
    known: dict[tuple[object, ...], tuple[int, int]] = {}
    for round_ in range(1, rounds + 1):
        try:
            ask = hooks.ask(half, round_)
            down, up = (0, 0) if ask is None else _bytes(half, ask, round_, known)
        except Exception:
            if round_ == 1:
                raise
            return stretches, round_
        this = Stretch(round_, round_, None if ask is None else ask.phase, down, up)
        longer = stretches[-1].joined(this) if stretches else None
        stretches[-1:] = [longer] if longer else [*stretches[-1:], this]
    return stretches, None


def _bytes(
    half: ServerHalf[Any], ask: Ask, round_: int, known: dict[tuple[object, ...], tuple[int, int]]
) -> tuple[int, int]:
    """Give the bytes of the message to a client and of its reply; worked out once for the same names of arrays."""
    expects, own = hooks.expects(half), hooks.ask_client(half, round_, Federation.name(0))
    key = (ask.phase, tuple(ask.arrays), tuple(ask.values), tuple(own), tuple(expects))
    if key not in known:
        down = content_size(task_content(ask, round_, to_record(ask.arrays), own))
        known[key] = down, content_size(update_content(Update(expects, 1)))
    return known[key]
