"""The files of a data set, in a folder or in a zip archive, by the same paths."""

import errno
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .arrays import DataError
from .files import folder, read_bytes, walked
from .folder import SUFFIXES
from .json_lines import with_lines

SHOWN = 5  # faults and files told in full


class Tree:
    """The files below a folder or inside a zip archive, by their paths with forward slashes.

    A folder that holds nothing of what is sought (`holds`) but exactly one archive stands for that archive; an archive
    of one folder, which holds nothing of it beside that folder, for that folder.
    """

    def __init__(self, dataset: str, root: str | Path | None, layout: str, holds: Sequence[str]) -> None:
        layout = f"{layout}, or a zip archive of them"
        given = Path(root).expanduser() if root is not None else None
        if given is not None and given.is_file():
            place = given
        else:
            place = folder(dataset, root, layout)
            archives = sorted(place.glob("*.zip"))
            if len(archives) == 1 and not any(os.path.exists(place / name) for name in holds):
                place = archives[0]
        self.dataset, self.place = dataset, place
        self._layout, self._holds = layout, tuple(holds)
        self._lock = threading.Lock()
        self._documents: list[str] = []
        self._top = ""
        self._archive: zipfile.ZipFile | None = None
        if place.is_file():
            try:
                self._archive = zipfile.ZipFile(place)
            except Exception as error:  # as in read
                told = f"{error}; data.root is a folder with {layout}"
                raise DataError(f"{place} is no readable zip archive: {told}") from error
            names = [name for name in self._archive.namelist() if not name.endswith("/")]
            self._top = _top(names, holds)
            self._names = frozenset(name.removeprefix(self._top) for name in names if name.startswith(self._top))

    def full(self, path: str) -> str:
        """Return how messages call a file."""
        return f"{self.place}/{self._top}{path}"

    @property
    def origin(self) -> str:
        """Where the files lie, for a folder; empty for an archive, whose `stamp` is enough."""
        return "" if self._archive is not None else str(self.place.resolve())

    def has(self, path: str) -> bool:
        """Say whether there is such a file."""
        return path in self._names if self._archive else self._there(Path.is_file, path)

    def has_folder(self, path: str) -> bool:
        """Say whether there is such a folder."""
        if self._archive is None:
            return self._there(Path.is_dir, path)
        return any(name.startswith(f"{path.rstrip('/')}/") for name in self._names)

    def _there(self, kind: Callable[[Path], bool], path: str) -> bool:
        try:
            return kind(self.place / path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # no file can have this name
                return False
            raise DataError(f"{self.full(path)} cannot be read: {error.strerror}") from error

    def below(self, path: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
        """Return the files below a folder, at any depth, that end like `suffixes`, sorted; hidden ones excluded.

        Raises DataError for a folder elsewhere.
        """
        if self._archive:
            start = f"{path.rstrip('/')}/"
            found = [name for name in self._names if path in ("", ".") or name.startswith(start)]
        elif not (self.place / path).is_relative_to(self.place):
            raise DataError(f"{path} must be a folder below the root, {self.place}")
        else:
            files = walked(self.place / path) if self.has_folder(path) else []
            found = [file.relative_to(self.place).as_posix() for file in files]
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
                return self._archive.read(self._top + path)
        # What a damaged or an encrypted file raises depends on its compression: zlib.error, EOFError, RuntimeError...
        except Exception as error:
            raise DataError(f"{self.full(path)} cannot be read: {error}") from error

    def stamp(self, path: str) -> str:
        """Return what differs when a file does, without reading it: its size, and a checksum or the time of its change.

        Only files of an archive have a checksum; those of different folders are told apart by `origin`.
        Raises DataError naming a file that is not there.
        """
        try:
            if self._archive is not None:
                info = self._archive.getinfo(self._top + path)
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
        text = self.text(path)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{self.full(path)}, line {error.lineno}: no valid JSON: {error.msg}") from None
        except RecursionError:
            raise DataError(f"{self.full(path)}: no valid JSON: it is nested too deeply") from None
        except ValueError as error:  # a whole number of thousands of digits
            raise DataError(f"{self.full(path)}: no valid JSON: {error}") from None

    def yaml(self, path: str) -> Any:
        """Return the content of a YAML file, or raise DataError naming file and, where it is known, line."""
        import yaml

        text, line, fault = self.text(path), None, ""
        try:
            return yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line, fault = error.problem_mark and error.problem_mark.line + 1, str(error.problem)
        except yaml.reader.ReaderError as error:
            line, fault = text.count("\n", 0, error.position) + 1, f"{error.reason}, got {chr(error.character)!r}"
        except RecursionError:
            fault = "it is nested too deeply"
        except ValueError as error:  # a date that no calendar has, a number of thousands of digits
            fault = str(error)
        raise DataError(f"{self.full(path)}{f', line {line}' if line else ''}: no valid YAML: {fault}")

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
        """Return the first candidate that is there, a folder if it ends in a slash; raise DataError that lists them."""
        for path in candidates:
            if self.has_folder(path) if path.endswith("/") else self.has(path):
                return path
        raise DataError(f"{self.place} lacks {what}: looked for {', '.join(candidates)}{self.astray()}")

    def astray(self) -> str:
        """Return what to add to a message that files are missing, where the root holds nothing of what is sought.

        It is where the root seems to be, at most two folders further down, or else what the root holds; empty
        where it holds some of what is sought.
        """
        if any(self.has(name) or self.has_folder(name) for name in self._holds):
            return ""
        if self._archive is None:
            for place in (place for depth in ("*/", "*/*/") for place in sorted(self.place.glob(depth))):
                if any(os.path.exists(place / name) for name in self._holds):
                    return f"; {place} looks like the root: name it as data.root"
            there = {path.name for path in self.place.glob("[!.]*")}
        else:
            there = {name.partition("/")[0] for name in self._names}
        packed = any(name.endswith((".zip", ".tar", ".gz", ".tgz")) for name in there)
        held = ", ".join(sorted(there)[:SHOWN]) + (", ..." if len(there) > SHOWN else "")
        unpack = "; unpack what is packed" if packed else ""
        return f"; the root should hold {self._layout}; it holds {held or 'nothing'}{unpack}"


def _top(names: Sequence[str], holds: Sequence[str]) -> str:
    """Return the folders of an archive, each with a slash behind it, that lie around all that it holds; "" for none.

    Whoever packs a folder often packs its name, too; macOS adds a folder of its own.
    """
    inner, top = [name for name in names if not name.startswith((".", "__MACOSX/"))], ""
    while True:
        firsts = {name.partition("/")[0] for name in inner}
        if len(firsts) != 1 or "/" not in inner[0]:
            return top
        around = f"{firsts.pop()}/"
        if any(name == held or name.startswith(f"{held}/") for name in inner for held in holds):
            return top
        inner, top = [name.removeprefix(around) for name in inner], top + around
