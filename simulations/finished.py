"""A run's model read from its folder: `fedbox.load`, and the evaluation of it on the run's test set or another one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from ..client.state import BUFFER, STATE, DiskError, StateStore, behind
from ..configs import Config, ConfigError, Fault, ModelSpec
from ..configs.faults import some
from ..data.arrays import DataError
from ..data.inputs import Inputs
from ..server import hooks
from ..server.checkpoint import load_checkpoint
from ..server.folder import INPUTS, FolderError
from ..server.groups import differences
from ..server.loop import SERVER_BUFFER
from ..server.own import Own
from ..server.records import WHOLE
from ..server.session import check, own_thread_and_randomness
from ..server.stats import natural
from ..strategies.contract import ClientHalf, Metrics, Plugin, Samples, ServerHalf, Settings, Site
from ..strategies.device import check_device
from ..strategies.exact import Arrays
from ..strategies.federation import Federation
from ..strategies.network import network
from ..strategies.personal import STUDENT, kept
from ..strategies.registry import find, settings_of
from ..strategies.seeds import derive, seed_everything
from ..strategies.site import Holdings
from ..strategies.validate import figures
from .predicting import FinishedModel, Measure, samples_of

_MODEL = "model.safetensors"
_FREE = ("data", "evaluate", "engine")
"""Keys that say on what and where a model is measured, and not what it is."""


@dataclass(frozen=True)
class _Left:
    """What a run left of its server after a round: the weights, the rest of its state, and a word about it."""

    round: int
    weights: Arrays
    state: Arrays
    note: str


def load(folder: str | Path, *, client: str | None = None, device: str | None = None) -> FinishedModel:
    """Read the model of a run's folder; see `fedbox.load`."""
    folder = Path(folder)
    config = _config(folder, {} if device is None else {"engine.device": device})
    check_device(config.engine.device)
    plugin = find(config.strategy)
    if client is not None:
        return _of_client(folder, config, plugin, client)
    if plugin.client.personal:
        names = some(keepers(folder))
        hint = f"name one: --client {names} (in Python client=)" if names else "none is kept in this folder"
        raise FolderError(f"{folder}: '{config.strategy}' leaves no global model, but one for each client; {hint}")
    return _of_server(folder, config, plugin)


