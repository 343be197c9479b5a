"""Loop or stack: whether clients train one after the other or in one pass, found out where it runs.

`engine.stack: auto` must not change a result, and it must not be slower. So a short trial on made-up images lets a few
clients train both ways, with every size that a batch can have; only where all bits agree and the stack takes less
time is it taken. On a GPU, which promises no bits, they may differ by rounding. The choice is remembered in a file in
the user's cache folder.
"""

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configs import Config
from ..models import FlatModel
from ..models.stacked import StackError, refuse
from ..strategies.contract import ClientHalf, Update
from ..strategies.federation import Federation
from ..strategies.graphs import Replays
from ..strategies.samples import Samples
from ..strategies.seeds import derive
from ..strategies.site import Holdings, Site
from ..strategies.stack import StackTrainer, refuse_training

_LARGEST = 64  # of larger batches, not every size is tried; their arithmetic outweighs the calls anyway
_CLIENTS = 8
_GAIN = 0.9  # of the loop's time: what the stack may take
_TURNS = 3
_SHORT = 0.1  # seconds: where a first trial takes longer, arithmetic outweighs the calls, and no second one is made
_ROUNDING = 0.01  # how far weights may be apart on a GPU, whose kernels round by shape
_GROUPS = (1, 2, 3, 5, 16, 32)  # how many go together where the bits are compared, besides _CLIENTS
_TRIAL = 2  # what was found out by another kind of trial is not believed
_COUNTED = 256  # clients whose samples are counted


@dataclass(frozen=True)
class Choice:
    """Whether clients are stacked, and why, in words for the console. `size`: so many to a group, 0: as it fits.

    `news`: the user was not told before, or asked for stacks.
    """

    stacked: bool
    why: str
    size: int = 0
    news: bool = False


def choose(federation: Federation, half: ClientHalf[Any]) -> Choice:
    """Decide for a run, by its configuration and, for `auto`, by a trial. Raises ModelError for an unknown model."""
    config = federation.config
    wish = config.engine.stack
    if wish == "off":
        return Choice(False, "clients one by one (engine.stack=off)")
    try:
        refuse_training(config, half)
        if federation.boxed:
            raise StackError("the data are not images with one class each")
        # Only now: a model that cannot be stacked anyway may be large.
        flat = federation.model(torch.device(config.engine.device))
        refuse(flat.module)
        if flat.flat.dtype != torch.float32:
            raise StackError(f"the weights are {flat.flat.dtype}")
    except StackError as error:
        return Choice(False, f"clients one by one: they cannot be stacked ({error})", news=wish != "auto")
    if wish != "auto":
        return Choice(True, f"clients in stacks of {wish} (engine.stack={wish})", wish, news=True)
    rests = _rests(federation)
    file, key = _cache(), _key(federation, half, rests)
    found = _recall(file, key)
    if found is None:
        found = Trial(federation, half, flat, rests).choice()
        _remember(file, key, found)
        return replace(found, news=True)
    return found


