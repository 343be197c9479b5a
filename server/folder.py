"""The folder of a run: claimed by one process at a time, never overwritten, filled as the run goes."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..configs import Config, to_yaml
from ..data.inputs import Inputs
from ..strategies.atomic import as_safetensors, write_atomic
from ..strategies.exact import Arrays
from .records import clean

_LOCK = ".lock"
RUN_ID_FILE = "run_id"
"""Holds the own name of a served run."""
INPUTS = "fedbox.inputs"
"""The one key of the metadata of model.safetensors: several would come in no fixed order, in other bytes each time."""
_ATTEMPTS = 3  # at the lock: whoever watches the folder holds it for the moment of a look


class FolderError(RuntimeError):
    """A run's folder cannot be used."""

    exit_code = 5


def default_folder(config: Config, resume: bool, root: Path = Path("runs")) -> Path:
    """Give `runs/NAME-STRATEGY-seedN`, with -2, -3 ... behind it for a new run; the newest one for a resumed run."""
    strategy = config.strategy.replace(":", ".")
    stem = f"{config.name}-{strategy}-seed{config.seed}"
    number, newest, folder = 1, root / stem, root / stem
    while folder.exists():
        newest, number = folder, number + 1
        folder = root / f"{stem}-{number}"
    return newest if resume else folder


def is_locked(path: Path) -> bool:
    """Say whether a process is running in a run's folder. Writes nothing."""
    try:
        with (path / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def asked_for(path: Path) -> Iterator[None]:
    """Surround the writing of a file that somebody asked for: what keeps it from being written is a FolderError."""
    try:
        yield
    except OSError as error:  # a file that stands in the way of a folder exists, and that is not what is wrong
        why = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise FolderError(f"{path} cannot be written ({why}); give another --out") from error


def write_asked(path: Path, data: bytes) -> None:
    """Write a file that somebody asked for, and the folder that it is to lie in. Raises FolderError."""
    with asked_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)


class RunFolder:
    """A run's folder, locked while this object is open."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise FolderError(f"{path} is a file; --out names a folder")
        if resume and not (path / "config.yaml").is_file():
            raise FolderError(f"{path} holds no run to resume; give the folder of the run with --out")
        if not resume and path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            what = "a run already" if (path / "config.yaml").exists() else "other files"
            raise FolderError(f"{path} holds {what}; go on with it by --resume, or give another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / _LOCK).open("w")
        except OSError as error:
            raise FolderError(f"{path} cannot be written ({error.strerror}); give another --out") from error
        for left in range(_ATTEMPTS, 0, -1):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if left == 1:
                    problem = f"another process is running in {path}; wait for it, or give another --out"
                    raise FolderError(problem) from error
                time.sleep(0.05)

    def write_config(self, config: Config) -> None:
        """Write config.yaml, resolved."""
        write_atomic(self.path / "config.yaml", to_yaml(config).encode())

    def disown(self) -> None:
        """Take back what a run that could not start has written, so that the next one may have the folder."""
        for name in ("config.yaml", RUN_ID_FILE):
            (self.path / name).unlink(missing_ok=True)

    def write_model(self, weights: Arrays, inputs: Inputs) -> None:
        """Write model.safetensors; what the model is given stands in its metadata, so that it is of use by itself."""
        write_atomic(self.path / "model.safetensors", as_safetensors(weights, {INPUTS: inputs.to_json()}))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        write_atomic(self.path / "summary.json", (json.dumps(clean(summary), indent=2) + "\n").encode())

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()
