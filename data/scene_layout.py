"""Where things stand in a scene: drawn in metres on a plane, seen by a camera above the right lane."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from .arrays import Int64Array
from .scene_sprites import sprite

CLASSES = ("person", "car", "bus", "truck", "traffic sign")
PERSON, CAR, BUS, TRUCK, SIGN = range(5)
FEWEST, MOST = 3, 8  # objects an image
_TRIED = 24  # places tried for them
_DECORATIONS = 11

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SHARES = (0.25, 0.34, 0.12, 0.12, 0.17)  # of the classes
_NEAR = np.array((6.0, 5.5, 10.0, 10.0, 5.0))  # metres, at least and at most
_FAR = np.array((20.0, 27.0, 36.0, 36.0, 16.0))
_MOST_HIDDEN = 0.5  # of a box, by nearer ones
_LEAST_SEEN = 0.4  # of a box, inside the image
_LEAST_SIDE = 0.035  # of what is seen, as a share of the image's side

NAMES = (
    *("person_still", "person_walking", "car_end", "van_end", "car_turned", "car_side"),
    *("bus_rear", "bus_front", "bus_turned", "bus_side", "truck_rear", "truck_front", "truck_turned", "truck_side"),
    *("sign_round", "sign_triangle", "sign_stop", "sign_diamond", "sign_board"),
    *("tree_round", "tree_wide", "bush", "house", "tower", "slab", "pole", "bin", "billboard"),
)
_NUMBER = {name: number for number, name in enumerate(NAMES)}
# Rear, front, turned and side view of each class of vehicle.
_VIEWS = np.array(
    [
        [0] * 4,
        [_NUMBER[name] for name in ("car_end", "car_end", "car_turned", "car_side")],
        [_NUMBER[name] for name in ("bus_rear", "bus_front", "bus_turned", "bus_side")],
        [_NUMBER[name] for name in ("truck_rear", "truck_front", "truck_turned", "truck_side")],
        [0] * 4,
    ]
)
# Decorations and how often each comes.
_SCENERY = np.array([_NUMBER[name] for name in ("tree_round", "tree_wide", "bush", "house", "tower", "slab", "pole")])
_SCENERY_SHARES = (0.24, 0.18, 0.1, 0.22, 0.08, 0.08, 0.1)
_STREET = np.array([_NUMBER[name] for name in ("bin", "billboard")])


class Draws:
    """Uniform numbers in 0..1 as a pure function of (seed, part, index of the image, count of the draw)."""

    def __init__(self, seed: int, part: str, indices: Int64Array) -> None:
        digest = sha256(f"{seed}\x1fscenes-{part}".encode()).digest()
        start = np.uint64(int.from_bytes(digest[:8], "big"))
        self._keys = _mixed(start + _mixed(indices.astype(np.uint64)))
        self._drawn = 0

    def __call__(self, count: int) -> Floats:
        """Return the next `count` numbers of each image, float64 [b, count]."""
        numbers = np.arange(self._drawn, self._drawn + count, dtype=np.uint64)
        self._drawn += count
        mixed = _mixed(self._keys[:, None] + (numbers + np.uint64(1)) * _STEP)
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, low: float, high: float, count: int = 1) -> Floats:
        """Return the next numbers, scaled to low..high: [b], or [b, count]."""
        values = low + (high - low) * self(count)
        return values[:, 0] if count == 1 else values


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit numbers (the finaliser of SplitMix64; Steele, Lea and Flood, 2014); overflow is meant."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Camera:
    """The view of each image [b]: horizon row, column of the vanishing point, both in pixels; the road.

    focal: pixels. height: of the camera, metres. centre, half: the middle and half the width of the road,
    walk: width of the pavement, all in metres to the right of the camera.
    """

    horizon: Floats
    vanishing: Floats
    focal: float
    height: Floats
    centre: Floats
    half: Floats
    walk: Floats


@dataclass(frozen=True)
class Things:
    """Things to be drawn, [b, k]: number in NAMES, class (-1: scenery), place in pixels, depth in metres.

    x, y, width, height are whole pixels and may lie outside the image. oncoming: its lamps are white.
    pole: pixels from the lower edge to the ground, above 0 for what hangs on a pole. kept: it is drawn.
    """

    name: Int64Array
    kind: Int64Array
    x: Int64Array
    y: Int64Array
    width: Int64Array
    height: Int64Array
    depth: Floats
    mirrored: Bools
    oncoming: Bools
    pole: Int64Array
    kept: Bools


def camera_of(draws: Draws, size: int) -> Camera:
    """Draw the camera of each image."""
    return Camera(
        horizon=draws.between(0.36, 0.48) * size,
        vanishing=draws.between(0.36, 0.64) * size,
        focal=1.15 * size,
        height=draws.between(1.35, 1.9),
        centre=draws.between(-3.2, -1.0),
        half=draws.between(4.0, 6.5),
        walk=draws.between(1.2, 3.0),
    )


def objects_of(draws: Draws, camera: Camera, size: int) -> Things:
    """Draw the labelled objects of each image: FEWEST to MOST of them, none hidden by more than half.

    Once in some thousand images there is no room for FEWEST.
    """
    count = _TRIED
    kind = np.searchsorted(np.cumsum(_SHARES)[:-1], draws(count), "right")
    depth = _NEAR[kind] * (_FAR / _NEAR)[kind] ** draws(count)
    side, across, view, pick = (draws(count) for _ in range(4))
    vehicle = (kind >= CAR) & (kind <= TRUCK)
    right = side < np.where(vehicle, 0.55, 0.5)
    sign = np.where(right, 1.0, -1.0)
    half, walk = camera.half[:, None], camera.walk[:, None]
    lane = half * np.where(across < 0.8, 0.2 + 0.5 * across, 0.86)  # the last fifth is parked
    beside = half + walk * across
    crossing = half * (2 * across - 1)
    place = np.where(vehicle, sign * lane, sign * np.where(kind == SIGN, half + 0.4 + across, beside))
    place = np.where((kind == PERSON) & (view < 0.3), crossing, place) + camera.centre[:, None]
    # Whatever stands far to the side is seen only from afar.
    depth = np.maximum(depth, np.abs(place) / (0.3 + 0.18 * draws(count)))
    oncoming = vehicle & ~right
    seen_from = np.where(np.abs(place) / depth > 0.17, 2, np.where(oncoming, 1, 0))
    seen_from = np.where(view < 0.16, 3, seen_from)
    name = np.where(vehicle, _VIEWS[kind, seen_from], np.where(kind == PERSON, (pick * 2).astype(int), 0))
    name = np.where(kind == SIGN, _NUMBER["sign_round"] + (pick * 5).astype(int), name)
    name = np.where((name == _NUMBER["car_end"]) & (pick < 0.35), _NUMBER["van_end"], name)
    mirrored = np.where(vehicle & (seen_from == 2), place < 0, pick * 7 % 1 < 0.5)
    raised = np.where(kind == SIGN, 1.7 + draws(count), 0.0)
    stretch = 0.88 + 0.24 * draws(count)
    things = _projected(camera, name, kind, place, depth, raised, stretch, mirrored, oncoming)
    wanted = FEWEST + (draws(1)[:, 0] * (MOST - FEWEST + 1)).astype(int)
    kept = _chosen(things, wanted, size)
    return Things(**{**vars(things), "kept": kept})


def scenery_of(draws: Draws, camera: Camera) -> Things:
    """Draw the trees, houses, poles and bins of each image."""
    count = _DECORATIONS
    name = _SCENERY[np.searchsorted(np.cumsum(_SCENERY_SHARES)[:-1], draws(count), "right")]
    small = _STREET[(draws(2) * 2).astype(int)]
    name = np.concatenate((name, small), 1)
    depth = np.concatenate((14 * (75 / 14) ** draws(count), 9 * (26 / 9) ** draws(2)), 1)
    sign = np.where(draws(count + 2) < 0.5, 1.0, -1.0)
    far = draws(count + 2)
    width = np.array([sprite(each).width for each in NAMES])[name]
    beside = camera.half[:, None] + camera.walk[:, None] + width / 2 + far * (3 + 0.12 * depth)
    beside[:, count:] = (camera.half + camera.walk * 0.7)[:, None] + far[:, count:] * 2 + 0.6
    place = sign * beside + camera.centre[:, None]
    nothing = np.zeros(name.shape)
    stretch = 0.8 + 0.4 * draws(count + 2)
    mirrored = draws(count + 2) < 0.5
    kind = np.full(name.shape, -1)
    return _projected(camera, name, kind, place, depth, nothing, stretch, mirrored, mirrored)


def _projected(
    camera: Camera,
    name: Int64Array,
    kind: Int64Array,
    place: Floats,
    depth: Floats,
    raised: Floats,
    stretch: Floats,
    mirrored: Bools,
    oncoming: Bools,
) -> Things:
    """Turn metres into whole pixels; `stretch` scales heights, and widths by its root."""
    metres = np.array([(sprite(each).width, sprite(each).height) for each in NAMES])[name]
    scale = camera.focal / depth
    width = np.maximum(np.rint(metres[..., 0] * np.sqrt(stretch) * scale), 2).astype(np.int64)
    height = np.maximum(np.rint(metres[..., 1] * stretch * scale), 2).astype(np.int64)
    ground = camera.horizon[:, None] + camera.height[:, None] * scale
    x = np.rint(camera.vanishing[:, None] + place * scale - width / 2).astype(np.int64)
    y = np.rint(ground - raised * scale).astype(np.int64) - height
    pole = np.rint(raised * scale).astype(np.int64)
    everything = np.ones(name.shape, bool)
    return Things(name, kind, x, y, width, height, depth, mirrored, oncoming, pole, everything)


def seen_boxes(things: Things, size: int) -> Int64Array:
    """Return what of each thing lies inside the image, int64 [b, k, 4]: x1, y1, x2, y2."""
    corners = (things.x, things.y, things.x + things.width, things.y + things.height)
    return np.stack(corners, 2).clip(0, size)


def _chosen(things: Things, wanted: Int64Array, size: int) -> Bools:
    """Take things in the order drawn, up to `wanted` [b], as long as nobody's box is hidden too much."""
    boxes = seen_boxes(things, size)
    sides = boxes[..., 2:] - boxes[..., :2]
    area = sides.prod(2)
    fits = (sides.min(2) >= _LEAST_SIDE * size) & (area >= _LEAST_SEEN * things.width * things.height)
    low = np.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = np.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (high - low).clip(0).prod(3)
    nearer = things.depth[:, None, :] < things.depth[:, :, None]
    # hides[b, i, j]: the share of box i that box j, standing nearer, covers.
    hides = np.where(nearer, common / np.maximum(area, 1)[:, :, None], 0.0)
    kept, hidden = np.zeros(fits.shape, bool), np.zeros(fits.shape)
    for turn in range(fits.shape[1]):
        own = (hides[:, turn] * kept).sum(1)
        others = np.where(kept, hidden + hides[:, :, turn], 0.0)
        take = fits[:, turn] & (kept.sum(1) < wanted) & (own <= _MOST_HIDDEN) & (others <= _MOST_HIDDEN).all(1)
        hidden = np.where(take[:, None] & kept, others, hidden)
        hidden[:, turn] = np.where(take, own, 0.0)
        kept[:, turn] = take
    return kept
