"""What every way to run a federation needs, in simulation and over a network: checks, a quiet thread, a good end."""

import errno
import random
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configs import Config, load_config
from ..models.process import settle
from ..strategies.base import identity
from ..strategies.contract import Plugin
from ..strategies.grids import RUN_ID
from ..strategies.inherited import leave_out_foreign
from ..strategies.places import origin_of
from ..strategies.registry import leave_out_idle, place_of, settings_faults
from ..strategies.selection import selector_faults
from .folder import RunFolder
from .loop import Coordinator, RunFailedError
from .tracking import track_faults


def check(source: str | Path | Mapping[str, Any] | Config, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Config:
    """Give the checked configuration, the plugins' settings included. Raises ConfigError, PluginError."""
    found = (settings_faults, selector_faults, track_faults)
    if isinstance(overrides, Mapping) and isinstance(plugin := overrides.get("strategy"), Plugin):
        overrides = {**overrides, "strategy": place_of(plugin)}

    def adapt(base: dict[str, Any], raw: dict[str, Any], changed: Collection[str]) -> None:
        leave_out_foreign(base, raw, changed)
        leave_out_idle(raw)

    return load_config(source, overrides, lambda raw: [fault for faults in found for fault in faults(raw)], adapt)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn a full disk, no more files, or a folder that is gone into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.is_dir():
            raise RunFailedError(f"{folder} was removed while the run wrote to it; what it held is lost") from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RunFailedError(
                f"no more files can be opened ({error.strerror}: {error.filename}); raise the limit, as by ulimit -n "
                "4096, then go on with --resume"
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunFailedError(
            f"no space left while writing to {folder} ({error.strerror}); free some, then go on with --resume"
        ) from error


@contextmanager
def not_left() -> Iterator[None]:
    """Turn a plugin's sys.exit() into an error: it would end the program, and with code 0 as if all had gone well."""
    try:
        yield
    except SystemExit as error:
        raise RunFailedError(
            f"{origin_of(error)[0]}: sys.exit({error.code!r}) was called in the middle of a run; raise an exception in "
            "its place, which says what is wrong"
        ) from error


@contextmanager
def own_thread_and_randomness() -> Iterator[None]:
    """Run on one torch thread, as workers do; leave the caller's threads and random numbers alone."""
    threads, python, numpy_state = torch.get_num_threads(), random.getstate(), np.random.get_state()
    settle()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numpy_state)


def raise_on_sigterm() -> None:
    """Let SIGTERM end a run as Ctrl-C does: resumable, with no process left behind."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def session(folder: RunFolder) -> Iterator[None]:
    """Hold what surrounds a run: its folder, one quiet thread, Flower's identity, a word about a full disk."""
    with ExitStack() as stack:
        stack.callback(folder.close)
        stack.enter_context(own_thread_and_randomness())
        stack.enter_context(identity(RUN_ID))
        stack.enter_context(told(folder.path))
        stack.enter_context(not_left())
        yield


@contextmanager
def claimed(folder: RunFolder, config: Config, resume: bool) -> Iterator[None]:
    """Surround a run's set-up: whatever kills a new run can be resumed from, unless it could not even start."""
    if not resume:
        folder.write_config(config)
    try:
        yield
    except (Exception, SystemExit):
        if not resume:
            folder.disown()
        raise


def conduct(coordinator: Coordinator, first: int, end: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Run the rounds from `first` on; give what `end` makes of the outcome, which is also called when they break off.

    `end` takes completed, stopped, failed or interrupted, and gives the summary.
    """
    try:
        coordinator.run(first)
    except BaseException as error:
        with suppress(Exception):  # what broke the run off is told, not what this may meet for the same reason
            end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    return end(coordinator.status)
