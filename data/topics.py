"""Sentences made on the fly, each about one of a few topics: a small language task without a download."""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from .arrays import ImageData, TextSet
from .draws import generator

VOCABULARY = 256  # a word is a byte; 0 fills a sentence up to its length
_COMMON = 56  # words 1 to 56 belong to no topic
_WORDS = 20  # words of a topic of its own

Count = Annotated[int, Field(ge=1)]


def read_topics(
    root: str | Path | None = None,
    *,
    samples: Count = 4000,
    test_samples: Annotated[int, Field(ge=0)] = 1000,
    topics: Annotated[int, Field(ge=2, le=9)] = 4,
    length: Annotated[int, Field(ge=4, le=256)] = 16,
    share: Annotated[float, Field(gt=0, le=1)] = 0.3,
    other: Annotated[float, Field(ge=0, le=1)] = 0.1,
    seed: int = 0,
) -> TextSet:
    """Make `samples` train and `test_samples` test sentences, uint8 [1, 1, length]; `root` is not used.

    A word of a sentence is one of its topic with probability `share`, one of any topic with probability `other`, and
    else a common word; sentences have half to all of `length` words. Normalised by mean 0 and std 1/255, a value is the
    number of its word. The same arguments always give the same sentences.
    """
    parts = [
        _make(generator(seed, f"topics-{part}"), count, topics, length, share, other)
        for part, count in (("train", samples), ("test", test_samples))
    ]
    names = tuple(f"topic_{number}" for number in range(topics))
    return TextSet("topics", parts[0], parts[1], names, (0.0,), (1 / 255,))


def _make(rng: np.random.Generator, count: int, topics: int, length: int, share: float, other: float) -> ImageData:
    labels = rng.integers(topics, size=count)
    draw, shape = rng.random((count, length)), (count, length)
    topic = np.where(draw < share, labels[:, None], rng.integers(topics, size=shape))
    own = 1 + _COMMON + topic * _WORDS + rng.integers(_WORDS, size=shape)
    words = np.where(draw < share + other, own, rng.integers(1, 1 + _COMMON, size=shape))
    ends = rng.integers(length // 2, length + 1, size=count)
    words[np.arange(length) >= ends[:, None]] = 0
    return ImageData(words.astype(np.uint8)[:, None, None], labels.astype(np.int64))
