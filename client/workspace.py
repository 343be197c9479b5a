"""The workspace of a process: what all the clients that run in it share (data set, resident model, strategy)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..configs import Config, EngineConfig
from ..models import FlatModel, buffer_names
from ..models.process import settle
from ..models.stacked import StackError
from ..strategies.box_samples import BoxSamples
from ..strategies.contract import ClientHalf, Plain, Update
from ..strategies.federation import Federation, read_expert
from ..strategies.graphs import Replays
from ..strategies.order import Order, whole
from ..strategies.registry import PluginError, find, settings_of
from ..strategies.samples import Metrics, Samples
from ..strategies.seeds import derive, seed_everything
from ..strategies.selection import PROBE
from ..strategies.site import Holdings, Site
from ..strategies.stack import StackTrainer, refuse_training
from ..strategies.validate import breach, figures
from .state import BUFFER, LAST, STATE, StateStore, behind

_CACHED = 8_000_000  # values of images that are kept as tensors from round to round: 32 MB
_AROUND = 1_600  # what the objects around a client's tensors take, as so many values: with few images it is the most
_KNOWN = 128  # clients whose roles are remembered: a small federation draws them once, a large one stays small


@dataclass(frozen=True)
class Visit:
    """One message to one client: who, in which round and phase, with which values and arrays."""

    client: str
    round: int
    phase: str
    values: Mapping[str, Any]
    received: Mapping[str, NDArray[Any]]


class Resident:
    """A network that stays in memory for all clients that have it, and its initial weights."""

    def __init__(self, build: Callable[[], FlatModel]) -> None:
        self.build = build
        self.flat = build()
        self.initial = self.flat.flat.clone()
        self._second: FlatModel | None = None
        self._trainer: StackTrainer | None = None

    def fresh(self) -> FlatModel:
        """Give the network in its initial state."""
        self.flat.flat.copy_(self.initial)
        self.flat.reset_buffers()
        return self.flat

    def trainer(self, plain: Plain, engine: EngineConfig) -> StackTrainer:
        """Give what trains several clients from the weights that the network holds, built when it is first wanted."""
        if self._trainer is None:
            replays = Replays.on(self.flat.flat.device, engine.cuda_graphs)
            self._trainer = StackTrainer(self.flat, plain, replays, exact=engine.stack == "auto")
        return self._trainer

    def spare(self) -> FlatModel:
        """Give a second one of the kind, built when a strategy first asks for it."""
        if self._second is None:
            self._second = self.build()
        return self._second


class Workspace:
    """Runs clients one after the other on resident models, one of each kind of network that clients have."""

    def __init__(self, federation: Federation, folder: Path | None, half: ClientHalf[Any] | None = None) -> None:
        config = federation.config
        self.federation = federation
        self._roles = lru_cache(_KNOWN)(federation.roles)
        self.device = torch.device(config.engine.device)
        self._residents: dict[str, Resident] = {}
        self._kept: dict[str, Samples] = {}
        self._room = _CACHED
        self.store = StateStore(folder / "clients" if folder else None, config.engine.checkpoint_every or 1)
        if half is None:
            plugin = find(config.strategy)
            half = plugin.client(settings_of(plugin, config.strategy, config.settings))
        self.half = half
        order = config.clients.order
        self._order = None if order.kind == "none" else order
        by_score = order.kind in ("curr", "anti")
        self._keeps_last = by_score and order.score in ("L", "LG")
        self._expert = read_expert("clients.order.expert", order.expert) if by_score and order.score == "E" else {}

    def train(self, visit: Visit) -> Update:
        """Let the client train; keep what it wants to keep."""
        site = self._site(visit)
        seed_everything(derive(site.seed, "train", visit.round, visit.client))
        self.half.prepare(site)
        update: object = self.half.train(site)
        if not isinstance(update, Update):
            raise breach(self.half, "train", update, "an Update")
        told = figures(update.metrics, self.half, "train")
        self._keep(site)
        return replace(update, metrics=told)

    def train_stacked(self, visits: Sequence[Visit]) -> list[Update]:
        """Let clients that have the same network train in one pass; give their updates in the order of the visits.

        They are the clients of one round, to whom the same was sent. The updates' arrays are views that the next call
        overwrites. Raises StackError where that cannot be done.
        """
        refuse_training(self.federation.config, self.half)
        resident, plain = self._resident(visits[0].client), self.half.plain()
        assert plain is not None
        flat = resident.fresh()
        sites = [self._bare(visit, flat, resident.spare) for visit in visits]
        self.half.prepare(sites[0])
        trainer = resident.trainer(plain, self.federation.config.engine)
        return trainer.train(sites, [self._labelled(site) for site in sites])

    def _labelled(self, site: Site) -> Samples:
        """Give a client's labelled samples, which are kept as tensors while there is room."""
        found = self._kept.pop(site.name, None)
        if found is None:
            found = site.labelled
            if isinstance(found, BoxSamples):
                raise StackError("the data are not images with one class each")
            self._room -= _values(found)
        self._kept[site.name] = found  # the last one used is the last to go
        while self._room < 0:
            gone = self._kept.pop(next(iter(self._kept)))
            self._room += _values(gone)
        return found

    def evaluate(self, visit: Visit) -> Update:
        """Measure the client's model on its own test samples and, for personal models, on the server's as well."""
        if visit.phase == PROBE:
            return self._probe(visit)
        site = self._site(visit, after=True)
        seed_everything(derive(site.seed, "evaluate", visit.round, visit.client))
        self.half.prepare(site)
        metrics = self._measured(site, site.test) if len(site.test) else {}
        if self.half.personal:
            shared = self._measured(site, self._shared_test())
            metrics |= {f"shared_{name}": value for name, value in shared.items()}
        return Update({}, len(site.test), metrics)

    def _measured(self, site: Site, samples: Samples) -> Metrics:
        return figures(self.half.evaluate(site, samples), self.half, "evaluate")

    def _probe(self, visit: Visit) -> Update:
        """Give the mean loss on the labelled samples of the model with which the client would begin to train."""
        site = self._site(visit)
        seed_everything(derive(site.seed, PROBE, visit.round, visit.client))
        self.half.prepare(site)
        if len(site.labelled) == 0:
            return Update()
        site.model.eval()
        loss = site.labelled.difficulty(site.model, site.batch_size).double().mean()
        return Update({}, len(site.labelled), {"loss": float(loss)})

    def describe(self, client: str) -> dict[str, int]:
        """Say what the client holds: numbers of samples, never the samples."""
        roles = self._roles(client)
        tests = len(self.federation.client_test_index(client)[1])
        return {"labelled": len(roles.labelled), "unlabelled": len(roles.unlabelled), "test": tests}

    def _shared_test(self) -> Samples:
        if not hasattr(self, "_shared"):
            self._shared = self.federation.server_samples(self.device)
        return self._shared

    def _site(self, visit: Visit, after: bool = False) -> Site:
        """Build the client's site on the resident model, which begins every visit from its initial state.

        `after` asks for what the client kept after this round's training instead of before it.
        """
        resident = self._resident(visit.client)
        flat = resident.fresh()
        kept = self.store.read(visit.client, visit.round + after)
        flat.load(behind(BUFFER, kept))
        site = self._bare(visit, flat, resident.spare)
        site.state = behind(STATE, kept)
        site.order = None if self._order is None else Order(self._order, behind(LAST, kept), self._expert)
        return site

    def _bare(self, visit: Visit, flat: FlatModel, spare: Callable[[], FlatModel]) -> Site:
        """Build the client's site on a model, without what the client keeps."""
        federation, config = self.federation, self.federation.config
        roles = self._roles(visit.client)
        return Site(
            name=visit.client,
            flat=flat,
            train_config=config.train,
            holdings=Holdings(
                labelled=lambda: federation.samples(roles.labelled, self.device),
                unlabelled=lambda: federation.samples(roles.unlabelled, self.device, labelled=False),
                test=lambda: federation.client_test(visit.client, self.device),
            ),
            classes=len(federation.dataset.classes),
            seed=config.seed,
            buffers=config.model.buffers,
            batch_size=config.evaluate.batch_size,
            round=visit.round,
            rounds=config.rounds,
            phase=visit.phase,
            values=visit.values,
            received=visit.received,
            build=spare,
        )

    def _resident(self, client: str) -> Resident:
        """Give the network that a client has, built for the first client that has it."""
        kind = self.federation.kind(client)
        if kind not in self._residents:
            self._residents[kind] = Resident(lambda: self.federation.model(self.device, client))
        return self._residents[kind]

    def _keep(self, site: Site) -> None:
        state: object = site.state
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            told = f"{type(self.half).__name__}.train left site.state as {type(state).__name__}"
            raise PluginError(f"{told}; wanted: arrays by name, texts for names, {{}} for none")
        kept = {STATE + name: np.asarray(value, order="C") for name, value in site.state.items()}
        if site.buffers == "local":
            kept |= {BUFFER + name: value for name, value in site.flat.state(buffer_names(site.model)).items()}
        if self._keeps_last:
            kept |= {LAST + name: value for name, value in whole(site.flat).items()}
        if kept:
            self.store.write(site.name, site.round, kept)


def _values(samples: Samples) -> int:
    """Give what it takes to keep samples, in values of four bytes."""
    return len(samples) * samples.values + _AROUND


_workspaces: dict[tuple[str, str], Workspace] = {}


def use(workspace: Workspace, config_json: str, folder: str) -> None:
    """Make this workspace the one that answers for a configuration in this process; forget all others."""
    _workspaces.clear()
    _workspaces[config_json, folder] = workspace


def workspace_for(config_json: str, folder: str) -> Workspace:
    """Give the process's workspace for a configuration, built on first use."""
    key = (config_json, folder)
    if key not in _workspaces:
        settle()  # a process of its own, on a node
        federation = Federation.prepare(Config.model_validate_json(config_json))
        workspace = Workspace(federation, Path(folder) if folder else None)
        workspace.store.durable = True
        use(workspace, config_json, folder)
    return _workspaces[key]


def forget() -> None:
    """Let go of the process's workspace."""
    _workspaces.clear()
