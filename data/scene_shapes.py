"""What `scenes` shows, as polygons: cars, buses, trucks, people, signs, trees, houses.

Ends are seen from behind or before; a turned vehicle shows its end on the right and a flank on the left.

Coordinates run from 0 to 1, x to the right and y downward. A shape names its material; a palette gives
materials their colours when the drawing is placed in a scene.
"""

from collections.abc import Mapping, Sequence
from math import cos, pi, sin

Points = Sequence[tuple[float, float]]
Shape = tuple[int, Points]

BODY, SHADE, GLASS, DARK, LIGHT, PALE, SECOND = range(7)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _disc(x: float, y: float, across: float, down: float, corners: int = 20) -> Points:
    turns = [2 * pi * (corner + 0.5) / corners for corner in range(corners)]
    return [(x + across * cos(turn), y + down * sin(turn)) for turn in turns]


def _both(left: float, top: float, right: float, bottom: float) -> tuple[Points, Points]:
    return _box(left, top, right, bottom), _box(1 - right, top, 1 - left, bottom)


def _car_end(roof: float) -> list[Shape]:
    """Draw a car from behind or before; `roof`: how far the roof is drawn in."""
    return [
        *((DARK, part) for part in _both(0.07, 0.78, 0.24, 1)),
        (DARK, _box(0.05, 0.74, 0.95, 0.9)),
        (
            BODY,
            ((roof, 0), (1 - roof, 0), (0.92, 0.42), (0.97, 0.5), (1, 0.6), (1, 0.8), (0, 0.8), (0, 0.6), (0.08, 0.42)),
        ),
        (GLASS, ((roof + 0.05, 0.06), (0.95 - roof, 0.06), (0.84, 0.38), (0.16, 0.38))),
        (SHADE, _box(0.02, 0.66, 0.98, 0.8)),
        *((LIGHT, part) for part in _both(0.03, 0.47, 0.22, 0.6)),
        (PALE, _box(0.37, 0.6, 0.63, 0.7)),
    ]


def _car_turned() -> list[Shape]:
    """Draw a car from behind, its left flank in view."""
    return [
        (DARK, _disc(0.12, 0.78, 0.06, 0.17)),
        (DARK, _disc(0.42, 0.84, 0.06, 0.16)),
        (DARK, _box(0.86, 0.78, 0.97, 0.98)),
        (SHADE, ((0.1, 0.42), (0.26, 0.05), (0.5, 0), (0.5, 0.86), (0.08, 0.78), (0, 0.7), (0, 0.5))),
        (GLASS, ((0.16, 0.4), (0.28, 0.1), (0.46, 0.07), (0.43, 0.42))),
        (BODY, ((0.5, 0), (0.9, 0.02), (0.97, 0.43), (1, 0.55), (1, 0.86), (0.44, 0.88), (0.44, 0.46))),
        (GLASS, ((0.54, 0.07), (0.87, 0.08), (0.92, 0.4), (0.5, 0.4))),
        (DARK, _box(0.45, 0.8, 1, 0.88)),
        (LIGHT, _box(0.45, 0.48, 0.55, 0.62)),
        (LIGHT, _box(0.9, 0.48, 0.99, 0.62)),
        (PALE, _box(0.64, 0.64, 0.82, 0.74)),
    ]


def _car_side() -> list[Shape]:
    return [
        (BODY, ((0, 0.5), (0.16, 0.42), (0.3, 0.02), (0.66, 0), (0.82, 0.4), (0.98, 0.48), (1, 0.8), (0, 0.8))),
        (GLASS, ((0.22, 0.4), (0.33, 0.09), (0.48, 0.09), (0.48, 0.4))),
        (GLASS, ((0.52, 0.4), (0.52, 0.09), (0.64, 0.09), (0.75, 0.4))),
        (SHADE, _box(0.01, 0.66, 0.99, 0.82)),
        (LIGHT, _box(0, 0.5, 0.05, 0.6)),
        (DARK, _disc(0.2, 0.78, 0.1, 0.22)),
        (DARK, _disc(0.79, 0.78, 0.1, 0.22)),
        (PALE, _disc(0.2, 0.78, 0.04, 0.1)),
        (PALE, _disc(0.79, 0.78, 0.04, 0.1)),
    ]


