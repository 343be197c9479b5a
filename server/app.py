"""The ServerApp: the round loop as Flower's own runtime starts it, over whatever Grid that runtime brings.

The run configuration holds `fedbox` (the configuration as JSON) and `folder` (where the run leaves its files; a run
that is there already goes on).
"""

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ..configs import Config
from ..models.process import settle
from ..strategies.base import read_run_config
from ..strategies.federation import Federation
from ..strategies.registry import find
from .folder import RunFolder, default_folder
from .loop import Coordinator, RunFailedError
from .outcome import finish
from .session import conduct

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation over the Grid. Raises RunFailedError when a round cannot be completed."""
    settle()
    config_json, folder = read_run_config(context.run_config)
    config = Config.model_validate_json(config_json)
    path = Path(folder) if folder else default_folder(config, resume=False)
    resume = (path / "config.yaml").is_file()
    place = RunFolder(path, resume)
    try:
        federation = Federation.prepare(config)
        await_nodes(grid, len(federation))
        coordinator = Coordinator(federation, find(config.strategy), grid, path)
        first = coordinator.restore() if resume else 1
        place.write_config(config)
        conduct(coordinator, first, lambda status: finish(coordinator, place, status))
    finally:
        place.close()


def await_nodes(grid: Grid, wanted: int, seconds: float = 600.0) -> None:
    """Wait until so many nodes are there: Flower starts the ServerApp before they are. Raises RunFailedError."""
    last = time.monotonic() + seconds
    while (count := len(list(grid.get_node_ids()))) < wanted:
        if time.monotonic() > last:
            raise RunFailedError(
                f"{count} of {wanted} nodes came within {seconds:g} s; start a SuperNode for each client"
            )
        time.sleep(1.0)
