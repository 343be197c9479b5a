"""A client's site for the tests of training in one pass: made-up images of 8 x 8, in the network's own precision."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fedbox.models import FlatModel
from fedbox.strategies.samples import Samples
from fedbox.strategies.site import Holdings, Site


def small_site(
    flat: FlatModel, number: int, count: int, train: Any, *, seed: int | Sequence[int], round_: int = 2
) -> Site:
    """Give client `number` with `count` images of ten classes, drawn from `seed`."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8), rng.integers(0, 10, count)
    samples = Samples(images, labels, mean=[0.5], std=[0.3], device=flat.flat.device)
    if flat.flat.dtype == torch.float64:
        samples._mean, samples._std = samples._mean.double(), samples._std.double()
        samples._x = samples.normalize(samples._bytes.double() / 255)
    held = Holdings(lambda: samples, lambda: samples, lambda: samples)
    return Site(f"client-{number}", flat, train, held, 10, seed=3, round=round_)
