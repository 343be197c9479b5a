"""A compact one-stage, anchor-free object detector of three named parts: `backbone`, `neck`, `head`.

A strided residual backbone gives features at 1/8, 1/16 and 1/32 of the image; the neck adds the coarse to the fine
(FPN, Lin et al., 2017); one head, shared by the levels but for its norm layers, tells for each cell the classes, the
objectness and a box relative to the cell's centre. Plain convolutions and ReLU only: what CPUs and edge devices run
fastest. The weights lie in channels-last format.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .boxes import batched_nms, clip
from .classifiers import Shape
from .detection_loss import BALANCE, pseudo_loss, supervised_loss
from .detections import Detections, Losses, Predictions, Target
from .detector_parts import STRIDES, Backbone, Head, Neck, Size
from .errors import ModelError, did_you_mean

SIDE = 3.0  # in strides: side of a box before training, so that boxes of 24 to 96 pixels are in reach at once
LIMIT = 5.0  # of the logarithm of a side over SIDE strides, either way: keeps boxes finite

SIZES = {
    "nano": Size((16, 24, 48, 64, 96), (1, 1, 1), 48, 2),
    "small": Size((16, 32, 64, 88, 128), (1, 1, 1), 64, 2),
    "medium": Size((24, 48, 80, 120, 160), (1, 1, 1), 88, 2),
    "large": Size((64, 128, 256, 512, 1024), (3, 6, 3), 448, 3),  # as many weights as YOLOv5-L has, for GPUs
}


class Detector(nn.Module):
    """Images [b, channels, h, w], h and w multiples of 32, to Predictions; made by `detector`."""

    def __init__(self, channels: int, classes: int, size: Size, norm: str) -> None:
        super().__init__()
        self.backbone = Backbone(channels, size, norm)
        self.neck = Neck(size.backbone[2:], size.neck, norm)
        self.head = Head(size.neck, classes, size.tower, norm)

    def forward(self, x: Tensor) -> Predictions:
        """Return the Predictions for images [b, channels, h, w]; ModelError unless 32 divides h and w."""
        height, width = x.shape[-2:]
        _check_sides(height, width)
        raw = torch.cat(self.head(self.neck(self.backbone(x))), dim=1)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))  # pixels want more than bfloat16 has
        points, strides = grid(height, width, raw)
        centre = points + strides[:, None] * raw[..., :2]
        half = (SIDE / 2) * strides[:, None] * raw[..., 2:4].clamp(-LIMIT, LIMIT).exp()
        boxes = torch.cat((centre - half, centre + half), dim=2)
        return Predictions(raw[..., 5:], raw[..., 4], boxes, points, strides)

    def loss(self, predictions: Predictions, targets: Sequence[Target]) -> Losses:
        """Return the losses against labels; see detection_loss.py."""
        return supervised_loss(predictions, targets)

    def pseudo_loss(
        self,
        predictions: Predictions,
        pseudo: Sequence[Detections],
        low: float = 0.1,
        high: float = 0.6,
        *,
        boxes: bool = True,
    ) -> Losses:
        """Return the losses against a teacher's detections; see detection_loss.py."""
        balance = BALANCE if boxes else BALANCE._replace(box=0.0)
        return pseudo_loss(predictions, pseudo, low, high, balance=balance)

    @torch.no_grad()
    def detect(self, x: Tensor, confidence: float = 0.1, iou: float = 0.65, most: int = 100) -> list[Detections]:
        """Return the Detections in each of the images [b, channels, h, w], boxes clipped to the image.

        Kept are, of each point the best class only, scores above `confidence` that stand in non-maximum suppression
        within their class at the threshold `iou`, and of these the `most` best. Runs in evaluation mode and leaves
        the modes of all modules, and so the statistics of BatchNorm, as they were.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            predictions = self(x)
        finally:
            for module, mode in modes:
                module.training = mode
        return select(predictions, x.shape[-2], x.shape[-1], confidence, iou, most)


def detector(
    shape: Shape,
    classes: int,
    size: Literal["nano", "small", "medium", "large"] = "nano",
    norm: Literal["group", "batch"] = "group",
) -> Detector:
    """Build a detector for images of `shape` (channels, height, width); sides are multiples of 32.

    size: nano 0.31 M weights, small 0.56 M, medium 0.99 M, of which the backbone has 54 to 57 %; large 46 M (67 %).
    norm: "group" (no buffers) or "batch" (running statistics, for which parts.py has policies).
    The weights come from torch's global generator. Raises ModelError for anything else.
    """
    if size not in SIZES:
        raise ModelError(f"detector: size is {size!r}.{did_you_mean(str(size), SIZES)}")
    if norm not in {"group", "batch"}:
        raise ModelError(f"detector: norm is {norm!r}.{did_you_mean(str(norm), ('group', 'batch'))}")
    if classes < 1:
        raise ModelError(f"detector: classes is {classes!r}; wanted a whole number of at least 1.")
    channels, height, width = shape
    _check_sides(height, width)
    if norm == "batch" and max(height, width) == STRIDES[-1]:
        raise ModelError(
            f"detector: norm is 'batch' and images are {height}x{width}: a batch of one image has one value a channel, "
            "and so no variance. Choose norm=group or larger images."
        )
    model = Detector(channels, classes, SIZES[size], norm)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def grid(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points [p, 2] and strides [p] for an image, level by level, row by row, with like's dtype and device.

    Cell (row, column) of stride s has its centre at x = s (column + 1/2), y = s (row + 1/2).
    """
    points, strides = [], []
    for stride in STRIDES:
        down = torch.arange(height // stride, dtype=like.dtype, device=like.device)
        across = torch.arange(width // stride, dtype=like.dtype, device=like.device)
        y, x = torch.meshgrid(down, across, indexing="ij")
        points.append(stride * (torch.stack((x, y), dim=2).reshape(-1, 2) + 0.5))
        strides.append(like.new_full((len(points[-1]),), stride))
    return torch.cat(points), torch.cat(strides)


def select(
    predictions: Predictions, height: int, width: int, confidence: float, iou: float, most: int
) -> list[Detections]:
    """Turn Predictions for images of height x width pixels into Detections; see `Detector.detect`."""
    objectness = predictions.objectness.detach().sigmoid()
    chance, labels = predictions.classes.detach().sigmoid().max(dim=2)
    scores = objectness * chance
    found = []
    for index in range(len(scores)):
        chosen = (scores[index] > confidence).nonzero().squeeze(1)
        boxes = clip(predictions.boxes.detach()[index, chosen], height, width)
        standing = batched_nms(boxes, scores[index, chosen], labels[index, chosen], iou)[:most]
        kept = chosen[standing]
        found.append(Detections(boxes[standing], scores[index, kept], labels[index, kept], objectness[index, kept]))
    return found


def _check_sides(height: int, width: int) -> None:
    if min(height, width) < STRIDES[-1] or height % STRIDES[-1] or width % STRIDES[-1]:
        raise ModelError(
            f"detector: images are {height}x{width}; wanted sides that are multiples of {STRIDES[-1]}, such as 96, "
            "128 or 256. Pad or resize them."
        )
