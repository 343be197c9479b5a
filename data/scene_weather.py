"""Weathers of `scenes`: how light, air, ground and lens differ from a cloudy day, and by how much.

Every quantity runs from its value on a cloudy day (shift 0) through its value in the weather (shift 1) and
on in the same direction (shift up to 2), within its range. Light fades by a power instead: twice the shift
is the square of the gain. Colours of sky and air keep the weather's hue beyond shift 1, where only their
brightness goes on, by a power.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .draws import generator

Float32 = NDArray[np.float32]

# gain: of the light, red green blue. grey: colour lost. high, low: the sky above and at the horizon. clouds:
# their share. fog: of the sight lost, per metre. veil: the colour of the air. shadow: darkness under things.
# snow: on the ground. wet: how much the road mirrors. lamps: how bright lights are. streaks, flakes: rain and
# snow in the air. blur: of the lens. noise: of the sensor.
_CLOUDY: dict[str, Any] = {
    "gain": (1.0, 1.0, 1.0),
    "grey": 0.0,
    "high": (0.38, 0.55, 0.80),
    "low": (0.78, 0.85, 0.92),
    "clouds": 0.7,
    "fog": 0.003,
    "veil": (0.78, 0.83, 0.88),
    "shadow": 0.45,
    "snow": 0.0,
    "wet": 0.0,
    "lamps": 0.0,
    "streaks": 0.0,
    "flakes": 0.0,
    "blur": 0.0,
    "noise": 0.012,
}
_OTHERS: dict[str, dict[str, Any]] = {
    "cloudy": {},
    "overcast": {
        "gain": (0.66, 0.69, 0.74),
        "grey": 0.45,
        "high": (0.58, 0.60, 0.64),
        "low": (0.72, 0.73, 0.75),
        "clouds": 0.2,
        "fog": 0.010,
        "veil": (0.70, 0.72, 0.74),
        "shadow": 0.08,
    },
    "rainy": {
        "gain": (0.46, 0.50, 0.56),
        "grey": 0.5,
        "high": (0.40, 0.43, 0.48),
        "low": (0.54, 0.57, 0.60),
        "clouds": 0.3,
        "fog": 0.020,
        "veil": (0.52, 0.55, 0.58),
        "shadow": 0.05,
        "wet": 0.7,
        "lamps": 0.5,
        "streaks": 0.22,
        "blur": 0.5,
        "noise": 0.02,
    },
    "snowy": {
        "gain": (0.80, 0.84, 0.92),
        "grey": 0.4,
        "high": (0.70, 0.73, 0.78),
        "low": (0.84, 0.86, 0.89),
        "clouds": 0.1,
        "fog": 0.014,
        "veil": (0.84, 0.86, 0.89),
        "shadow": 0.15,
        "snow": 0.75,
        "lamps": 0.2,
        "flakes": 0.6,
        "blur": 0.15,
    },
    "foggy": {
        "gain": (0.82, 0.83, 0.85),
        "grey": 0.4,
        "high": (0.72, 0.74, 0.76),
        "low": (0.76, 0.77, 0.78),
        "clouds": 0.0,
        "fog": 0.075,
        "veil": (0.75, 0.76, 0.77),
        "shadow": 0.0,
        "lamps": 0.4,
        "blur": 0.2,
    },
    "night": {
        "gain": (0.24, 0.25, 0.33),
        "grey": 0.2,
        "high": (0.02, 0.03, 0.07),
        "low": (0.10, 0.10, 0.15),
        "clouds": 0.1,
        "fog": 0.006,
        "veil": (0.07, 0.07, 0.10),
        "shadow": 0.0,
        "lamps": 0.9,
        "noise": 0.03,
    },
}
WEATHERS = tuple(_OTHERS)
_RANGES: Mapping[str, tuple[float, float]] = {"gain": (0.08, 1), "fog": (0, 0.2), "high": (0.01, 1), "low": (0.02, 1)}
_HUES = ("high", "low", "veil")


@dataclass(frozen=True)
class Light:
    """The quantities above for images of given weathers: float32, [b] or [b, 3]."""

    gain: Float32
    grey: Float32
    high: Float32
    low: Float32
    clouds: Float32
    fog: Float32
    veil: Float32
    shadow: Float32
    snow: Float32
    wet: Float32
    lamps: Float32
    streaks: Float32
    flakes: Float32
    blur: Float32
    noise: Float32

    def on(self, colours: Float32) -> Float32:
        """Return colours [b, ..., 3] as this light shows them."""
        shape = (-1,) + (1,) * (colours.ndim - 2)
        mean = colours.mean(-1, keepdims=True)
        faded = colours + (mean - colours) * self.grey.reshape(*shape, 1)
        shown: Float32 = faded * self.gain.reshape(*shape, 3)
        return shown


def light_of(weathers: Sequence[str], shift: float) -> Light:
    """Return the light in which images of these weathers are seen."""
    values = {}
    for name, base in _CLOUDY.items():
        start = np.array(base, np.float32)
        known = {weather: _shifted(name, start, _OTHERS[weather].get(name, base), shift) for weather in set(weathers)}
        values[name] = np.stack([known[weather] for weather in weathers])
    return Light(**values)


def _shifted(name: str, start: Float32, target: Any, shift: float) -> Float32:
    end: Float32 = np.array(target, np.float32)
    value: Float32
    if name == "gain":
        value = start * (end / start) ** shift
    elif name in _HUES:
        value = start + min(shift, 1) * (end - start)
        value = value * (end.mean() / start.mean()) ** max(shift - 1, 0)
    else:
        value = start + shift * (end - start)
    low, high = _RANGES.get(name, (0, 1))
    clipped: Float32 = value.clip(low, high).astype(np.float32)
    return clipped


@dataclass(frozen=True)
class Tiles:
    """Patterns twice as wide and high as an image, from which each image takes a piece: float32 [2s, 2s]."""

    noise: Float32
    grain: Float32
    clouds: Float32
    streaks: Float32
    flakes: Float32


@cache
def tiles(size: int) -> Tiles:
    """Return the patterns for images of a size; they are the same for every seed."""
    rng = generator(0, f"scenes-tiles-{size}")
    side = 2 * size
    noise = rng.standard_normal((side, side))
    grain = 0.6 * rng.standard_normal((side, side)) + _smooth(rng, side, 48)
    clouds = _smooth(rng, side, 6) + 0.5 * _smooth(rng, side, 14) + 0.25 * _smooth(rng, side, 40)
    clouds = ((clouds - clouds.min()) / np.ptp(clouds) * 2.2 - 0.6).clip(0, 1)
    drops, grains = rng.random((side, side)), rng.random((side, side))
    streaks = np.zeros((side, side))
    length = max(size // 12, 3)
    for step in range(length):
        fade = 1 - step / length
        streaks = np.maximum(streaks, fade * (np.roll(drops, (step, -step // 4), (0, 1)) > 0.992))
    flakes = np.zeros((side, side))
    for (down, across), bound in _FLAKE.items():
        flakes = np.maximum(flakes, (np.roll(grains, (down, across), (0, 1)) > bound) * (0.9 if bound < 0.99 else 0.75))
    return Tiles(*(np.asarray(tile, np.float32) for tile in (noise, grain, clouds, streaks, flakes)))


# A flake is a pixel; a larger one, of a rarer grain, covers its neighbours too.
_FLAKE = {(0, 0): 0.985, (0, 1): 0.994, (1, 0): 0.994, (1, 1): 0.994, (0, -1): 0.998, (-1, 0): 0.998}


def _smooth(rng: np.random.Generator, side: int, waves: int) -> NDArray[np.float64]:
    """Return noise [side, side] that varies over about side / waves pixels, by linear interpolation."""
    knots = rng.standard_normal((waves + 1, waves + 1))
    place = np.arange(side) * (waves / side)
    low = place.astype(int)
    part = place - low
    rows = knots[low] * (1 - part)[:, None] + knots[low + 1] * part[:, None]
    smooth: NDArray[np.float64] = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return smooth