def _bus_end(front: bool) -> list[Shape]:
    deep = 0.6 if front else 0.42
    return [
        *((DARK, part) for part in _both(0.1, 0.88, 0.26, 1)),
        (BODY, ((0.05, 0), (0.95, 0), (1, 0.05), (1, 0.93), (0, 0.93), (0, 0.05))),
        (DARK, _box(0.14, 0.04, 0.86, 0.13)),
        (PALE, _box(0.28, 0.06, 0.72, 0.11)),
        (GLASS, _box(0.06, 0.16, 0.94, deep)),
        (SECOND, _box(0, 0.64, 1, 0.74)),
        *((LIGHT, part) for part in _both(0.05, 0.77, 0.2, 0.85)),
        (DARK, _box(0.02, 0.88, 0.98, 0.94)),
    ]


def _bus_side(windows: int, turned: bool) -> list[Shape]:
    end = 0.3 if turned else 0.0  # where the flank begins: a turned bus shows its end first
    step = (0.97 - end) / windows
    panes = [_box(end + step * (i + 0.15), 0.16, end + step * (i + 0.95), 0.46) for i in range(windows)]
    wheels = [end + (0.98 - end) * share for share in (0.18, 0.8)]
    shapes: list[Shape] = [
        (SHADE if turned else BODY, ((end, 0), (1, 0.02), (1, 0.92), (end, 0.92))),
        *((GLASS, pane) for pane in panes),
        (SECOND, _box(end, 0.56, 1, 0.66)),
        *((DARK, _disc(wheel, 0.88, 0.045 if not turned else 0.06, 0.12)) for wheel in wheels),
    ]
    if turned:
        shapes += [
            (BODY, _box(0, 0, 0.32, 0.95)),
            (GLASS, _box(0.03, 0.15, 0.29, 0.44)),
            (PALE, _box(0.08, 0.05, 0.24, 0.1)),
            (SECOND, _box(0, 0.62, 0.32, 0.72)),
            (LIGHT, _box(0.02, 0.76, 0.08, 0.85)),
            (LIGHT, _box(0.24, 0.76, 0.3, 0.85)),
            (DARK, _box(0, 0.89, 0.32, 0.96)),
        ]
    else:
        shapes += [(LIGHT, _box(0, 0.72, 0.025, 0.8)), (DARK, _box(0.4, 0.5, 0.47, 0.9))]
    return shapes


def _mirrored(shapes: Sequence[Shape]) -> list[Shape]:
    return [(material, [(1 - x, y) for x, y in points]) for material, points in shapes]


def _truck_rear() -> list[Shape]:
    return [
        *((DARK, part) for part in _both(0.06, 0.82, 0.28, 1)),
        (DARK, _box(0.04, 0.8, 0.96, 0.92)),
        (SECOND, _box(0, 0, 1, 0.82)),
        (SHADE, _box(0.485, 0.03, 0.515, 0.79)),
        *((SHADE, part) for part in _both(0, 0, 0.035, 0.82)),
        (SHADE, _box(0, 0, 1, 0.035)),
        *((PALE, part) for part in _both(0.4, 0.42, 0.46, 0.56)),
        *((LIGHT, part) for part in _both(0.06, 0.83, 0.2, 0.9)),
    ]


def _truck_front() -> list[Shape]:
    return [
        (SECOND, _box(0, 0, 1, 0.6)),
        *((DARK, part) for part in _both(0.08, 0.85, 0.26, 1)),
        (BODY, ((0.1, 0.22), (0.9, 0.22), (0.96, 0.5), (0.96, 0.92), (0.04, 0.92), (0.04, 0.5))),
        (GLASS, ((0.14, 0.28), (0.86, 0.28), (0.9, 0.5), (0.1, 0.5))),
        (DARK, _box(0.24, 0.58, 0.76, 0.74)),
        *((LIGHT, part) for part in _both(0.07, 0.76, 0.22, 0.84)),
        (SHADE, _box(0.04, 0.85, 0.96, 0.93)),
    ]


