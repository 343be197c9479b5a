"""Painting scenes: sky and ground for a batch at once, then each image's things from far to near, then the air."""

import numpy as np
from numpy.typing import NDArray

from .arrays import Int64Array, UInt8Array
from .scene_layout import NAMES, PERSON, SIGN, Camera, Draws, Things
from .scene_shapes import BODY, DARK, GLASS, LIGHT, PALE, SECOND, SHADE
from .scene_sprites import MATERIALS, Sprite, sprite
from .scene_weather import Light, Tiles, tiles

Float32 = NDArray[np.float32]

_WHITE = np.array((0.93, 0.95, 0.98), np.float32)  # snow
_REAR, _FRONT, _WINDOW = (np.array(c, np.float32) for c in ((1.0, 0.12, 0.08), (1.0, 0.97, 0.82), (1.0, 0.82, 0.45)))
_PAINTS = np.array(
    [
        *((0.85, 0.86, 0.87), (0.1, 0.1, 0.12), (0.55, 0.57, 0.6), (0.7, 0.1, 0.1), (0.12, 0.25, 0.55)),
        *((0.3, 0.32, 0.35), (0.75, 0.68, 0.5), (0.1, 0.35, 0.25), (0.8, 0.65, 0.1), (0.5, 0.15, 0.3)),
    ],
    np.float32,
)
_PLATES = np.array(  # of the five signs
    [(0.78, 0.06, 0.08), (0.78, 0.06, 0.08), (0.75, 0.05, 0.07), (0.95, 0.72, 0.05), (0.05, 0.25, 0.65)], np.float32
)
_SKIN = np.array([(0.85, 0.68, 0.56), (0.6, 0.43, 0.32), (0.35, 0.24, 0.18)], np.float32)
_GLOW = np.exp(-4.0 * np.add.outer(np.linspace(-1, 1, 33) ** 2, np.linspace(-1, 1, 33) ** 2)).astype(np.float32) - 0.02
# Where lamps are, as shares of the cut-out's height, by number in NAMES.
_LAMPS = {"car_end": 0.53, "van_end": 0.53, "bus_rear": 0.81, "bus_front": 0.81, "truck_rear": 0.86, "truck_front": 0.8}


def paint(draws: Draws, camera: Camera, things: tuple[Things, Things], light: Light, size: int) -> UInt8Array:
    """Return the images, uint8 [b, 3, size, size], of objects and scenery in a light."""
    patterns, corners = tiles(size), (draws(10) * size).astype(np.int64).reshape(-1, 5, 2)
    image = _background(draws, camera, light, size, _pieces(patterns.clouds, corners[:, 0], size))
    merged = _merged(*things)
    order = np.argsort(-merged.depth, axis=1, kind="stable")
    colours = _palettes(draws, merged, camera, light)
    for row in range(len(image)):
        _place(image[row], row, order[row][merged.kept[row][order[row]]], merged, colours[row], light)
    return _finished(draws, image, light, patterns, corners, size)


def _pieces(tile: Float32, corners: Int64Array, size: int) -> Float32:
    return np.stack([tile[top : top + size, left : left + size] for top, left in corners.tolist()])


def _merged(first: Things, second: Things) -> Things:
    fields = {name: np.concatenate((values, getattr(second, name)), 1) for name, values in vars(first).items()}
    return Things(**fields)


def _background(draws: Draws, camera: Camera, light: Light, size: int, clouds: Float32) -> Float32:
    """Paint sky and ground, float32 [b, size, size, 3]."""
    top, reach = int(0.36 * size), int(0.48 * size) + 2  # the horizon lies between these rows
    image = np.empty((len(light.grey), size, size, 3), np.float32)
    image[:, top:] = _ground(draws, camera, light, size, top)
    rows = np.arange(reach) + 0.5
    height = (rows / camera.horizon[:, None]).clip(0, 1).astype(np.float32)[..., None, None] ** 1.5
    sky = light.high[:, None, None] * (1 - height) + light.low[:, None, None] * height
    bright = (light.low + 0.25 * (light.low - light.high)).clip(0, 1)[:, None, None]
    cover = (clouds[:, :reach] * light.clouds[:, None, None])[..., None]
    sky = sky + cover * (bright - sky)
    above = (camera.horizon[:, None] - rows + 0.5).clip(0, 1).astype(np.float32)[..., None, None]
    image[:, :top] = sky[:, :top]
    image[:, top:reach] += above[:, top:] * (sky[:, top:] - image[:, top:reach])
    return image


