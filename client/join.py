"""`fedbox join`: one client of a served run, on the data that it has here."""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from ..configs import Config
from ..configs.tls import Identity
from ..data.arrays import DataError
from ..strategies.base import Message, identity, run_config
from ..strategies.device import check_device
from ..strategies.federation import Federation
from ..strategies.grids import FIRST_NODE, RUN_ID
from .app import app
from .attendant import Attendant
from .driver import context_for, drive
from .grpc_line import RefusedError
from .workspace import Workspace, use, workspace_for

log = logging.getLogger("fedbox.client")

_RUN = re.compile("[0-9a-f]{32}")
"""How a server names its run. The name becomes that of a folder here, so no other text will do."""


class SiteWork:
    """What a client does for a run. Without `data` it holds its part of the data set that the configuration deals.

    `state` is the folder in which it keeps what must outlive a round, under the run's own name.
    """

    def __init__(self, name: str, data: Path | None, device: str | None, state: Path) -> None:
        self._name, self._data, self._device, self._state = name, data, device, state
        self._number = 0
        self._run_config: dict[str, bool | float | int | str] = {}

    def prepare(self, config: str, run: str, number: int, classes: Sequence[str]) -> dict[str, int]:
        """Read the data and build the model.

        Raises DataError, also for other classes, ModelError, PluginError, and ConfigError for a device that is not
        here.
        """
        from ..models.process import settle

        if not _RUN.fullmatch(run):
            raise RefusedError(f"the server calls its run {run[:80]!r}; wanted: 32 of the digits 0-9 and a-f")
        settle()
        checked, folder = self._own(config), str(self._state / run)
        check_device(checked.engine.device, "engine.device" if self._device is None else "--device")
        text = checked.model_dump_json()
        if self._data is not None:
            federation = Federation.alone(checked, self._name, number)
            use(Workspace(federation, Path(folder)), text, folder)
        workspace = workspace_for(text, folder)
        try:
            counts = workspace.describe(self._name)
        except KeyError:
            names = f"{Federation.name(0)} to {Federation.name(len(workspace.federation) - 1)}"
            raise DataError(
                f"{self._name} is none of the clients that the configuration deals data to ({names}); join as one of "
                "these, or say with --data where this client's own data lies"
            ) from None
        workspace.store.durable = True  # the server's checkpoint lies on a machine that has power when this has none
        mine = workspace.federation.dataset.classes
        if classes and tuple(classes) != tuple(mine):
            raise DataError(
                f"the data of {self._name} have the classes {', '.join(mine)}; those of the server are "
                f"{', '.join(classes)}, in this order: a label is a place in it"
            )
        self._number, self._run_config = number, run_config(text, folder)
        told = ", ".join(f"{count:,} {role}" for role, count in counts.items())
        last = workspace.store.last(self._name)
        kept = f"goes on with what it kept after round {last}" if last else "has kept nothing there yet"
        words = "%s holds %s; run %s; its state is in %s, and it %s"
        log.info(words, self._name, told, run, self._state, kept, extra={"client": self._name, "holds": counts})
        return {**counts, "classes": len(mine)}

    def answer(self, message: Message) -> Message:
        """Run the ClientApp on a message."""
        round_ = message.metadata.group_id
        log.info("%s: %s, round %s", self._name, message.metadata.message_type, round_, extra={"client": self._name})
        return drive(app, message, context_for(FIRST_NODE + self._number, self._name, self._run_config))

    def _own(self, config: str) -> Config:
        """Give the server's configuration with what is this machine's own."""
        try:
            raw = Config.model_validate_json(config)
        except ValidationError as error:
            raise RefusedError(f"this release does not understand the server's configuration: {error}") from error
        data = raw.data if self._data is None else raw.data.model_copy(update={"root": str(self._data)})
        engine = raw.engine if self._device is None else raw.engine.model_copy(update={"device": self._device})
        return raw.model_copy(update={"data": data, "engine": engine})


def join(
    target: str,
    name: str,
    identity_: Identity | None,
    *,
    data: Path | None = None,
    device: str | None = None,
    state: Path,
    give_up: float | None = None,
) -> str:
    """Serve as a client until the run is over; give the server's last word.

    Raises RefusedError, KeyboardInterrupt when it is stopped, ConfigError for a `device` that is not here, and what
    reading the data raises.
    """
    if device is not None:
        check_device(device, "--device")
    pool = ThreadPoolExecutor(1, thread_name_prefix="fedbox-work")
    attendant = Attendant(target, name, identity_, SiteWork(name, data, device, state), pool)
    with identity(RUN_ID):
        try:
            return asyncio.run(_until_stopped(attendant, give_up))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


async def _until_stopped(attendant: Attendant, give_up: float | None) -> str:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(attendant.run(give_up))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        return await serving
    except asyncio.CancelledError:
        await attendant.leave()
        raise KeyboardInterrupt from None


def leave_now(code: int) -> None:
    """End the process though a client may still be at work on another thread, which nothing can stop.

    What it keeps on disk is written in one piece or not at all.
    """
    logging.shutdown()
    os._exit(code)
