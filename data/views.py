"""Weak and strong views of image batches, for learning from images without labels.

Weak: a mirror image (half of them) and a shift by whole pixels. Strong: the weak view, then for each image
`ops` operations drawn from a list after RandAugment (Cubuk et al., 2020), then a grey square (cutout,
DeVries and Taylor, 2017), as FixMatch (Sohn et al., 2020) combines them.

Differences from RandAugment as published: magnitudes are drawn anew for each image, from 0 up to
`strength`; geometry comes before colour, so that one resampling serves rotation, shear and move; equalize
is left out, because its histogram for each image is slow on a GPU.

kornia builds the matrices and resamples; shifts by whole pixels need no resampling and are exact. Its own
RandAugment is not used: it takes no grey images and draws from the global generator of torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arrays import DataError

if TYPE_CHECKING:
    from torch import Generator, Tensor

PADDINGS = ("zeros", "border", "reflection")
# What an operation does at most, at strength 1. Geometry: degrees, tangent, share of the side.
_DEGREES, _SHEAR, _MOVE = 45.0, 0.4, 0.3
_GEOMETRY = ("rotate", "shear_x", "shear_y", "move_x", "move_y")


@dataclass(frozen=True)
class Views:
    """Draws views of float images [b, c, h, w] with values 0..1, for any number of channels, on any device.

    flip: mirror half of the images; set False where left and right differ in meaning (digits, letters).
    shift: largest shift of the weak view, as a share of the side, rounded to whole pixels.
    strength: 0 (the strong view is the weak one) to 1, scale of all that the strong view adds.
    ops: operations for each image in the strong view. cutout: side of its grey square at strength 1, as a
    share of the image's side. padding: what comes in at the edges: zeros, border or reflection.

    Both methods take a generator, from which alone they draw (torch's global one by default), on its own
    device: a CPU generator gives the same views on every device. They return a new tensor.

    Raises DataError for a parameter out of range.
    """

    flip: bool = True
    shift: float = 0.125
    strength: float = 0.5
    ops: int = 2
    cutout: float = 0.5
    padding: str = "reflection"

    def __post_init__(self) -> None:
        for name in ("shift", "strength", "cutout"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.ops < 0:
            raise DataError(f"ops must be at least 0, got {self.ops}")
        if self.padding not in PADDINGS:
            raise DataError(f"unknown padding {self.padding!r}; known are {', '.join(PADDINGS)}")

    def weak(self, x: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """Return mirrored and shifted images, shaped like `x`; pixels keep their exact values."""
        _check(x)
        draws = _uniform((3, len(x)), generator, x)
        rows, row_seen = self._lookup(draws[1], x.shape[2])
        columns, column_seen = self._lookup(draws[2], x.shape[3])
        if self.flip:
            columns = columns.where(draws[0, :, None] >= 0.5, columns.flip(1))
            column_seen = column_seen.where(draws[0, :, None] >= 0.5, column_seen.flip(1))
        moved = x.gather(2, rows[:, None, :, None].expand_as(x)).gather(3, columns[:, None, None].expand_as(x))
        if self.padding == "zeros":
            moved = moved * (row_seen[:, None, :, None] & column_seen[:, None, None])
        return moved

    def strong(self, x: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """Return the weak view of the images, further changed in geometry and colour, shaped like `x`.

        With equal generators it begins with the very view that `weak` returns.
        """
        import torch

        x = self.weak(x, generator)
        if self.strength == 0:
            return x
        colour = tuple(_COLOUR.values()) if x.shape[1] == 3 else tuple(_COLOUR.values())[:-1]
        kinds = len(_GEOMETRY) + len(colour)
        draws = _uniform((2 * self.ops + 2, len(x)), generator, x)
        # For each operation and image an amount in -strength..strength; 0 means "not this one". An operation
        # drawn twice counts once.
        amounts = torch.zeros(kinds, len(x), dtype=x.dtype, device=x.device)
        for op in range(self.ops):
            choice = (draws[2 * op] * kinds).long().clamp_(max=kinds - 1)
            amounts.scatter_(0, choice[None], (draws[2 * op + 1] * 2 - 1)[None] * self.strength)
        geometry = amounts[: len(_GEOMETRY)]
        chosen = geometry.any(0).nonzero()[:, 0]
        if len(chosen):
            x[chosen] = _warp(x[chosen], geometry[:, chosen], self.padding)
        for operation, amount in zip(colour, amounts[len(_GEOMETRY) :], strict=True):
            chosen = amount.nonzero()[:, 0]
            if len(chosen):
                x[chosen] = operation(x[chosen], amount[chosen].view(-1, 1, 1, 1)).clamp_(0, 1)
        return self._cut(x, draws[-2:])

    def _lookup(self, draws: "Tensor", side: int) -> tuple["Tensor", "Tensor"]:
        """For each image (draws [b]) the source of every pixel along one side, and whether it lies inside."""
        import torch

        reach = round(self.shift * side)
        moves = (draws * (2 * reach + 1)).long().clamp_(max=2 * reach) - reach
        source = torch.arange(side, device=draws.device) - moves[:, None]
        seen = (source >= 0) & (source < side)
        if self.padding == "reflection":
            period = max(2 * (side - 1), 1)
            source = source % period
            source = source.minimum(period - source)
        return source.clamp(0, side - 1), seen

    def _cut(self, x: "Tensor", draws: "Tensor") -> "Tensor":
        """Fill a square with grey (0.5), its centre anywhere in the image (draws [2, b])."""
        import torch

        if self.cutout == 0:
            return x
        height, width = x.shape[-2:]
        side = self.cutout * self.strength * min(height, width)
        rows = torch.arange(height, dtype=x.dtype, device=x.device) + 0.5
        columns = torch.arange(width, dtype=x.dtype, device=x.device) + 0.5
        inside_rows = (rows - draws[0, :, None] * height).abs() < side / 2
        inside_columns = (columns - draws[1, :, None] * width).abs() < side / 2
        return x.masked_fill_((inside_rows[:, :, None] & inside_columns[:, None])[:, None], 0.5)


def _check(x: "Tensor") -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise DataError(f"views take float images [b, c, h, w] with values 0..1, got {x.dtype} {tuple(x.shape)}")


def _uniform(shape: tuple[int, ...], generator: "Generator | None", x: "Tensor") -> "Tensor":
    import torch

    device = "cpu" if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device).to(x)


def _warp(x: "Tensor", amounts: "Tensor", padding: str) -> "Tensor":
    """Rotate, shear and move images about their centres in one resampling; amounts [5, b] as in _GEOMETRY."""
    import torch
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    height, width = x.shape[-2:]
    size = torch.tensor([width, height], dtype=x.dtype, device=x.device)
    matrix = get_affine_matrix2d(
        amounts[3:].T * _MOVE * size,
        ((size - 1) / 2).expand(len(x), 2),
        torch.ones(len(x), 2, dtype=x.dtype, device=x.device),
        amounts[0] * _DEGREES,
        torch.atan(amounts[1] * _SHEAR),
        torch.atan(amounts[2] * _SHEAR),
    )
    warped: Tensor = warp_affine(x, matrix[:, :2], (height, width), padding_mode=padding, align_corners=True)
    return warped.clamp_(0, 1)  # interpolated values can leave the range by the last bit of a float


def _grey(x: "Tensor") -> "Tensor":
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (0.299 * x[:, :1]).add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:], alpha=0.114).expand_as(x)


# Colour operations: images [m, c, h, w] and a signed amount [m, 1, 1, 1] in -1..1; 0 changes nothing.
def _brightness(x: "Tensor", amount: "Tensor") -> "Tensor":
    return x * (1 + 0.9 * amount)


def _contrast(x: "Tensor", amount: "Tensor") -> "Tensor":
    mean = _grey(x).mean((1, 2, 3), keepdim=True)
    return mean.lerp(x, 1 + 0.9 * amount)


def _saturation(x: "Tensor", amount: "Tensor") -> "Tensor":
    return _grey(x).lerp(x, 1 + 0.9 * amount)


def _sharpness(x: "Tensor", amount: "Tensor") -> "Tensor":
    from torch.nn.functional import avg_pool2d

    blurred = avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return blurred + (x - blurred) * (1 + 0.9 * amount)


def _posterize(x: "Tensor", amount: "Tensor") -> "Tensor":
    """Keep 8 bits a value at amount 0, down to 3 at 1."""
    levels = (8 - 5 * amount.abs()).exp2().round() - 1
    return (x * levels).round() / levels


def _solarize(x: "Tensor", amount: "Tensor") -> "Tensor":
    """Invert what is brighter than a threshold, 1 at amount 0 and 0 at 1."""
    return x.where(x <= 1 - amount.abs(), 1 - x)


def _autocontrast(x: "Tensor", amount: "Tensor") -> "Tensor":
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    stretched = (x - low) / (high - low).clamp_min(1e-3)
    return x + (stretched - x) * amount.abs()


_COLOUR: dict[str, "Callable[[Tensor, Tensor], Tensor]"] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "saturation": _saturation,  # last: only images with three channels have it
}
