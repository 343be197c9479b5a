"""The files of a data set, in a folder or in a zip archive, by the same paths."""

import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .arrays import DataError
from .files import folder, read_bytes
from .folder import SUFFIXES
from .json_lines import with_lines


class Tree:
    """The files below a folder or inside a zip archive, by their paths with forward slashes.

    A folder that holds nothing of what is sought (`holds`) but exactly one archive stands for that archive.
    """

    def __init__(self, dataset: str, root: str | Path | None, layout: str, holds: Sequence[str]) -> None:
        given = Path(root).expanduser() if root is not None else None
        if given is not None and given.is_file():
            place = given
        else:
            place = folder(dataset, root, layout)
            archives = sorted(place.glob("*.zip"))
            if len(archives) == 1 and not any((place / name).exists() for name in holds):
                place = archives[0]
        self.dataset, self.place = dataset, place
        self._lock = threading.Lock()
        self._documents: list[str] = []
        self._archive: zipfile.ZipFile | None = None
        if place.is_file():
            try:
                self._archive = zipfile.ZipFile(place)
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(f"{place} is no readable zip archive: {error}") from error
            self._names = frozenset(name for name in self._archive.namelist() if not name.endswith("/"))

    def full(self, path: str) -> str:
        """Return how messages call a file."""
        return f"{self.place}/{path}"

    @property
    def origin(self) -> str:
        """Where the files lie, for a folder; empty for an archive, whose `stamp` is enough."""
        return "" if self._archive is not None else str(self.place.resolve())

    def has(self, path: str) -> bool:
        """Say whether there is such a file."""
        return path in self._names if self._archive else (self.place / path).is_file()

    def has_folder(self, path: str) -> bool:
        """Say whether there is such a folder."""
        if self._archive is None:
            return (self.place / path).is_dir()
        return any(name.startswith(f"{path.rstrip('/')}/") for name in self._names)

    def below(self, path: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
        """Return the files below a folder, at any depth, that end like `suffixes`, sorted; hidden ones excluded."""
        if self._archive:
            start = f"{path.rstrip('/')}/"
            found = [name for name in self._names if path in ("", ".") or name.startswith(start)]
        else:
            found = [file.relative_to(self.place).as_posix() for file in (self.place / path).rglob("*")]
        return sorted(
            name
            for name in found
            if name.lower().endswith(suffixes) and not any(part.startswith(".") for part in name.split("/"))
        )

    def read(self, path: str) -> bytes:
        """Return the bytes of a file, or raise DataError naming it."""
        if self._archive is None:
            return read_bytes(self.place / path)
        try:
            with self._lock:
                return self._archive.read(path)
        # RuntimeError: an encrypted archive. NotImplementedError: a compression this Python lacks.
        except (KeyError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.full(path)} cannot be read: {error}") from error

    def stamp(self, path: str) -> str:
        """Return what differs when a file does, without reading it: its size, and a checksum or the time of its change.

        Only files of an archive have a checksum; those of different folders are told apart by `origin`.
        Raises DataError naming a file that is not there.
        """
        try:
            if self._archive is not None:
                info = self._archive.getinfo(path)
                return f"{info.file_size} {info.CRC:08x}"
            status = (self.place / path).stat()
            return f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, KeyError) as error:
            raise DataError(f"{self.full(path)} cannot be read: {error}") from error

    def text(self, path: str) -> str:
        """Return a text file (UTF-8, with or without a byte-order mark), or raise DataError naming it."""
        try:
            return self.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.full(path)} is no UTF-8 text: {error.reason} at byte {error.start}") from None

    def json(self, path: str) -> Any:
        """Return the content of a JSON file, or raise DataError naming file and line."""
        self._documents.append(path)
        try:
            return json.loads(self.text(path))
        except json.JSONDecodeError as error:
            raise DataError(f"{self.full(path)}, line {error.lineno}: no valid JSON: {error.msg}") from None

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Add the line to what a DataError says about a record of a JSON file that was read here."""
        try:
            yield
        except DataError as error:
            message = str(error)
            for path in self._documents:
                if f"{self.full(path)}: " in message:
                    message = with_lines(message, self.full(path), self.text(path))
            raise DataError(message) from error.__cause__

    def first(self, candidates: Sequence[str], what: str) -> str:
        """Return the first of the candidates that is there, or raise DataError that lists them."""
        for path in candidates:
            if self.has(path):
                return path
        raise DataError(f"{self.place} lacks {what}: looked for {', '.join(candidates)}")