def _truck_side(turned: bool) -> list[Shape]:
    shapes: list[Shape] = [
        (DARK, _box(0.02, 0.78, 0.98, 0.88)),
        (SECOND, _box(0.3, 0, 1, 0.8)),
        (BODY, ((0, 0.5), (0.08, 0.2), (0.27, 0.2), (0.27, 0.86), (0, 0.86))),
        (GLASS, ((0.04, 0.48), (0.1, 0.26), (0.22, 0.26), (0.22, 0.48))),
        (LIGHT, _box(0, 0.66, 0.03, 0.74)),
        *((DARK, _disc(x, 0.87, 0.055, 0.13)) for x in (0.14, 0.72, 0.85)),
    ]
    if turned:  # from behind, the flank foreshortened
        shapes = [
            *((DARK, _disc(x, 0.86, 0.05, 0.12)) for x in (0.08, 0.36)),
            (BODY, _box(0, 0.2, 0.14, 0.84)),
            (SHADE, ((0.1, 0.06), (0.5, 0), (0.5, 0.82), (0.1, 0.78))),
            (DARK, _box(0.5, 0.78, 0.98, 0.92)),
            *((DARK, _box(x, 0.82, x + 0.12, 1)) for x in (0.53, 0.84)),
            (SECOND, _box(0.5, 0, 1, 0.82)),
            (SHADE, _box(0.74, 0.03, 0.76, 0.8)),
            *((LIGHT, _box(x, 0.83, x + 0.08, 0.9)) for x in (0.53, 0.89)),
        ]
    return shapes


def _person(stride: float, arms: float) -> list[Shape]:
    """Draw a person, standing (stride 0) or walking: coat BODY, legs SECOND, skin PALE, hair DARK."""
    return [
        (SECOND, ((0.34, 0.5), (0.54, 0.5), (0.46 - stride, 0.96), (0.3 - stride, 0.96))),
        (SECOND, ((0.46, 0.5), (0.66, 0.5), (0.7 + stride, 0.96), (0.54 + stride, 0.96))),
        (DARK, _box(0.24 - stride, 0.95, 0.46 - stride, 1)),
        (DARK, _box(0.54 + stride, 0.95, 0.78 + stride, 1)),
        (SHADE, ((0.3, 0.19), (0.4, 0.2), (0.2 + 0.02 - arms, 0.52), (0.08 - arms, 0.5))),
        (SHADE, ((0.6, 0.2), (0.7, 0.19), (0.92 + arms, 0.5), (0.78 + arms, 0.52))),
        (BODY, ((0.36, 0.17), (0.64, 0.17), (0.74, 0.24), (0.68, 0.56), (0.32, 0.56), (0.26, 0.24))),
        (PALE, _disc(0.5, 0.085, 0.15, 0.085)),
        (DARK, ((0.34, 0.085), (0.36, 0.03), (0.5, 0), (0.64, 0.03), (0.66, 0.085), (0.5, 0.05))),
    ]


def _sign(kind: str) -> list[Shape]:
    """Draw a plate: rim BODY, field PALE, figure DARK (SECOND on a board)."""
    if kind == "round":
        return [
            (BODY, _disc(0.5, 0.5, 0.505, 0.505)),
            (PALE, _disc(0.5, 0.5, 0.34, 0.34)),
            (DARK, _box(0.4, 0.3, 0.6, 0.7)),
        ]
    if kind == "triangle":
        return [
            (BODY, ((0.5, 0), (1, 1), (0, 1))),
            (PALE, ((0.5, 0.3), (0.78, 0.86), (0.22, 0.86))),
            (DARK, _box(0.45, 0.45, 0.55, 0.78)),
        ]
    if kind == "stop":
        return [(BODY, _disc(0.5, 0.5, 0.54, 0.54, 8)), (PALE, _box(0.16, 0.4, 0.84, 0.6))]
    if kind == "diamond":
        return [
            (DARK, ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5))),
            (BODY, ((0.5, 0.08), (0.92, 0.5), (0.5, 0.92), (0.08, 0.5))),
            (DARK, _box(0.44, 0.32, 0.56, 0.66)),
        ]
    return [
        (PALE, _box(0, 0, 1, 1)),
        (BODY, _box(0.06, 0.06, 0.94, 0.94)),
        (PALE, ((0.5, 0.16), (0.78, 0.46), (0.58, 0.46), (0.58, 0.84), (0.42, 0.84), (0.42, 0.46), (0.22, 0.46))),
    ]


