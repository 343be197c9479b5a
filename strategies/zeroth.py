"""Zeroth-order training from shared randomness: directions by counter, the byte of a sample, the digest of a model.

Directions come from splitmix64 on integer tensors, which wrap around alike on every device, so CPU and GPU make the
same bits; torch's own generators promise that on neither.
"""

import hashlib
import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Law = Literal["rademacher", "gaussian"]
NOT_FINITE = 0x80
"""The byte of a sample that is NaN or infinite: the sign with the magnitude 0, which no number has."""
DIGEST = 8  # bytes of a digest
STEPS = 16  # steps of the magnitude in an e-fold: half a step is 3.2 %
_SIGNS = 32  # directions of +1 and -1 taken from one hash


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _right(x: Tensor, bits: int) -> Tensor:
    """Shift without the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hashes(key: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Give splitmix64's outputs 1 to `count` for a key, int64 [count] (the 64 bits, read as signed)."""
    x = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _GOLDEN + _signed(key)
    x = (x ^ _right(x, 30)) * _FIRST
    x = (x ^ _right(x, 27)) * _SECOND
    return x ^ _right(x, 31)


def key_of(seed: int, round_: int, sample: int, client: int) -> int:
    """Give the 64-bit key of a sample's direction, hash(seed, round, sample, client)."""
    text = f"{seed}/{round_}/{sample}/{client}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def direction(key: int, count: int, law: Law, device: torch.device | str = "cpu") -> Tensor:
    """Give a direction, float32 [count], of mean 0 and variance 1, the weights independent.

    rademacher: +1 or -1. gaussian: bell-shaped, the sum of the four 16-bit parts of a hash, scaled (Irwin-Hall): whole
    numbers below 2^18 times one constant, so that no logarithm or cosine of a device enters.
    """
    if law == "rademacher":
        words = hashes(key, -(-count // _SIGNS), device)
        bits = (words[:, None] >> torch.arange(_SIGNS, device=device)) & 1
        return (2 * bits - 1).view(-1)[:count].float()
    words = hashes(key, count, device)
    total = sum(((words >> shift) & 0xFFFF for shift in (0, 16, 32, 48)), torch.zeros_like(words))
    return (2 * total - 4 * 65535).float() * (1 / math.sqrt(4 * (65536**2 - 1) / 3))


def encode(values: NDArray[np.float64], largest: float) -> NDArray[np.uint8]:
    """Give each value [n] as one byte: the sign (bit 7) and a magnitude k (bits 0 to 6).

    k = 1..127 stands for largest * exp((k - 127) / 16); 0 for zero. Larger magnitudes saturate at `largest`; those more
    than half a step below the smallest, largest * exp(-126 / 16), become zero. NaN and infinity become NOT_FINITE.
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    sizes = np.abs(np.where(finite, values, 0.0))
    with np.errstate(divide="ignore"):
        exact = 127 + STEPS * np.log(sizes / largest)
    steps = np.where(exact < 0.5, 0, np.clip(np.rint(exact), 1, 127)).astype(np.uint8)
    signed = steps | np.where((values < 0) & (steps > 0), 0x80, 0).astype(np.uint8)
    return np.where(finite, signed, NOT_FINITE).astype(np.uint8)


def decode(codes: NDArray[np.uint8], largest: float) -> NDArray[np.float64]:
    """Give the values [n] that bytes stand for; NaN for NOT_FINITE."""
    steps = (codes & 0x7F).astype(np.float64)
    sizes = np.where(steps > 0, largest * np.exp((steps - 127) / STEPS), 0.0)
    values = np.where(codes & 0x80, -sizes, sizes)
    return np.where(codes == NOT_FINITE, np.nan, values)


def digest(vector: Tensor) -> NDArray[np.uint8]:
    """Give the digest of a vector of weights: uint8 [DIGEST] of BLAKE2b over its bits."""
    bits = np.ascontiguousarray(vector.detach().cpu().numpy()).tobytes()
    return np.frombuffer(hashlib.blake2b(bits, digest_size=DIGEST).digest(), np.uint8)
