"""Driving scenes made on the fly, in six weathers: detection data that needs no download.

A road in perspective with lanes, pavements, trees and houses; on it cars, buses, trucks, people and traffic
signs, three to eight an image (hardly ever fewer), at many distances, partly hidden or cut off. A scene is
a pure function of (seed, index); the weather only changes how it looks, by as much as `shift` says.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from .arrays import DataError, Int64Array, UInt8Array
from .boxes_data import BoxData, BoxSet
from .options import did_you_mean
from .scene_layout import CLASSES, Draws, camera_of, objects_of, scenery_of, seen_boxes
from .scene_paint import paint
from .scene_weather import WEATHERS, light_of

_CHUNK = 32  # images made at a time: keeps the work inside the processor's cache
_MEAN, _STD = (0.46, 0.48, 0.52), (0.18, 0.19, 0.21)


def read_scenes(
    root: str | Path | None = None,
    *,
    samples: Annotated[int, Field(ge=1)] = 2000,
    test_samples: Annotated[int, Field(ge=0)] = 400,
    size: Annotated[int, Field(ge=64, multiple_of=32)] = 128,
    weathers: tuple[str, ...] = ("cloudy", "overcast", "rainy", "snowy"),
    shift: Annotated[float, Field(ge=0, le=2)] = 1.0,
    seed: int = 0,
) -> BoxSet:
    """Make `samples` train and `test_samples` test images [3, size, size]; `root` is not used.

    weathers: of cloudy, overcast, rainy, snowy, foggy, night; they take turns, so that their numbers differ
    by at most one, and are the attribute "weather". shift: 0 (all look cloudy) to 2 (twice as far from it).
    Classes are person, car, bus, truck and traffic sign. A box spans what of an object lies inside the image,
    hidden parts included; nearer objects hide at most half of it (trees and billboards, of 3 in 10,000, more).

    The same arguments always give the same images, and a larger number begins with the same ones.
    Raises DataError for an unknown weather, a weather given twice, or none.
    """
    unknown = [name for name in weathers if name not in WEATHERS]
    if unknown:
        hint = did_you_mean(unknown[0], WEATHERS)
        raise DataError(f"unknown weather {unknown[0]!r}{hint}; known are {', '.join(WEATHERS)}")
    if not weathers or len(set(weathers)) != len(weathers):
        raise DataError(f"weathers must be different ones, at least one; got {list(weathers)}")
    parts = (("train", samples), ("test", test_samples))
    train, test = (_make(part, count, size, weathers, shift, seed) for part, count in parts)
    return BoxSet("scenes", train, test, CLASSES, _MEAN, _STD)


def draw_scenes(
    indices: Int64Array, weathers: tuple[str, ...], *, size: int, shift: float, seed: int, part: str
) -> tuple[UInt8Array, Int64Array, Int64Array, Int64Array]:
    """Draw the scenes with these indices [b] in these weathers (one each).

    Returns images uint8 [b, 3, size, size], boxes [m, 4] in whole pixels, labels [m] and offsets [b + 1].
    """
    draws = Draws(seed, part, indices)
    camera = camera_of(draws, size)
    things, scenery = objects_of(draws, camera, size), scenery_of(draws, camera)
    images = paint(draws, camera, (things, scenery), light_of(weathers, shift), size)
    kept = things.kept
    offsets = np.concatenate(([0], np.cumsum(kept.sum(1))))
    return images, seen_boxes(things, size)[kept], things.kind[kept], offsets


def _make(part: str, count: int, size: int, weathers: tuple[str, ...], shift: float, seed: int) -> BoxData:
    images = np.empty((count, 3, size, size), np.uint8)
    boxes, labels, counts = ([np.zeros(shape, np.int64)] for shape in ((0, 4), (0,), (1,)))
    weather = np.array(weathers)[np.arange(count) % len(weathers)]
    for start in range(0, count, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, count))
        made = draw_scenes(rows, tuple(weather[rows].tolist()), size=size, shift=shift, seed=seed, part=part)
        images[rows] = made[0]
        boxes.append(made[1])
        labels.append(made[2])
        counts.append(np.diff(made[3]))
    return BoxData(
        images,
        np.concatenate(boxes).astype(np.float32),
        np.concatenate(labels),
        np.cumsum(np.concatenate(counts)),
        {"weather": weather},
    )
