"""Images made on the fly: a smooth pattern for each class, mixed with another one and with noise."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .arrays import DataSet, ImageData
from .draws import generator

_WAVES = 3  # highest number of half-waves along a side: smooth, and still different for many classes
_VARIANTS = 2  # patterns a class: one template each would be learnt at once
_CHUNK = 16_384  # images made at a time: bounds the memory of the float work

Count = Annotated[int, Field(ge=1)]
FloatArray = NDArray[np.float32]


def read_synthetic(
    root: str | Path | None = None,
    *,
    samples: Count = 2000,
    test_samples: Annotated[int, Field(ge=0)] = 500,
    classes: Annotated[int, Field(ge=2)] = 10,
    size: Annotated[int, Field(ge=4)] = 16,
    channels: Literal[1, 3] = 1,
    noise: Annotated[float, Field(ge=0)] = 0.15,
    domains: Count = 1,
    seed: int = 0,
) -> DataSet:
    """Make `samples` train and `test_samples` test images [channels, size, size]; `root` is not used.

    An image is its class's pattern (one of two, strength 0.5 to 1) plus up to half as much of any class's
    pattern plus normal noise with standard deviation `noise` on the scale 0..1. With `domains` above 1 each
    sample also belongs to one of so many domains, each with its own contrast and brightness for each
    channel, named in the attribute "domain". The same arguments always give the same images.
    """
    patterns = _patterns(generator(seed, "synthetic-patterns"), classes, channels, size)
    looks = _looks(generator(seed, "synthetic-domains"), domains, channels)
    train, test = (
        _make(generator(seed, f"synthetic-{part}"), count, patterns, looks, noise)
        for part, count in (("train", samples), ("test", test_samples))
    )
    width = len(str(classes - 1))
    names = tuple(f"class_{index:0{width}}" for index in range(classes))
    return DataSet("synthetic", train, test, names, (0.5,) * channels, (0.5,) * channels)


def _patterns(rng: np.random.Generator, classes: int, channels: int, size: int) -> FloatArray:
    """Random mixtures of low cosines, scaled to -1..1: [classes, variants, channels, size, size]."""
    grid = (np.arange(size) + 0.5) / size
    waves = np.cos(np.pi * np.arange(_WAVES + 1)[:, None] * grid)
    weights = rng.standard_normal((classes, _VARIANTS, channels, _WAVES + 1, _WAVES + 1))
    weights[..., 0, 0] = 0  # no constant part: classes must differ in shape, not in brightness
    fields = np.einsum("kvcij,ih,jw->kvchw", weights, waves, waves)
    scaled: FloatArray = (fields / np.abs(fields).max(axis=(2, 3, 4), keepdims=True)).astype(np.float32)
    return scaled


def _looks(rng: np.random.Generator, domains: int, channels: int) -> FloatArray:
    """Contrast and brightness of each domain and channel: [2, domains, channels]; one domain is neutral."""
    if domains == 1:
        return np.stack((np.ones((1, channels)), np.zeros((1, channels)))).astype(np.float32)
    contrast = rng.uniform(0.6, 1.2, (domains, channels))
    brightness = rng.uniform(-0.2, 0.2, (domains, channels))
    return np.stack((contrast, brightness)).astype(np.float32)


def _make(rng: np.random.Generator, count: int, patterns: FloatArray, looks: FloatArray, noise: float) -> ImageData:
    classes, _, *shape = patterns.shape
    labels = rng.integers(classes, size=count)
    domain = rng.integers(looks.shape[1], size=count)
    images = np.empty((count, *shape), np.uint8)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        contrast, brightness = looks[:, domain[part], :, None, None]
        values = _mixture(rng, labels[part], patterns) * contrast + brightness
        values += np.float32(noise) * rng.standard_normal(values.shape, np.float32)
        images[part] = np.clip(values * 255 + 128, 0, 255)
    width = len(str(looks.shape[1] - 1))
    names = np.array([f"domain_{index:0{width}}" for index in range(looks.shape[1])])
    return ImageData(images, labels, {"domain": names[domain]} if len(names) > 1 else {})


def _mixture(rng: np.random.Generator, labels: NDArray[np.int64], patterns: FloatArray) -> FloatArray:
    """Mix a pattern of the own class and a weaker one of any class: [n, channels, size, size] around 0."""
    count, (classes, variants) = len(labels), patterns.shape[:2]

    def weight(low: float, high: float) -> FloatArray:
        return (0.3 * rng.uniform(low, high, (count, 1, 1, 1))).astype(np.float32)

    own = patterns[labels, rng.integers(variants, size=count)] * weight(0.5, 1)
    other = patterns[rng.integers(classes, size=count), rng.integers(variants, size=count)] * weight(0, 0.5)
    mixed: FloatArray = own + other
    return mixed
