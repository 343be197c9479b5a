"""The actor of the Ray engine: a resident workspace on some node, and the clients that are sent to it."""

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..client.app import app
from ..client.driver import context_for, drive
from ..client.workspace import Workspace, use
from ..configs import Config
from ..models.process import settle
from ..server.memory import peak_rss_mb
from ..strategies.base import Metadata, remade, run_config
from .packing import Broadcasts, Layout, Packed, pack
from .shared import LocalBlock
from .sharing import Shared, attach
from .workers import WorkerError

MARK = ".ray"
"""File in the run's folder by which an actor knows that it sees the folder of this very run."""


class Resident:
    """One workspace, and the clients that are sent to it, one after the other."""

    def __init__(self, path: list[str], config_json: str, folder: str, mark: str, shared: Shared, data: Any) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]
        settle()
        where = Path(folder, MARK)
        if not where.is_file() or where.read_text(encoding="utf-8") != mark:
            raise WorkerError(
                f"the run's folder {folder} is not seen on the node {socket.gethostname()}; clients keep their state "
                "there, so give with --out a folder on a file system that all nodes share"
            )
        federation = attach(LocalBlock(data), shared, Config.model_validate_json(config_json))
        use(Workspace(federation, Path(folder)), config_json, folder)
        self._run_config = run_config(config_json, folder)
        self._broadcasts = Broadcasts()

    def ready(self, after: float = 0.0) -> str:
        """Answer once the workspace stands, after so many seconds: name the node, whose process has begun this one."""
        time.sleep(after)
        return f"{socket.gethostname()} {os.getppid()}"

    def run(
        self, client: str, metadata: Metadata, records: dict[str, Any], version: int, layout: Layout | None, data: Any
    ) -> tuple[Packed, NDArray[Any], float]:
        """Run a client; give its reply, the bytes of the reply's arrays, and this process's peak memory in MB."""
        content = self._broadcasts.content(records, layout, version, lambda: memoryview(data))
        context = context_for(metadata.dst_node_id, client, self._run_config)
        block = LocalBlock()
        packed = pack(drive(app, remade(metadata, content), context), block)
        return packed, block.data, peak_rss_mb()