def _ground(draws: Draws, camera: Camera, light: Light, size: int, top: int) -> Float32:
    """Paint verge, pavement, road and lines below row `top`, float32 [b, size - top, size, 3]."""
    down = (np.arange(top, size) + 0.5 - camera.horizon[:, None]).clip(1e-3)
    scale = (down / camera.height[:, None]).astype(np.float32)[..., None]  # pixels a metre, [b, rows, 1]
    depth = camera.focal / scale
    middle = (camera.vanishing[:, None, None] + camera.centre[:, None, None] * scale).astype(np.float32)
    away = np.abs(np.arange(size, dtype=np.float32) + np.float32(0.5) - middle)  # pixels from the road's middle
    half, walk = (values.astype(np.float32)[:, None, None] for values in (camera.half, camera.walk))
    paved = (scale * (half + walk) - away + 0.5).clip(0, 1)
    road = (scale * half - away + 0.5).clip(0, 1)
    dashes = (depth + 6 * draws.between(0, 1).astype(np.float32)[:, None, None]) % 6 < 3
    line = (scale * 0.1 - away + 0.5).clip(0, 0.9) * dashes
    line += (scale * 0.08 - np.abs(away - scale * (half - 0.35)) + 0.5).clip(0, 0.9)
    shares = np.stack((1 - paved, paved - road, road * (1 - line), road * line), 3)
    colours = _ground_colours(draws, light)
    batch = len(shares)
    ground = (shares.reshape(batch, -1, 4) @ colours).reshape(*shares.shape[:3], 3)
    # The own headlights: a cone on the ground, of use only where it is dark.
    dark = light.lamps * (1 - light.gain.mean(1))
    lit = np.flatnonzero(dark > 0.1)
    if len(lit):
        across = (away[lit] / scale[lit]) * 0.25
        beam = 1 + 4.5 * dark[lit, None, None] * np.exp(-(across**2) - depth[lit] / 14)
        ground[lit] *= beam[..., None]
    sight = np.exp(-light.fog[:, None, None] * depth)[..., None]
    ground *= sight
    ground += (1 - sight) * light.veil[:, None, None]
    return ground


def _ground_colours(draws: Draws, light: Light) -> Float32:
    """Return the colours of verge, pavement, road and lines in a light, float32 [b, 4, 3]."""
    tone = draws(4).astype(np.float32)[..., None]
    grass = np.array((0.24, 0.36, 0.14), np.float32) + 0.16 * tone[:, 0] * np.array((1, 0.6, 0.2), np.float32)
    stone = np.array((0.5, 0.49, 0.47), np.float32) * (0.8 + 0.4 * tone[:, 1])
    verge = np.where(tone[:, 3] < 0.65, grass, stone * 0.85)
    asphalt = np.array((0.33, 0.33, 0.35), np.float32) * (0.75 + 0.5 * tone[:, 2])
    lines = np.broadcast_to(np.array((0.88, 0.87, 0.82), np.float32), grass.shape)
    colours = np.stack((verge, stone, asphalt, lines), 1)
    snow = light.snow[:, None, None] * np.array((1, 0.9, 0.55, 0.75), np.float32)[:, None]
    seen = light.on(colours + snow * (_WHITE - colours))
    mirror = light.wet[:, None] * 0.45
    seen[:, 2] += mirror * (light.low * 0.75 - seen[:, 2])
    return seen


