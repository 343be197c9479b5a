"""The subject of the conformance suite: one strategy on one toy problem, and the runs that its checks share."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from ..configs import Config, ConfigError, Fault
from ..configs.faults import suggest
from ..data.partition import Partition
from ..server.callbacks import Callback
from ..server.outcome import Result
from ..server.session import check
from ..simulations.inprocess import InProcessGrid
from ..simulations.pool import Pool
from ..simulations.run import Parts, run_config
from ..strategies.base import Message, serialised_size
from ..strategies.contract import Plugin
from ..strategies.federation import Federation
from ..strategies.registry import PluginError, block_name, find, imported, plugins_in
from .toys import BUILT_IN, TOYS, Toy, Trial

WORKERS = 2


@dataclass
class Traffic:
    """Bytes of a round's messages as they are when they are serialised; `arrays_up` those of the clients' arrays."""

    up: int = 0
    down: int = 0
    arrays_up: int = 0


class Subject:
    """A strategy on trial. Its files lie in a temporary folder, which is gone when the subject is closed.

    `strategy` is a registered name, `module:attribute` or the path of a Python file. `trial` says how it is tried,
    which is known of the built-in strategies, or `toy` and `changes` do: the name of a toy problem (TOYS) and changes
    to its configuration, a mapping or texts `dotted.key=value`. `pool` are two workers that many subjects may share.
    Raises PluginError and ConfigError.
    """

    def __init__(
        self,
        strategy: str,
        *,
        trial: Trial | None = None,
        toy: str | None = None,
        changes: Mapping[str, Any] | Iterable[str] = (),
        pool: Pool | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.strategy = named(strategy)
        self.plugin = find(self.strategy)
        fitting = Trial("boxes" if self.plugin.client.needs == "boxes" else "classes")
        self.trial = trial or BUILT_IN.get(self.strategy, fitting)
        if toy is not None and toy != self.trial.toy:
            self.trial = Trial(toy)
        if self.trial.toy not in TOYS:
            raise ConfigError("given", [Fault("--toy", f"got '{self.trial.toy}'; {suggest(self.trial.toy, TOYS)}")])
        self.toy: Toy = TOYS[self.trial.toy]
        self.config = check(self._changed(self.trial.changes), _dotted(changes))
        self._early = check(self._changed({**self.trial.changes, **self.trial.early}), _dotted(changes))
        self._callback = callback or Callback()
        self._stack = ExitStack()
        self._pool = pool
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fedbox-check-")))
        self._whole: Result | Exception | None = None
        self.traffic: dict[int, Traffic] = {}
        """What the undisturbed run sent, by round."""

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return check(self.toy.config, {"strategy": self.strategy, **changes}).model_dump()

    def __enter__(self) -> "Subject":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and remove the files."""
        self._stack.close()

    @property
    def settings_key(self) -> str:
        """The key of the strategy's settings in a configuration."""
        return f"settings.{block_name(self.strategy)}"

    @property
    def whole(self) -> Result:
        """One undisturbed run on one worker, made once. Raises what it raised, each time."""
        if self._whole is None:
            try:
                self._whole = self.run("whole", parts=Parts(grid=_counting(self.traffic)))
            except Exception as error:  # a plugin may raise anything; whoever asks next gets the same
                self._whole = error
        if isinstance(self._whole, Exception):
            raise self._whole
        return self._whole

    @property
    def failed(self) -> bool:
        """Whether the undisturbed run was made and broke off."""
        return isinstance(self._whole, Exception)

    def run(self, name: str, *, resume: bool = False, parts: Parts | None = None, **changes: Any) -> Result:
        """Run the toy problem with changes into a folder of the subject; give what came out."""
        config = check(self.config.model_dump(), changes)
        return self._run(config, name, resume=resume, parts=parts)

    def break_off(self, name: str, after: int) -> None:
        """Run it until round `after` is recorded and its checkpoint written, and no further."""
        config = check(self.config.model_dump(), {"engine.checkpoint_every": 1})
        with suppress(_BrokenOff):
            self._run(config, name, stop=_Stop(after))

    def run_on_workers(self, name: str) -> Result:
        """Run it on two worker processes."""
        if self._pool is None:
            self._pool = Pool(WORKERS)
            self._stack.callback(self._pool.close)
        config = check(self.config.model_dump(), {"engine.workers": WORKERS})
        return self._run(config, name, parts=Parts(pool=self._pool))

    def run_early(self, name: str, parts: Parts) -> Result:
        """Run two rounds; clients train from the first one on."""
        return self._run(check(self._early.model_dump(), {"rounds": 2, "clients.min_success": 0.5}), name, parts=parts)

    def _run(
        self,
        config: Config,
        name: str,
        *,
        resume: bool = False,
        parts: Parts | None = None,
        stop: Callback | None = None,
    ) -> Result:
        return run_config(
            config,
            out=self.folder / name,
            resume=resume,
            progress=False,
            report=False,
            callbacks=[self._callback, *([stop] if stop else [])],
            parts=parts,
        )


