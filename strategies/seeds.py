"""Randomness as a pure function of (seed, round, client name): no order of arrival, worker or engine enters it."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *parts: object) -> int:
    """Give a 63-bit seed for a purpose, for example `derive(config.seed, "train", round_, "client-3")`.

    The parts are joined by their text, so ("a", 1) and ("a", "1") give the same seed.
    """
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *parts: object) -> torch.Generator:
    """Give a CPU generator for a purpose."""
    return torch.Generator().manual_seed(derive(seed, *parts))


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Let torch's global CPU generator, from which layers draw their weights, begin at `seed`; then put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, for code that draws from them (dropout, plugins)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed: it formats three stack traces a call, which a visit of a few milliseconds can feel.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
