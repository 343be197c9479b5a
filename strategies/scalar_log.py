"""The log of the scalars that all participants apply: what brings a model from one round to a later one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .exact import Arrays
from .seeds import derive


def machine(client: str) -> int:
    """Give a client's number in the hash of its directions and the order of application: 32 bits of its name's hash."""
    return derive(0, "machine", client) & 0xFFFFFFFF


@dataclass
class ScalarLog:
    """The bytes of rounds first + 1, first + 2, ...; each entry is (machines uint32 [m], bytes uint8 [m, samples])."""

    samples: int
    first: int = 0
    entries: list[tuple[NDArray[np.uint32], NDArray[np.uint8]]] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last round in the log."""
        return self.first + len(self.entries)

    def append(self, found: Mapping[int, NDArray[np.uint8]]) -> None:
        """Add the next round: the bytes by machine, kept in the order of the machines' numbers."""
        who = np.array(sorted(found), np.uint32)
        rows = [found[int(number)] for number in who]
        self.entries.append((who, np.array(rows, np.uint8).reshape(len(rows), self.samples)))

    def size(self, after: int) -> int | None:
        """Give the bytes of `since(after)`; None where the log no longer reaches back so far."""
        if after < self.first:
            return None
        return 8 + sum(4 + who.nbytes + codes.nbytes for who, codes in self.entries[after - self.first :])

    def trim(self, limit: int) -> None:
        """Forget the oldest rounds while the whole is larger than `limit` bytes: nobody would ask for them."""
        while self.entries and (self.size(self.first) or 0) > limit:
            self.entries.pop(0)
            self.first += 1

    def since(self, after: int) -> Arrays:
        """Give the rounds after `after` as arrays that travel."""
        part = self.entries[after - self.first :]
        return {
            "first": np.array([after], np.int64),
            "machines": np.array([len(who) for who, _ in part], np.uint32),
            "who": np.concatenate([np.zeros(0, np.uint32), *(who for who, _ in part)]),
            "bytes": np.concatenate([np.zeros(0, np.uint8), *(codes.reshape(-1) for _, codes in part)]),
        }

    @classmethod
    def of(cls, samples: int, arrays: Mapping[str, NDArray[Any]]) -> "ScalarLog":
        """Give back what `since` gave."""
        log = cls(samples, int(arrays["first"][0]))
        ends = np.cumsum(arrays["machines"], dtype=np.int64)
        for count, end in zip(arrays["machines"].astype(np.int64), ends, strict=True):
            codes = arrays["bytes"][(end - count) * samples : end * samples].reshape(-1, samples)
            log.entries.append((np.array(arrays["who"][end - count : end]), np.array(codes)))
        return log