class _BrokenOff(Exception):  # noqa: N818  it is no error
    """A run was ended in mid-course, as by a kill."""


class _Stop(Callback):
    """Ends a run once a round is recorded."""

    def __init__(self, after: int) -> None:
        self._after = after

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Raise where it was the round."""
        if record["round"] == self._after:
            raise _BrokenOff


def named(strategy: str) -> str:
    """Give a strategy's name; that of a file is module:attribute, and the file can be imported from then on."""
    if not strategy.endswith(".py"):
        return strategy
    path = Path(strategy).resolve()
    if not path.is_file():
        raise PluginError(f"strategy '{strategy}': there is no such file")
    if not path.stem.isidentifier():
        raise PluginError(f"strategy '{strategy}': {path.stem!r} is no name of a Python module; rename the file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module: ModuleType = imported(f"strategy '{strategy}'", path.stem)
    if not os.path.samefile(module.__file__ or os.devnull, path):
        raise PluginError(f"strategy '{strategy}': Python knows another module {path.stem!r}; rename the file")
    found = plugins_in(module)
    if len(found) != 1:
        told = f"{len(found)} Plugins ({', '.join(found)}); name one as {path.stem}:NAME" if found else "no Plugin"
        raise PluginError(f"strategy '{strategy}': the file holds {told}")
    return f"{path.stem}:{found[0]}"


def without_samples(config: Config) -> Federation:
    """Deal the data, then take from the last client all its samples, and from the one before it all its labels."""
    federation = Federation.prepare(config)
    offsets = np.array(federation.clients.offsets)
    offsets[-1] = offsets[-2]
    clients = Partition(offsets, federation.clients.flat[: offsets[-1]], federation.clients.keys)
    bare = federation.name(len(federation) - 2)
    labels = config.data.labels.model_copy(update={"by_client": {bare: 0.0}})
    data = config.data.model_copy(update={"labels": labels})
    return replace(federation, clients=clients, config=config.model_copy(update={"data": data}))


def _counting(traffic: dict[int, Traffic]) -> type[InProcessGrid]:
    """Give a Grid that weighs every message by serialising it, to compare with what the records say."""

    class CountingGrid(InProcessGrid):
        def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            def weighed() -> Iterator[Message]:
                for message in messages:
                    of(message).down += serialised_size(message.content)
                    yield message

            def of(message: Message) -> Traffic:
                return traffic.setdefault(int(message.metadata.group_id), Traffic())

            for reply in super().stream(weighed(), timeout=timeout):
                if reply.has_content():
                    seen, content = of(reply), reply.content
                    seen.up += serialised_size(content)
                    records = content.array_records.values()
                    seen.arrays_up += sum(len(array.data) for record in records for array in record.values())
                yield reply

    return CountingGrid


def _dotted(changes: Mapping[str, Any] | Iterable[str]) -> Mapping[str, Any] | list[str]:
    return changes if isinstance(changes, Mapping) else list(changes)


def diverged(plugin: Plugin, victim: str, spoil: Callable[[Any], Any], spoilt: list[int]) -> Plugin:
    """Give the strategy with one client whose updates hold NaN; the rounds in which they do are put into `spoilt`."""

    class Diverged(plugin.client):  # type: ignore[misc, name-defined]
        def train(self, site: Any) -> Any:
            update = super().train(site)
            if site.name != victim:
                return update
            changed = spoil(update)
            if _bytes(changed) != _bytes(update):
                spoilt.append(site.round)
            return changed

    return replace(plugin, client=Diverged)


def _bytes(update: Any) -> list[bytes]:
    return [np.asarray(value).tobytes() for value in (*update.weights.values(), *update.extra.values())]