def _config(folder: Path, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Config:
    file = folder / "config.yaml"
    if not file.is_file():
        what = "holds no run" if folder.is_dir() else "is no folder"
        raise FolderError(f"{folder} {what}; give the folder that a run wrote, with its config.yaml")
    return check(file, overrides)


def _of_server(folder: Path, config: Config, plugin: Plugin) -> FinishedModel:
    half: ServerHalf[Any]
    own = any(getattr(plugin.server, name) is not getattr(ServerHalf, name) for name in ("bring", "evaluate"))
    left = _left(folder, config, state=own or config.model.buffers == "local")
    inputs = _inputs(folder, config)
    if own:  # it may need all that it had in the run
        server = Own(Federation.prepare(config), int(_summary(folder).get("clients", 0)))
        half = hooks.made(plugin.server, settings_of(plugin, config.strategy, config.settings), server.site(0))
        half.restore({name: value for name, value in left.state.items() if not name.startswith(SERVER_BUFFER)})
        site = server.site(left.round)
    else:
        site = _site(config, config.model.server, inputs, "server", left.round)
        half = ServerHalf(Settings(), site)
    site.flat.load(behind(SERVER_BUFFER, left.state))
    half.weights = left.weights
    half.bring(site)
    return FinishedModel(config, inputs, site, _measure(half), left.note)


def _of_client(folder: Path, config: Config, plugin: Plugin, client: str) -> FinishedModel:
    """Give what a client kept: its own model where all are personal, else its student, beside the global one."""
    (left, arrays), inputs = _kept(folder, config, client), _inputs(folder, config)
    state = behind(STATE, arrays)
    personal = plugin.client.personal
    if not personal and not any(name.startswith(STUDENT) for name in state):
        raise FolderError(
            f"{folder}: {client!r} keeps no model of its own under '{config.strategy}'; for the global one leave out "
            "--client (in Python client=)"
        )
    if not state:
        raise FolderError(
            f"{folder} holds no model of {client!r}; clients that kept one: {some(keepers(folder)) or 'none'}"
        )
    site = _site(config, _spec(config, client), inputs, client, left.round)
    site.flat.load(behind(BUFFER, arrays))
    site.state, site.received = state, left.weights
    half = plugin.client(settings_of(plugin, config.strategy, config.settings))
    half.prepare(site)
    if personal:
        return FinishedModel(config, inputs, site, _measure(half), left.note)
    site.load(kept(site, STUDENT))
    return FinishedModel(config, inputs, site, Site.evaluate, left.note)


def _kept(folder: Path, config: Config, client: str) -> tuple[_Left, Arrays]:
    """Give what the run left and what the client had kept by then; once more where the run went on meanwhile."""
    left = _left(folder, config, state=True)
    while True:
        try:
            arrays = StateStore(folder / "clients").read(client, left.round + 1)
        except DiskError:
            now = _left(folder, config, state=True)
            if now.round == left.round:
                raise
        else:
            now = left if arrays else _left(folder, config, state=True)
            if now.round == left.round:
                return now, arrays
        left = now


def _measure(half: ServerHalf[Any] | ClientHalf[Any]) -> Measure:
    return lambda site, samples: figures(half.evaluate(site, samples), half, "evaluate")


def _spec(config: Config, client: str) -> ModelSpec:
    number = client.removeprefix("client-")
    return config.model.of(client, int(number) if number.isdigit() else 0)


def keepers(folder: Path) -> list[str]:
    """Name the clients that kept something in a run's folder."""
    place = folder / "clients"
    return sorted((path.name for path in place.iterdir()) if place.is_dir() else [], key=natural)


def _left(folder: Path, config: Config, state: bool) -> _Left:
    """Give what the run left; with `state` from its last checkpoint, which alone has it. Raises FolderError."""
    summary = _summary(folder)
    status, rounds, file = summary.get("status"), int(summary.get("rounds", 0)), folder / _MODEL
    if not state and rounds > 0 and file.is_file():
        note = "" if status in WHOLE else f"the run is {status}: this is its model after round {rounds}"
        try:
            return _Left(rounds, load_file(file), {}, note)
        except (OSError, SafetensorError) as error:
            raise FolderError(f"{file} is damaged: {error}") from error
    found = load_checkpoint(folder / "checkpoint", config)
    if found is None:
        what = "lacks its checkpoint/, which this model needs" if status in WHOLE else "has no whole round yet"
        raise FolderError(f"{folder}: the run {what}; go on with it by fedbox run --resume, or give another")
    note = "" if status in WHOLE else f"the run has not ended: this is its model after round {found.round}"
    return _Left(found.round, found.weights, found.state, note)


def _summary(folder: Path) -> dict[str, Any]:
    """Give summary.json; empty for a run that has not ended. Raises FolderError."""
    file = folder / "summary.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise FolderError(f"{file} is damaged: {error}") from error


def _inputs(folder: Path, config: Config) -> Inputs:
    """Give what the model is given, as told with it; for a run that has not ended as its data set has it."""
    try:
        with safe_open(folder / _MODEL, "numpy") as file:
            return Inputs.from_json((file.metadata() or {})[INPUTS])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return Inputs.of(Federation.undealt(config).dataset)


def _site(config: Config, spec: ModelSpec, inputs: Inputs, name: str, round_: int) -> Site:
    """Give a participant without data."""
    device = torch.device(config.engine.device)
    nothing = partial(samples_of, inputs, device)
    return Site(
        name=name,
        flat=network(config, spec, inputs, device),
        train_config=config.train,
        holdings=Holdings(nothing, nothing, nothing),
        classes=len(inputs.classes),
        seed=config.seed,
        buffers=config.model.buffers,
        round=round_,
        rounds=config.rounds,
        phase="evaluate",
        build=partial(network, config, spec, inputs, device),
    )


def evaluate(
    folder: str | Path,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    client: str | None = None,
    own: bool = False,
) -> tuple[FinishedModel, Metrics, str]:
    """Measure a run's model on the server's samples; give the model, the figures and how many samples of what.

    `own`: on what the client that is given is measured on in a run (`evaluate.client_split`) instead. `overrides` are
    changes to `data`, `evaluate` and `engine` of the run's configuration, so that another data set can take its place;
    images are scaled by the constants of the run's. Raises ConfigError for other keys and for `own` without a client,
    DataError for a data set with other classes or images of another shape, or without a test set.
    """
    before, config = _config(Path(folder)), _config(Path(folder), overrides)
    changed = differences([one.model_dump(mode="json") for one in (before, config)])
    if wrong := [key for key in changed if key.partition(".")[0] not in _FREE]:
        hint = f"does not say what is measured; allowed: {', '.join(f'{key}.*' for key in _FREE)}"
        raise ConfigError("given", [Fault(key, hint) for key in wrong])
    if own and client is None:
        raise ConfigError("given", [Fault("own", "it goes with --client NAME, whose test samples are meant")])
    model = load(folder, client=client, device=config.engine.device)
    federation = Federation.prepare(config) if own else Federation.undealt(config)
    model.inputs.check(federation.dataset)
    dataset: Any = federation.dataset
    scaled = replace(federation, dataset=replace(dataset, mean=model.inputs.mean, std=model.inputs.std))
    samples, told = _measured_on(scaled, client if own else None)
    with own_thread_and_randomness():
        seed_everything(derive(config.seed, "evaluate", model.round))
        metrics = model.measure(samples, config.evaluate.batch_size)
    return model, metrics, told


def _measured_on(federation: Federation, client: str | None) -> tuple[Samples, str]:
    """Give the client's own test samples, or the server's samples, and how many of what they are. Raises DataError."""
    config, name = federation.config, federation.dataset.name
    device = torch.device(config.engine.device)
    if client is not None:
        samples, kind, holder = federation.client_test(client, device), "test", f"{client}, {name}"
    else:
        samples, kind, holder = federation.server_samples(device), config.evaluate.split, name
    if not len(samples):
        raise DataError(f"{holder} has no {kind} samples, so there is nothing to measure on")
    return samples, f"{len(samples):,} {kind} samples of {holder}"
