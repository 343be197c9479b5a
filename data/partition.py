"""Which samples each client holds.

Every kind first shuffles the samples by the seed, then lets a partitioner deal them out, so that files
sorted by class or by date make no difference. Every sample goes to exactly one client.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import DataError, Int64Array
from .dealers import KINDS, Wish, covers, natural_values
from .draws import generator
from .options import did_you_mean


@dataclass(frozen=True, eq=False)
class Partition:
    """The samples of each client, kept as one flat array so that 100,000 clients stay cheap.

    offsets: int64, [clients + 1]; client i holds flat[offsets[i]:offsets[i + 1]].
    flat: int64, sample indices, ascending within each client.
    keys: the natural key of each client, where the partition has one.
    """

    offsets: Int64Array
    flat: Int64Array
    keys: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.flat) or (np.diff(self.offsets) < 0).any():
            raise DataError(f"offsets must rise from 0 to the {len(self.flat)} samples")
        if self.keys is not None and len(self.keys) != len(self):
            raise DataError(f"{len(self)} clients but {len(self.keys)} keys")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def empty(cls) -> "Partition":
        """Return the partition of no samples among no clients."""
        return cls(np.zeros(1, np.int64), np.zeros(0, np.int64))

    @property
    def sizes(self) -> Int64Array:
        """Samples of each client, int64 [clients]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Int64Array:
        """The client of each entry of `flat`, int64."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)

    def indices(self, client: int) -> Int64Array:
        """Return the sample indices of one client, ascending. Raises DataError if there is no such client."""
        if not 0 <= client < len(self):
            raise DataError(f"client {client} does not exist; the partition has clients 0..{len(self) - 1}")
        return self.flat[self.offsets[client] : self.offsets[client + 1]]

    def mapped(self, rows: Int64Array) -> "Partition":
        """Return the same partition in terms of a larger array, of which it divided the ascending `rows`."""
        return Partition(self.offsets, rows[self.flat], self.keys)


def partition(
    labels: Int64Array,
    attributes: Mapping[str, NDArray[Any]] | None = None,
    *,
    kind: str,
    clients: int | None = None,
    seed: int,
    alpha: float = 0.5,
    min_size: int = 1,
    classes_per_client: int = 2,
    key: str | None = None,
    profile: str = "linear",
    balance: bool = False,
    ordered: float = 1.0,
) -> Partition:
    """Divide the samples with these `labels` [n] among clients; the same arguments give the same parts.

    kind: one of
    - iid: equal parts (sizes differ by at most one).
    - dirichlet: each class in shares drawn from Dirichlet(alpha), drawn anew until every client has
      min_size samples. balance: a client above the average size gets no more of the next class.
    - pathological (or label-k): classes_per_client classes each, every class in equal parts to its clients.
    - natural: by the values of attributes[key], in sorted order. More clients than values: each value's
      samples are divided further, as evenly as possible; fewer: neighbouring values share a client.
      Without `clients` there is one for each value.
    - inc: equal parts of rising difficulty, which is attributes[key], numbers: the first client has the easiest
      samples. Only a share `ordered` of the samples is dealt so, the others by chance.
    - quantity: sizes grow with the client's number: linear, square or exponential (profile).

    Raises DataError for a wish that the samples cannot grant; it says what would help.
    """
    kind = "pathological" if kind == "label-k" else kind
    if kind not in KINDS:
        raise DataError(f"unknown partition kind {kind!r}{did_you_mean(kind, KINDS)}; known are {', '.join(KINDS)}")
    attributes = attributes or {}
    if clients is None:
        if kind != "natural":
            raise DataError(f"partition {kind!r} needs clients, the number of clients")
        clients = len(np.unique(natural_values(attributes, key)))
    if clients < 1 or clients > len(labels):
        wanted = f"choose 1 to {len(labels)} clients" if len(labels) else "the server or the validation share took all"
        raise DataError(f"{clients} clients cannot share {len(labels)} samples; {wanted}")
    shuffled = generator(seed, "partition-order").permutation(len(labels))
    keys = {name: values[shuffled] for name, values in attributes.items()}
    settings = (alpha, min_size, classes_per_client, key, profile, balance, ordered)
    wish = Wish(labels[shuffled], keys, clients, seed, *settings)
    parts, names = KINDS[kind](wish)
    return _assemble(parts, shuffled, names)


def _assemble(parts: Iterable[Sequence[int]], rows: Int64Array, keys: tuple[str, ...] | None) -> Partition:
    parts = list(parts)
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    positions = np.fromiter(chain.from_iterable(parts), np.int64, offsets[-1])
    if not covers(positions, len(rows)):
        raise DataError("the partitioner lost or doubled samples; please report this with your settings")
    flat = rows[positions]
    owners = np.repeat(np.arange(len(parts)), np.diff(offsets))
    return Partition(offsets, flat[np.lexsort((flat, owners))], keys)