def _palettes(draws: Draws, things: Things, camera: Camera, light: Light) -> Float32:
    """Return the colours of each thing's materials as they reach the camera, float32 [b, k, MATERIALS, 3 + a 1]."""
    batch, count = things.name.shape
    pick, other, tone = (draws(count) for _ in range(3))
    body = _PAINTS[(pick * len(_PAINTS)).astype(int)]
    second = _PAINTS[(other * len(_PAINTS)).astype(int)]
    plain = np.array([name.startswith(("tree", "bush")) for name in NAMES])[things.name]
    walls = np.array([name in ("house", "tower", "slab", "billboard", "bin", "pole") for name in NAMES])[things.name]
    leaves = np.array((0.16, 0.3, 0.1), np.float32) + 0.2 * (pick * [[1]]).astype(np.float32)[..., None] * np.array(
        (0.8, 0.6, 0.2), np.float32
    )
    brick = np.array((0.62, 0.55, 0.48), np.float32) + (0.3 * tone[..., None] - 0.15).astype(np.float32)
    plate = _PLATES[(things.name - NAMES.index("sign_round")).clip(0, 4)]
    body = np.where(plain[..., None], leaves, np.where(walls[..., None], 0.6 * brick + 0.4 * body, body))
    second = np.where(plain[..., None], leaves * 1.35, np.where(walls[..., None], brick * 0.6, second))
    sign, person = (things.kind == SIGN)[..., None], (things.kind == PERSON)[..., None]
    body = np.where(sign, plate, body)
    pale = np.where(person, _SKIN[(tone * 3).astype(int)], np.float32(0.88))
    colours = np.empty((batch, count, MATERIALS, 3), np.float32)
    colours[:, :, BODY], colours[:, :, SECOND], colours[:, :, PALE] = body, second, pale
    colours[:, :, SHADE] = body * 0.62
    colours[:, :, GLASS] = np.array((0.2, 0.25, 0.31), np.float32)
    colours[:, :, DARK] = np.where(plain[..., None], np.array((0.24, 0.17, 0.11), np.float32), np.float32(0.07))
    lamp = np.where(things.oncoming[..., None], _FRONT, _REAR)
    lamp = np.where(walls[..., None], _WINDOW, lamp)
    colours[:, :, LIGHT] = np.where(walls[..., None], colours[:, :, GLASS], lamp * 0.55)
    snow = light.snow[:, None, None] * np.where(plain | walls, 0.85, 0.15).astype(np.float32)[..., None]
    for material in (SECOND, BODY):
        share = snow if material == SECOND else snow * 0.35
        share = np.where(person | sign, 0, share)
        colours[:, :, material] += share * (_WHITE - colours[:, :, material])
    seen = light.on(colours)
    return _through_air(seen, colours, things, camera, light, lamp.astype(np.float32))


def _through_air(
    seen: Float32, colours: Float32, things: Things, camera: Camera, light: Light, lamp: Float32
) -> Float32:
    """Add the own headlights, burning lamps and the veil of the air."""
    depth = things.depth.astype(np.float32)
    dark = light.lamps * (1 - light.gain.mean(1))
    aside = (things.x + things.width / 2 - camera.vanishing[:, None]) / camera.focal * things.depth
    beam = dark[:, None] * np.exp(-((aside * 0.2) ** 2) - things.depth / 16)
    # Plates of signs throw the light back.
    beam = (beam * np.where(things.kind == SIGN, 1.5, 0.75)).astype(np.float32)
    seen += beam[..., None, None] * colours
    burning = light.lamps[:, None, None]
    seen[:, :, LIGHT] += burning * (lamp - seen[:, :, LIGHT])
    sight = np.exp(-light.fog[:, None] * depth)[..., None, None]
    veiled: Float32 = seen * sight + (1 - sight) * light.veil[:, None, None]
    # A lamp is seen further than what it is on.
    reach = np.sqrt(sight[:, :, 0]) * burning
    veiled[:, :, LIGHT] += reach * (lamp - veiled[:, :, LIGHT])
    return np.concatenate((veiled, np.ones_like(veiled[..., :1])), 3)