class Trial:
    """A few clients with made-up images, trained both ways from the model's initial weights.

    `rests` are the sizes that a last batch of an epoch can have.
    """

    def __init__(
        self, federation: Federation, half: ClientHalf[Any], flat: FlatModel, rests: Sequence[int] = ()
    ) -> None:
        self.rests = rests
        self.federation, self.half, self.flat = federation, half, flat
        self.config: Config = federation.config
        self.initial = flat.flat.clone()
        plain = half.plain()
        assert plain is not None
        self.plain, self.replays = plain, Replays.on(flat.flat.device, self.config.engine.cuda_graphs)
        self.trainer = StackTrainer(flat, plain, self.replays, exact=True)

    def choice(self) -> Choice:
        """Give the faster way of the two that give the same bits."""
        size = self.config.train.batch_size
        if size > _LARGEST:
            return Choice(False, f"clients one by one: batches of {size} gain nothing in a stack")
        began = self._clock()
        agree = self._agree([size] * _CLIENTS)  # before any is timed: a shape's first step is a slow one
        if not agree and self._clock() - began > _SHORT:
            return self._apart("they")
        looped, stacked = self._seconds()
        told = f"{stacked / looped:.2f} times the time"
        if stacked > _GAIN * looped:
            return Choice(False, f"clients one by one: a stack would take {told}{self._hint(looped)}")
        if not agree or not all(self._agree([size] * count) for count in _GROUPS):
            return self._apart("they", self._hint(looped))
        if not all(self._agree([rest for rest in self.rests for _ in range(count)]) for count in (1, 2)):
            return self._apart("the last batches", self._hint(looped))
        same = "the same weights but for rounding" if self._on_gpu else "the same bits"
        return Choice(True, f"clients in stacks, which take {told} of one by one and give {same}")

    def _apart(self, what: str, hint: str = "") -> Choice:
        """Refuse the stack; `hint` says what it is worth to those who do not mind."""
        by = f"by more than {_ROUNDING:g}" if self._on_gpu else "in the last bits"
        return Choice(False, f"clients one by one: stacked, {what} would differ {by}{hint}")

    def _hint(self, looped: float) -> str:
        """Say what a stack that need not keep the bits would gain, if anything, where the loop took so long."""
        if self._on_gpu or looped > _SHORT:
            return ""
        self.trainer = StackTrainer(self.flat, self.plain, self.replays, exact=False)
        looped, stacked = self._seconds()
        if stacked > _GAIN * looped:
            return ""
        told = f"{stacked / looped:.2f} times the time, differs in the last bits"
        return f"; engine.stack={_CLIENTS} takes {told} and is the same for any number of workers"

    @property
    def _on_gpu(self) -> bool:
        """Whether no bits are promised anyway, so that stacks need not give the same."""
        return self.flat.flat.device.type != "cpu"

    def _agree(self, sizes: Sequence[int]) -> bool:
        if not sizes:
            return True
        looped = [_copied(update) for update in self._looped(sizes)]
        tolerance = _ROUNDING if self._on_gpu else 0.0
        return all(_same(*pair, tolerance) for pair in zip(looped, self._stacked(sizes), strict=True))

    def _seconds(self) -> tuple[float, float]:
        """Give the least seconds of both ways, in turns; of this process alone where it is the processor's."""
        sizes, best = [2 * self.config.train.batch_size] * _CLIENTS, [math.inf, math.inf]
        for _ in range(_TURNS):
            for number, train in enumerate((self._looped, self._stacked)):
                sites = self._sites(sizes)
                start = self._clock()
                train(sizes, sites)
                best[number] = min(best[number], self._clock() - start)
            if best[1] > _GAIN * best[0] > _GAIN * _SHORT:
                break
        return best[0], best[1]

    def _clock(self) -> float:
        if not self._on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def _looped(self, sizes: Sequence[int], sites: Sequence[Site] = ()) -> list[Update]:
        found = []
        for site in sites or self._sites(sizes):
            self.flat.flat.copy_(self.initial)
            found.append(_copied(self.half.train(site)))
        return found

    def _stacked(self, sizes: Sequence[int], sites: Sequence[Site] = ()) -> list[Update]:
        sites = sites or self._sites(sizes)
        self.flat.flat.copy_(self.initial)
        return self.trainer.train(sites, [site.labelled for site in sites])

    def _sites(self, sizes: Sequence[int]) -> list[Site]:
        return [self._site(number, size) for number, size in enumerate(sizes)]

    def _site(self, number: int, size: int) -> Site:
        data = self.federation.dataset
        rng = np.random.default_rng(derive(0, "trial", number))
        images = rng.integers(0, 256, (size, *data.shape), dtype=np.uint8)
        labels = rng.integers(0, len(data.classes), size)
        samples = Samples(images, labels, mean=data.mean, std=data.std, device=self.flat.flat.device)
        samples.x(slice(0, 0))  # turned into floats now, not on anybody's time
        held = Holdings(lambda: samples, lambda: samples, lambda: samples)
        train = self.config.train.model_copy(update={"epochs": 1, "steps": None})
        return Site(
            f"client-{number}", self.flat, train, held, len(data.classes), 0, self.config.model.buffers, round=1
        )


def _copied(update: Update) -> Update:
    return Update({name: np.array(value) for name, value in update.weights.items()}, update.examples, update.metrics)


def _same(one: Update, other: Update, tolerance: float) -> bool:
    """Say whether two updates are the same, figures included; weights and figures with a tolerance, 0 for none."""
    if one.examples != other.examples or one.metrics.keys() != other.metrics.keys():
        return False
    near = partial(np.allclose, rtol=tolerance, atol=tolerance)
    if not all(near(value, other.metrics[name]) for name, value in one.metrics.items()):
        return False
    return all(near(value, other.weights[name]) for name, value in one.weights.items())


def _rests(federation: Federation) -> list[int]:
    """Give the sizes that last batches have: those of the clients, or any where there are many clients."""
    size = federation.config.train.batch_size
    if len(federation) > _COUNTED:
        return list(range(1, size))
    names = map(federation.name, range(len(federation)))
    return sorted({len(federation.roles(name).labelled) % size for name in names} - {0})


def _cache() -> Path | None:
    """Give the file, None for a user without a home."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "fedbox" / "stack.json"


def _key(federation: Federation, half: ClientHalf[Any], rests: Sequence[int]) -> str:
    config, data = federation.config, federation.dataset
    facts = {
        "trial": _TRIAL,
        "model": federation.spec().model_dump(mode="json"),
        "shape": list(data.shape),
        "classes": len(data.classes),
        "train": config.train.model_dump(mode="json", exclude={"epochs", "steps", "lr", "lr_decay"}),
        "rests": list(rests),
        "plain": repr(half.plain()),
        "device": [config.engine.device, config.engine.cuda_graphs],
        "versions": [version("fedbox"), torch.__version__, np.__version__, platform.python_version()],
        "machine": [platform.node(), platform.machine(), platform.processor(), _processor()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _processor() -> str:
    name = torch.backends.cpu.get_cpu_capability()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name += next((line for line in lines if line.startswith("model name")), "")
    return name


def _recall(file: Path | None, key: str) -> Choice | None:
    if file is None:
        return None
    try:
        found = Choice(**json.loads(file.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing there, or nothing that can be read: it is found out once more
    known = isinstance(found.stacked, bool) and isinstance(found.why, str) and found.size == 0
    return found if known else None


def _remember(file: Path | None, key: str, choice: Choice) -> None:
    """Add a choice to the file; a folder that cannot be written costs the next run a trial."""
    if file is None:
        return
    try:
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text(json.dumps({**known, key: asdict(choice)}, indent=1), encoding="utf-8")
        draft.replace(file)