def _tree(crowns: Sequence[tuple[float, float, float, float]]) -> list[Shape]:
    return [
        (DARK, _box(0.45, 0.5, 0.55, 1)),
        *((BODY, _disc(*crown)) for crown in crowns),
        *((SHADE, _disc(x, y + down * 0.35, across * 0.7, down * 0.5)) for x, y, across, down in crowns),
        *((SECOND, _disc(x - 0.05, y - down * 0.35, across * 0.6, down * 0.4)) for x, y, across, down in crowns),
    ]


def _house() -> list[Shape]:
    return [
        (BODY, _box(0.06, 0.4, 0.94, 1)),
        (SECOND, ((0, 0.44), (0.2, 0), (0.8, 0), (1, 0.44))),
        *((GLASS, _box(x, 0.52, x + 0.14, 0.7)) for x in (0.14, 0.43, 0.72)),
        *((LIGHT, _box(x, 0.78, x + 0.14, 0.94)) for x in (0.14, 0.72)),
        (DARK, _box(0.43, 0.76, 0.57, 1)),
    ]


def _tower(columns: int, rows: int) -> list[Shape]:
    wide, high = 1 / columns, 0.94 / rows
    shapes: list[Shape] = [(BODY, _box(0, 0, 1, 1)), (SECOND, _box(0, 0, 1, 0.04))]
    for row in range(rows):
        for column in range(columns):
            pane = _box(wide * (column + 0.2), 0.06 + high * row, wide * (column + 0.8), 0.06 + high * (row + 0.6))
            shapes.append((LIGHT if (row * 5 + column * 3) % 4 == 0 else GLASS, pane))
    return shapes


# Name: width and height in metres, and the shapes, later ones on top.
DRAWINGS: Mapping[str, tuple[float, float, list[Shape]]] = {
    "car_end": (1.8, 1.5, _car_end(0.2)),
    "van_end": (1.95, 1.9, _car_end(0.1)),
    "car_turned": (2.7, 1.5, _car_turned()),
    "car_side": (4.2, 1.5, _car_side()),
    "bus_front": (2.6, 3.1, _bus_end(True)),
    "bus_rear": (2.6, 3.1, _bus_end(False)),
    "bus_turned": (5.6, 3.1, _mirrored(_bus_side(5, True))),
    "bus_side": (10.0, 3.1, _bus_side(8, False)),
    "truck_rear": (2.5, 3.2, _truck_rear()),
    "truck_front": (2.5, 3.2, _truck_front()),
    "truck_turned": (4.4, 3.2, _truck_side(True)),
    "truck_side": (7.0, 3.1, _truck_side(False)),
    "person_still": (0.62, 1.75, _person(0.0, 0.0)),
    "person_walking": (0.85, 1.75, _person(0.2, 0.08)),
    "sign_round": (0.95, 0.95, _sign("round")),
    "sign_triangle": (1.05, 0.95, _sign("triangle")),
    "sign_stop": (0.95, 0.95, _sign("stop")),
    "sign_diamond": (1.05, 1.05, _sign("diamond")),
    "sign_board": (0.9, 1.0, _sign("board")),
    "tree_round": (4.0, 6.0, _tree([(0.5, 0.33, 0.5, 0.33)])),
    "tree_wide": (6.0, 6.5, _tree([(0.3, 0.42, 0.3, 0.22), (0.7, 0.42, 0.3, 0.22), (0.5, 0.25, 0.32, 0.25)])),
    "bush": (
        2.0,
        1.3,
        [(BODY, _disc(0.3, 0.6, 0.3, 0.4)), (SHADE, _disc(0.7, 0.5, 0.3, 0.5)), (BODY, _box(0.1, 0.7, 0.9, 1))],
    ),
    "house": (9.0, 7.0, _house()),
    "tower": (12.0, 18.0, _tower(6, 8)),
    "slab": (16.0, 11.0, _tower(9, 5)),
    "pole": (0.16, 6.0, [(BODY, _box(0, 0, 1, 1))]),
    "bin": (0.7, 1.1, [(BODY, _box(0, 0.12, 1, 1)), (SHADE, _box(0, 0, 1, 0.12))]),
    "billboard": (
        3.2,
        4.2,
        [(DARK, _box(0.46, 0.4, 0.54, 1)), (SECOND, _box(0, 0, 1, 0.5)), (PALE, _box(0.1, 0.12, 0.9, 0.36))],
    ),
}