def _place(image: Float32, row: int, order: Int64Array, things: Things, colours: Float32, light: Light) -> None:
    """Paint one image's things, in this order, into float32 [size, size, 3]."""
    shadow, wet, lamps = float(light.shadow[row]), float(light.wet[row]), float(light.lamps[row])
    glow = lamps * (1 - float(light.gain[row].mean()))
    columns = (getattr(things, name)[row][order].tolist() for name in ("name", "kind", "x", "y", "width", "height"))
    more = (getattr(things, name)[row][order].tolist() for name in ("mirrored", "oncoming", "pole"))
    for at, name, kind, x, y, width, height, mirrored, oncoming, pole in zip(
        order.tolist(), *columns, *more, strict=True
    ):
        cut = sprite(NAMES[name])
        palette = colours[at]
        if pole > 0:
            _fill(image, x + width // 2, y + height, max(width // 9, 1), pole, palette[DARK, :3])
        elif kind >= 0:
            _darken(image, x, y + height - 1, width, max(height // 14, 1) + 1, 1 - shadow)
        if wet > 0.02 and kind >= 0 and pole == 0:
            _stick(image, cut, x, y + height, width, max(height * 2 // 3, 2), mirrored, palette, 0.6 * wet)
        _stick(image, cut, x, y, width, height, mirrored, palette, 0.0)
        if glow > 0.02 and NAMES[name] in _LAMPS:
            _shine(image, x, y + round(_LAMPS[NAMES[name]] * height), width, oncoming, glow)


def _stick(
    image: Float32,
    cut: Sprite,
    x: int,
    y: int,
    width: int,
    height: int,
    mirrored: bool,
    palette: Float32,
    reflection: float,
) -> None:
    """Lay a cut-out over the image; with a reflection above 0 upside down and so faint, fading downward."""
    size = len(image)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, size), min(y + height, size)
    if left >= right or top >= bottom:
        return
    rows, columns = range(top - y, bottom - y), range(left - x, right - x)
    if reflection:
        rows = range(height - (bottom - y), height - (top - y))
    shares = cut.at(height, width, rows, columns, mirrored)
    if reflection:
        fade = np.linspace(reflection, 0, height, dtype=np.float32)[top - y : bottom - y]
        shares = shares[::-1] * fade[:, None, None]
    # One product gives the colours and, by the palette's column of ones, how much is covered.
    laid = (shares.reshape(-1, MATERIALS) @ palette).reshape(*shares.shape[:2], 4)
    part = image[top:bottom, left:right]
    part *= 1 - laid[..., 3:]
    part += laid[..., :3]


def _fill(image: Float32, x: int, y: int, width: int, height: int, colour: Float32) -> None:
    image[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = colour


def _darken(image: Float32, x: int, y: int, width: int, height: int, share: float) -> None:
    image[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] *= share


def _shine(image: Float32, x: int, y: int, width: int, oncoming: bool, strength: float) -> None:
    """Add the glow of two lamps, wide if they point at the camera."""
    size, reach = len(image), max(round(width * (0.42 if oncoming else 0.2)), 2)
    colour = (_FRONT if oncoming else _REAR) * (strength * (0.9 if oncoming else 0.5))
    for centre in (x + round(0.13 * width), x + round(0.87 * width)):
        left, top = max(centre - reach, 0), max(y - reach, 0)
        right, bottom = min(centre + reach + 1, size), min(y + reach + 1, size)
        if left < right and top < bottom:
            rows = (np.arange(top, bottom) - y + reach) * 32 // (2 * reach)
            columns = (np.arange(left, right) - centre + reach) * 32 // (2 * reach)
            image[top:bottom, left:right] += _GLOW[rows[:, None], columns, None] * colour


def _finished(
    draws: Draws, image: Float32, light: Light, patterns: Tiles, corners: Int64Array, size: int
) -> UInt8Array:
    """Add lens, rain, snow and noise; round to uint8 [b, 3, size, size]."""
    out = np.empty((len(image), 3, size, size), np.uint8)
    exposure = draws.between(0.88, 1.12).astype(np.float32)

    def piece(tile: Float32, row: int, number: int) -> Float32:
        top, left = corners[row, number]
        return tile[top : top + size, left : left + size, None]

    for row in range(len(image)):
        each = image[row]
        if light.blur[row] > 0.01:
            _soften(each, float(light.blur[row]))
        if light.streaks[row] > 0.01:
            each += light.streaks[row] * piece(patterns.streaks, row, 1)
        if light.flakes[row] > 0.01:
            cover = light.flakes[row] * piece(patterns.flakes, row, 2)
            each += cover * (light.gain[row] - each)
        grain = piece(patterns.grain, row, 3)
        each *= (255 * exposure[row]) * (1 + 0.02 * grain)
        each += (255 * light.noise[row]) * piece(patterns.noise, row, 4)
        np.clip(each, 0, 255, out=each)
        out[row] = each.transpose(2, 0, 1)
    return out


def _soften(image: Float32, share: float) -> None:
    """Mix each pixel with its neighbours, first in rows, then in columns."""
    for view in (image, image.transpose(1, 0, 2)):
        mixed = (view[:-2] + view[2:]) * (share / 4)
        view[1:-1] *= 1 - share / 2
        view[1:-1] += mixed
