"""Weak and strong views of image batches that move boxes along, for detection without labels.

Weak: a mirror image (half of them) and a small change of scale and place. Strong: mosaic of four images of
the batch, mirror, large changes of scale, then colour, grey, blur and grey rectangles (cut-out), as FedSTO
(Kim et al., 2023) and the detectors it builds on combine them.

A teacher sees the weak view and its student the strong view of that weak view; `Geometry.apply` carries the
teacher's boxes from the one to the other:

    weak = views.weak(images, Targets.none(images), generator)
    strong = views.strong(weak.images, Targets.none(images), generator)
    targets = strong.geometry.apply(boxes_that_the_teacher_found_on_weak)

All geometry is scaling, mirroring and moving along the axes, so a moved box is again exactly a box. kornia
resamples and blurs; the colour operations are those of `Views`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arrays import DataError
from .views import _COLOUR, _check, _grey, _uniform

if TYPE_CHECKING:
    from torch import Generator, Tensor

_LEAST_LEFT = 0.25  # of a box's area, for it to stay
_FILL = 0.5  # what comes in at the edges and into holes
_COLOURS = ("brightness", "contrast", "saturation")


@dataclass(frozen=True)
class Targets:
    """Boxes of a batch, in any number for each image.

    boxes: float, [m, 4], x1, y1, x2, y2 in pixels, 0 at the left or upper edge of the first pixel.
    labels: int64, [m]. owners: int64, [m], the image of each box. scores: float, [m], or None.
    """

    boxes: "Tensor"
    labels: "Tensor"
    owners: "Tensor"
    scores: "Tensor | None" = None

    @staticmethod
    def none(images: "Tensor") -> "Targets":
        """Return no boxes at all, on the device of `images`."""
        empty = images.new_zeros(0)
        return Targets(images.new_zeros(0, 4), empty.long(), empty.long())

    @staticmethod
    def of(pairs: "Sequence[tuple[Tensor, Tensor]]") -> "Targets":
        """Join the (boxes [k, 4], labels [k]) of each image."""
        import torch

        counts = torch.tensor([len(boxes) for boxes, _ in pairs])
        owners = torch.arange(len(pairs)).repeat_interleave(counts)
        boxes, labels = (torch.cat([pair[part] for pair in pairs]) for part in (0, 1))
        return Targets(boxes, labels, owners.to(boxes.device))

    def image(self, index: int) -> "Targets":
        """Return the boxes of one image."""
        return self.take((self.owners == index).nonzero()[:, 0])

    def take(self, rows: "Tensor") -> "Targets":
        """Return the boxes at `rows` (int64)."""
        scores = None if self.scores is None else self.scores[rows]
        return Targets(self.boxes[rows], self.labels[rows], self.owners[rows], scores)


@dataclass(frozen=True)
class Geometry:
    """Where each image of a view comes from: up to four source images, each scaled, mirrored and moved.

    source: int64, [b, 4], the image of the batch shown in each place, -1 for none. transform: float,
    [b, 4, 4], so that x' = t0 x + t1 and y' = t2 y + t3 in pixels. holes: float, [b, k, 4], grey rectangles.
    height, width: of the images.
    """

    source: "Tensor"
    transform: "Tensor"
    holes: "Tensor"
    height: int
    width: int

    def apply(self, targets: Targets) -> Targets:
        """Return boxes found on the source images as boxes of the view, ordered by image.

        They are clipped to the image; those that keep less than a quarter of their area, in the image and
        outside its holes, are left out. A source shown twice gives its boxes twice.
        """
        import torch

        # Pairs of a box and a place that shows the box's image.
        shown = (self.source[:, :, None] == targets.owners).nonzero()
        image, place, row = shown.unbind(1)
        scale_x, move_x, scale_y, move_y = self.transform[image, place].unbind(1)
        boxes = targets.boxes[row]
        x, y = boxes[:, 0::2] * scale_x[:, None] + move_x[:, None], boxes[:, 1::2] * scale_y[:, None] + move_y[:, None]
        corners = (x.amin(1), y.amin(1), x.amax(1), y.amax(1))  # mirroring swaps left and right
        moved = torch.stack(corners, 1)
        inside = torch.stack(
            [c.clamp(0, side) for c, side in zip(corners, (self.width, self.height) * 2, strict=True)], 1
        )
        left = _area(inside) - _common(inside[:, None], self.holes[image]).sum(1)
        kept = (left >= _LEAST_LEFT * _area(moved)) & (_area(inside) > 0)
        chosen = targets.take(row[kept])
        return Targets(inside[kept], chosen.labels, image[kept], chosen.scores)


@dataclass(frozen=True)
class View:
    """A view: float images [b, c, h, w] with values 0..1, their boxes, and how they came about."""

    images: "Tensor"
    targets: Targets
    geometry: Geometry


@dataclass(frozen=True)
class BoxViews:
    """Draws views of float images [b, c, h, w] with values 0..1 and of their boxes, on any device.

    flip: mirror half of the images. weak_scale, weak_move: the weak view's largest change of scale and
    place, as shares. mosaic: share of the strong images made of four. scale: least and largest scale of the
    strong view. colour: strength of brightness, contrast and saturation, 0..1. grey, blur, cutout: share of
    the strong images that lose their colour, lose sharpness, or get a grey rectangle.

    Both methods take a generator, from which alone they draw (torch's global one by default), on its own
    device: a CPU generator gives the same views on every device. Raises DataError for a value out of range.
    """

    flip: bool = True
    weak_scale: float = 0.1
    weak_move: float = 0.05
    mosaic: float = 0.5
    scale: tuple[float, float] = (0.5, 1.5)
    colour: float = 0.5
    grey: float = 0.2
    blur: float = 0.3
    cutout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("weak_scale", "weak_move", "mosaic", "colour", "grey", "blur", "cutout"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] or self.weak_scale == 1:
            raise DataError(f"scales must lie above 0, least first; got {self.scale} and weak_scale {self.weak_scale}")

    def weak(self, x: "Tensor", targets: Targets, generator: "Generator | None" = None) -> View:
        """Return mirrored and slightly scaled and moved images, shaped like `x`, and their boxes."""
        _check(x)
        draws = _uniform((4, len(x)), generator, x)
        scale = 1 + self.weak_scale * (2 * draws[1] - 1)
        move = self.weak_move * (2 * draws[2:] - 1)
        return self._moved(x, targets, draws[0], scale, (1 - scale) / 2 + move)

    def strong(self, x: "Tensor", targets: Targets, generator: "Generator | None" = None) -> View:
        """Return images changed much in place, scale and colour, shaped like `x`, and their boxes."""
        import torch

        _check(x)
        draws = _uniform((5, len(x)), generator, x)
        low, high = self.scale
        scale = low * (high / low) ** draws[1]
        # In the plain case anywhere inside the frame (or around it, if larger); in a mosaic the corner where
        # the four meet lies in the middle half of the frame.
        place = (1 - scale) * draws[2:4]
        centre = 0.25 + 0.5 * draws[2:4] - scale
        four = draws[4] < self.mosaic
        sources = (_uniform((3, len(x)), generator, x) * len(x)).long().clamp_(max=len(x) - 1)
        sources = torch.where(four, sources, -1)
        holes = self._holes(x, generator)
        view = self._moved(x, targets, draws[0], scale, torch.where(four, centre, place), sources, holes)
        images = self._coloured(view.images, generator)
        return View(_filled(images, holes), view.targets, view.geometry)

    def _moved(
        self,
        x: "Tensor",
        targets: Targets,
        mirror: "Tensor",
        scale: "Tensor",
        place: "Tensor",
        others: "Tensor | None" = None,
        holes: "Tensor | None" = None,
    ) -> View:
        """Scale by `scale` [b], then move by `place` [2, b] (x and y, as shares of the sides), then mirror.

        others: int64 [3, b], the images to the right, below, and to the right below, -1 for none.
        """
        import torch

        count, _, height, width = x.shape
        if others is None:
            others = torch.full((3, count), -1, device=x.device)
        source = torch.cat((torch.arange(count, device=x.device)[None], others))
        sign = torch.where(mirror < 0.5, -1.0, 1.0).to(x) if self.flip else torch.ones_like(mirror)
        tiles_x, tiles_y = x.new_tensor([0, 1, 0, 1]), x.new_tensor([0, 0, 1, 1])
        move_x = width * (place[0] + tiles_x[:, None] * scale)
        transform = torch.stack(
            (
                (sign * scale).expand(4, count),
                torch.where(sign < 0, width - move_x, move_x),
                scale.expand(4, count),
                height * (place[1] + tiles_y[:, None] * scale),
            ),
            2,
        ).transpose(0, 1)
        geometry = Geometry(source.T, transform, x.new_zeros(count, 1, 4) if holes is None else holes, height, width)
        return View(_resampled(x, geometry), geometry.apply(targets), geometry)

    def _holes(self, x: "Tensor", generator: "Generator | None") -> "Tensor":
        """Draw one rectangle an image, [b, 1, 4], of 0.1 to 0.4 of the sides; of no area where there is none."""
        import torch

        height, width = x.shape[-2:]
        draws = _uniform((5, len(x)), generator, x)
        sides = (0.1 + 0.3 * draws[:2]) * (draws[4] < self.cutout) * x.new_tensor([width, height])[:, None]
        corners = draws[2:4] * (x.new_tensor([width, height])[:, None] - sides)
        return torch.cat((corners, corners + sides)).round().T[:, None]

    def _coloured(self, x: "Tensor", generator: "Generator | None") -> "Tensor":
        from kornia.filters import gaussian_blur2d

        draws = _uniform((6, len(x)), generator, x)
        for draw, name in zip(draws, _COLOURS, strict=False):
            if name != "saturation" or x.shape[1] == 3:
                x = _COLOUR[name](x, ((2 * draw - 1) * self.colour).view(-1, 1, 1, 1)).clamp_(0, 1)
        if x.shape[1] == 3:
            chosen = (draws[3] < self.grey).nonzero()[:, 0]
            x[chosen] = _grey(x[chosen])
        chosen = (draws[4] < self.blur).nonzero()[:, 0]
        if len(chosen) and min(x.shape[-2:]) > 3:
            sigma = (0.3 + 1.2 * draws[5, chosen])[:, None].expand(-1, 2)
            window = (7, 7) if min(x.shape[-2:]) > 6 else (3, 3)
            # A blurred value can leave the range by the last bit of a float.
            x[chosen] = gaussian_blur2d(x[chosen], window, sigma).clamp_(0, 1)
        return x


def _area(boxes: "Tensor") -> "Tensor":
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _common(boxes: "Tensor", others: "Tensor") -> "Tensor":
    low, high = boxes[..., :2].maximum(others[..., :2]), boxes[..., 2:].minimum(others[..., 2:])
    return (high - low).clamp_min(0).prod(-1)


def _filled(x: "Tensor", holes: "Tensor") -> "Tensor":
    """Fill rectangles [b, k, 4], whole pixels, with grey."""
    import torch

    rows, columns = (torch.arange(side, device=x.device) for side in x.shape[-2:])
    down = (rows >= holes[..., 1, None]) & (rows < holes[..., 3, None])
    across = (columns >= holes[..., 0, None]) & (columns < holes[..., 2, None])
    inside = (down[..., :, None] & across[..., None, :]).any(1)
    return x.masked_fill_(inside[:, None], _FILL)


def _resampled(x: "Tensor", geometry: Geometry) -> "Tensor":
    """Return the images that a geometry describes, its holes left open."""
    import torch

    out = torch.empty_like(x)
    single = (geometry.source[:, 1:] < 0).all(1)
    for chosen, whole in ((single.nonzero()[:, 0], False), ((~single).nonzero()[:, 0], True)):
        if not len(chosen):
            continue
        out[chosen] = _warped(_canvas(x, geometry.source[chosen], whole), geometry.transform[chosen, 0], x.shape[-2:])
    return out


def _canvas(x: "Tensor", source: "Tensor", whole: bool) -> "Tensor":
    """Return the first source of each image, or all four as one picture; less the grey that comes in at the edges."""
    if not whole:
        return x[source[:, 0]].sub_(_FILL)
    height, width = x.shape[-2:]
    canvas = x.new_empty(len(source), x.shape[1], 2 * height, 2 * width)
    for place, images in enumerate(source.T):
        top, left = height * (place // 2), width * (place % 2)
        canvas[:, :, top : top + height, left : left + width] = x[images]
    return canvas.sub_(_FILL)


def _warped(x: "Tensor", transform: "Tensor", size: "Sequence[int]") -> "Tensor":
    """Scale and move images, given less _FILL, by transforms [b, 4]; grey comes in at the edges."""
    import torch
    from kornia.geometry.transform import warp_affine

    scale_x, move_x, scale_y, move_y = transform.unbind(1)
    zero = x.new_zeros(len(x))
    # Boxes count from the edges of pixels, kornia from their centres: half a pixel less, before and after.
    matrix = [scale_x, zero, move_x + (scale_x - 1) / 2, zero, scale_y, move_y + (scale_y - 1) / 2]
    stacked = torch.stack(matrix, 1).view(-1, 2, 3)
    warped: Tensor = warp_affine(x, stacked, (size[0], size[1]), padding_mode="zeros", align_corners=True)
    return warped.add_(_FILL).clamp_(0, 1)
