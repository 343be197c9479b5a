"""Who may join: a list of names, read again whenever its file changes, so that a name struck out is out at once.

A line is NAME, or NAME and the SHA-256 of its certificate, after which only that certificate will do; `revoked` behind
it shuts the name out. What follows a # is a remark.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..strategies.atomic import write_atomic
from .stats import natural

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a client may be called: it names files and certificates."""
_REVOKED = "revoked"


class EnrolmentError(ValueError):
    """The list of those who may join cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class Entry:
    """One client of the list."""

    name: str
    fingerprint: str = ""
    revoked: bool = False

    def line(self) -> str:
        """Give the entry as it stands in the file."""
        return " ".join(filter(None, [self.name, self.fingerprint, _REVOKED if self.revoked else ""]))


def read_entries(path: Path) -> dict[str, Entry]:
    """Read a list. Raises EnrolmentError with every line that is not one."""
    entries: dict[str, Entry] = {}
    faults = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnrolmentError(f"the list of clients {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, *rest = words
        revoked = _REVOKED in rest
        prints = [word for word in rest if word != _REVOKED]
        if not NAME.fullmatch(name) or len(prints) > 1 or not all(re.fullmatch("[0-9a-f]{64}", p) for p in prints):
            faults.append(f"line {number}: {line.strip()!r}; wanted: NAME [SHA-256 of its certificate] [revoked]")
        elif name in entries:
            faults.append(f"line {number}: {name} stands twice")
        else:
            entries[name] = Entry(name, prints[0] if prints else "", revoked)
    if faults:
        raise EnrolmentError(f"the list of clients {path} is at fault:\n" + "\n".join(f"  {fault}" for fault in faults))
    return entries


def write_entries(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write a list; the remarks of the one that is there stay, and the order of its lines."""
    head = "# NAME, the SHA-256 of its certificate, and `revoked` where it may not join any more"
    lines, left = [], dict(entries)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else [head]:
        said, mark, remark = line.partition("#")
        entry = left.pop(said.split()[0], None) if said.split() else None
        lines.append(line if entry is None else f"{entry.line()}  {mark}{remark}".rstrip())
    lines += [entry.line() for entry in left.values()]
    write_atomic(path, "".join(line + "\n" for line in lines).encode())


class Enrolment:
    """The clients of a run: from a file, or the names given. Raises EnrolmentError where there is none."""

    def __init__(self, path: Path | None = None, names: Sequence[str] = ()) -> None:
        self._path = path
        self._stamp = self._seen = self._stamp_now()
        self.entries = read_entries(path) if path else {name: Entry(name) for name in names}
        self.names = sorted((entry.name for entry in self.entries.values() if not entry.revoked), key=natural)
        if not self.names:
            raise EnrolmentError(f"{path or 'the configuration'} names no client that may join")

    def refusal(self, name: str, fingerprint: str | None) -> str | None:
        """Say why a client may not join; None when it may. `fingerprint` is None on a line without certificates."""
        entry = self.entries.get(name)
        if entry is None:
            return f"{name} is not on the list of clients"
        if entry.revoked:
            return f"{name} is revoked"
        if fingerprint is not None and entry.fingerprint and entry.fingerprint != fingerprint:
            return f"the certificate of {name} is not the one on the list"
        return None

    def refresh(self) -> bool:
        """Read the file again if it changed, and is as it was at the last look; say whether it was read.

        A file that is being copied here is cut short for a moment, and those whom it does not name yet would be sent
        away for good. One at fault, or without anybody, changes nothing (EnrolmentError).
        """
        before, self._seen = self._seen, self._stamp_now()
        if self._path is None or self._seen == self._stamp or self._seen != before:
            return False
        self._stamp = self._seen
        entries = read_entries(self._path)
        if not entries:
            raise EnrolmentError(f"{self._path} names nobody; to shut a client out, write `revoked` behind its name")
        self.entries = entries
        return True

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino, found.st_size) if found else None
