"""What a client keeps from round to round, on disk under its name, by round, so that a round can be done again.

A run that is killed and resumed begins again behind its last checkpoint. A client must then start from what it had at
that checkpoint, so `read` gives the latest version written before the round asked for, and `write` keeps every version
that the run may come back to: at most 2 `engine.checkpoint_every` + 1 of a client exist at a time.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..strategies.atomic import as_safetensors, sync_folder, write_atomic

BUFFER, STATE, LAST = "buffer/", "state/", "last/"
"""How the names of what is kept begin: normalisation statistics, the strategy's arrays, the last weights."""
_SUFFIX = ".safetensors"


class StateError(RuntimeError):
    """A client's state cannot be saved or read."""

    exit_code = 5


class DiskError(StateError):
    """That is the fault of the disk, not of the client: it says nothing of what the client would have done."""


def behind(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Give the arrays whose names begin with a prefix, by what follows it."""
    return {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}


class StateStore:
    """Versions of the clients' states in a folder; with no folder nothing can be kept.

    `every` is the number of rounds between two checkpoints of the run. `durable`, for a client on a machine of its own:
    versions outlive a loss of power, at the cost of waiting for the disk in each round, and the folder is made where it
    is missing.
    """

    def __init__(self, folder: Path | None, every: int = 1) -> None:
        self.folder = folder
        self.every = every
        self.durable = False

    def last(self, client: str) -> int:
        """Give the round of a client's newest version, 0 where it has none."""
        return max(self._versions(client), default=0)

    def read(self, client: str, round_: int) -> dict[str, NDArray[Any]]:
        """Give the arrays that the client kept before round `round_`; empty when there are none."""
        before = [version for version in self._versions(client) if version < round_]
        if not before:
            return {}
        *older, last = sorted(before)
        path = self._path(client, last)
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            # An older version in its place would train on, and nobody would know that the run is another one.
            instead = f"what it kept after round {older[-1]}" if older else "nothing, as a new client does"
            raise DiskError(
                f"the saved state of {client}, {path}, cannot be read: {error}; restore the file, or remove it: "
                f"{client} then goes on with {instead}, and the run is no longer what it would have been"
            ) from error

    def write(self, client: str, round_: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays as the client's state after round `round_`, atomically, and drop what is not needed."""
        if self.folder is None:
            raise StateError(f"{client} wants to keep state, but there is no folder for it; give --state or --out")
        for name, value in arrays.items():
            if value.dtype.kind not in "fiub":
                raise StateError(f"{client} wants to keep {name} of type {value.dtype}; wanted: numbers or booleans")
        path = self._path(client, round_)
        try:
            # The folder of a run that was moved away meanwhile is not made anew: the clients would begin anew as well.
            self.folder.mkdir(parents=self.durable, exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, as_safetensors(arrays), sync=self.durable)
            if self.durable:
                sync_folder(path.parent)  # before older versions go, and before the server hears of the round
        except OSError as error:
            raise DiskError(f"the state of {client} cannot be saved in {path.parent}: {error.strerror}") from error
        self._tidy(client, round_)

    def _tidy(self, client: str, round_: int) -> None:
        """Drop the versions that the run cannot come back to, and what a process that was killed left half-written."""
        for draft in self._path(client, round_).parent.glob("*.tmp"):
            draft.unlink(missing_ok=True)
        versions = self._versions(client)
        # The last checkpoint before this round may still be on its way to the disk: the run may come back to the one
        # before that, and to no earlier one.
        checkpoint = max((round_ - 1) // self.every - 1, 0) * self.every
        base = max((version for version in versions if version <= checkpoint), default=0)
        for version in versions:
            if not base <= version <= round_:
                self._path(client, version).unlink(missing_ok=True)

    def after(self, round_: int) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
        """Give (client, arrays) of every client that had state after round `round_`, in the order of their names."""
        if self.folder is None or not self.folder.is_dir():
            return
        for folder in sorted(self.folder.iterdir(), key=lambda path: path.name):
            kept = self.read(folder.name, round_ + 1)
            if kept:
                yield folder.name, kept

    def _versions(self, client: str) -> list[int]:
        if self.folder is None:
            return []
        stems = (path.stem for path in (self.folder / client).glob(f"*{_SUFFIX}"))
        return [int(stem) for stem in stems if stem.isdigit()]

    def _path(self, client: str, round_: int) -> Path:
        assert self.folder is not None
        return self.folder / client / f"{round_:06d}{_SUFFIX}"
