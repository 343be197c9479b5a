"""`fedbox pack`: a configuration as an app for Flower's own runtime (SuperLink and SuperNodes), run by `flwr run`."""

import re
from pathlib import Path

from ..configs import Config
from ..strategies.atomic import write_atomic
from ..strategies.frames import RELEASE
from .folder import FolderError

_PYPROJECT = """\
[project]
name = "{name}"
version = "1.0.0"
description = "{strategy} on {dataset}, packed by fedbox {version}"
license = "Apache-2.0"
dependencies = ["fedbox=={version}"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "fedbox"

[tool.flwr.app.components]
serverapp = "fedbox.server.app:app"
clientapp = "fedbox.client.app:app"

[tool.flwr.app.config]
folder = '{folder}'
fedbox = '{config}'
"""

_README = """\
# {name}

{strategy} on {dataset}, {rounds} rounds, for {clients} clients. Made by `fedbox pack`.

fedbox must be installed where the SuperLink and the SuperNodes run. Start a SuperNode for each client with
`--node-config "partition-id=N"`, N from 0, or `--node-config 'client="NAME"'`; then

    flwr run . --stream

The run leaves its files in `{place}` on the SuperLink's machine; what clients keep from round to round lies under the
same path on theirs. A run that was broken off goes on when it is started again.
"""


def pack(config: Config, clients: int, out: Path, folder: Path) -> Path:
    """Write the app's folder. `folder` is where a run will leave its files. Raises FolderError."""
    if out.exists() and any(out.iterdir()):
        raise FolderError(f"{out} holds files already; give another --out")
    text = config.model_dump_json()
    if "'" in text or "'" in str(folder):
        raise FolderError("a configuration with an apostrophe cannot be packed: TOML would end the text there")
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "name": re.sub(r"[-_.]+", "-", config.name.lower()).strip("-") or "run",
        "strategy": config.strategy,
        "dataset": config.data.dataset,
        "version": RELEASE,
        "rounds": config.rounds,
        "clients": clients,
        "place": folder,
        "folder": folder,
        "config": text,
    }
    write_atomic(out / "pyproject.toml", _PYPROJECT.format(**facts).encode())
    write_atomic(out / "README.md", _README.format(**facts).encode())
    return out
