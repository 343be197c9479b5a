"""RT-DETRv2 (Lv et al., 2024, arXiv 2407.17140) from Hugging Face transformers, as a detector of three named parts.

The modules are the library's own, and so is what they compute; only their places are fedbox's:
    backbone: the ResNet-vd;
    neck:     the projections of its features and the hybrid encoder (attention at stride 32, then both ways across);
    head:     the selection of queries by `enc_output` and its two heads, and the decoder with its class and box heads.
The library registers the decoder's heads twice; here they stand once, as `head.decoder.class_embed` and `.bbox_embed`.

Contrastive denoising is off: its noisy queries are made of the labels, which the forward pass of a detector does not
see here. It only speeds up training, as published weights were trained, and is no part of what is measured.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .boxes import batched_nms, clip
from .classifiers import Shape
from .detections import Detections, Losses, Target
from .errors import ModelError, did_you_mean
from .rtdetr_library import new_model, read_model
from .set_loss import BALANCE, SetPredictions, pixels_of, pseudo_loss, supervised_loss

STRIDE = 32  # of the coarsest features; the others have 8 and 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which photographs are normalised with


class Neck(nn.Module):
    """Features of the backbone to features of one width at the same strides, 8, 16 and 32."""

    def __init__(self, encoder_input_proj: nn.ModuleList, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder_input_proj, self.encoder = encoder_input_proj, encoder

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the features that the decoder looks at."""
        projected = [project(each) for project, each in zip(self.encoder_input_proj, features, strict=True)]
        found: list[Tensor] = self.encoder(projected).last_hidden_state
        return found


class RTDetr(nn.Module):
    """Images [b, channels, h, w], h and w multiples of 32, to SetPredictions; made by `rtdetr`.

    whole: the library's RTDetrV2Model, which is taken apart; queries: at most so many; unit: undo the normalisation.
    """

    def __init__(self, whole: Any, queries: int, unit: bool) -> None:
        super().__init__()
        self.backbone: nn.Module = whole.backbone.model
        self.neck = Neck(whole.encoder_input_proj, whole.encoder)
        # What is left of the library's model is the head: it can begin with the encoder's output.
        del whole.backbone, whole.encoder_input_proj, whole.encoder
        self.head: nn.Module = whole
        self.train()  # weights are read into modules in evaluation mode
        self.queries, self.unit = queries, unit

    def forward(self, x: Tensor) -> SetPredictions:
        """Return the SetPredictions for images [b, channels, h, w]; ModelError unless 32 divides h and w.

        Layer 0 is the encoder's selection, the others are the decoder's. There are as many queries as asked for, or as
        the image has cells at the strides 8, 16 and 32 (84 at 64 x 64) when these are fewer.
        """
        height, width = x.shape[-2:]
        _check_sides(height, width)
        if self.unit:
            x = x * x.new_tensor(STD)[:, None, None] + x.new_tensor(MEAN)[:, None, None]
        features = self.neck(self.backbone(x).feature_maps)
        cells = sum(each.shape[2] * each.shape[3] for each in features)
        self.head.config.num_queries = min(self.queries, cells)  # type: ignore[union-attr]
        out = self.head(None, inputs_embeds=x, encoder_outputs=(features,))  # of x it takes batch size and device
        classes = torch.cat((out.enc_topk_logits[:, None], out.intermediate_logits), dim=1)
        boxes = torch.cat((out.enc_topk_bboxes[:, None], out.intermediate_reference_points), dim=1)
        return SetPredictions(classes.transpose(0, 1), boxes.transpose(0, 1), height, width)

    def loss(self, predictions: SetPredictions, targets: Sequence[Target]) -> Losses:
        """Return the losses against labels; see set_loss.py."""
        return supervised_loss(predictions, targets)

    def pseudo_loss(
        self,
        predictions: SetPredictions,
        pseudo: Sequence[Detections],
        low: float = 0.1,
        high: float = 0.6,
        *,
        boxes: bool = True,
    ) -> Losses:
        """Return the losses against a teacher's detections, with their boxes or without; see set_loss.py."""
        balance = BALANCE if boxes else BALANCE._replace(l1=0.0, giou=0.0)
        return pseudo_loss(predictions, pseudo, low, high, balance=balance)

    @torch.no_grad()
    def detect(self, x: Tensor, confidence: float = 0.1, iou: float = 0.65, most: int = 100) -> list[Detections]:
        """Return the Detections in each of the images [b, channels, h, w], boxes clipped to the image.

        Kept are, of each query of the last layer the best class only, scores above `confidence` that stand in
        non-maximum suppression within their class at the threshold `iou`, and of these the `most` best. A set of
        predictions needs no suppression once it is trained well; before that it drops duplicates as any detector's, and
        `iou=1` leaves it out. Objectness is the score. Runs in evaluation mode and leaves the modes of all modules,
        and so the statistics of BatchNorm, as they were.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            predictions: SetPredictions = self(x)
        finally:
            for module, mode in modes:
                module.training = mode
        return select(predictions, confidence, iou, most)


def select(predictions: SetPredictions, confidence: float, iou: float, most: int) -> list[Detections]:
    """Turn SetPredictions into Detections; see `RTDetr.detect`."""
    scores, labels = predictions.classes[-1].detach().sigmoid().max(dim=2)
    found = []
    for index in range(len(scores)):
        chosen = (scores[index] > confidence).nonzero().squeeze(1)
        boxes = pixels_of(predictions, predictions.boxes[-1, index, chosen].detach())
        boxes = clip(boxes, predictions.height, predictions.width)
        standing = batched_nms(boxes, scores[index, chosen], labels[index, chosen], iou)[:most]
        kept = chosen[standing]
        found.append(Detections(boxes[standing], scores[index, kept], labels[index, kept], scores[index, kept]))
    return found


def _check_sides(height: int, width: int) -> None:
    if min(height, width) < STRIDE or height % STRIDE or width % STRIDE:
        raise ModelError(
            f"rtdetr: images are {height}x{width}; wanted sides that are multiples of {STRIDE}, such as 320, 512 or "
            "640. Pad or resize them."
        )


def rtdetr(
    shape: Shape,
    classes: int,
    size: Literal["tiny", "r18", "r34", "r50m", "r50", "r101"] | None = None,
    weights: str | None = None,
    revision: str | None = None,
    queries: int = 300,
    norm: Literal["frozen", "batch"] | None = None,
    pixels: Literal["normalized", "unit"] | None = None,
) -> RTDetr:
    """Build RT-DETRv2 (extra `detr`) for images of `shape` (channels, height, width); sides are multiples of 32.

    size: those of the paper, r18 (20 M weights; the default), r34 (31 M), r50m (36 M), r50 (43 M) and r101 (76 M); tiny
        (0.6 M) is fedbox's, for tests and trials on CPUs. With `weights` their configuration tells the size.
    weights: a folder as transformers' save_pretrained writes it (config.json, model.safetensors), or the name of a
        model on the Hugging Face hub, such as PekingU/rtdetr_v2_r18vd, that is downloaded once; revision: branch, tag
        or commit there. Class heads are drawn anew when the number of classes differs, and kept when it does not:
        then label i must mean what it meant there. None: all weights come from torch's global generator.
    queries: at most so many objects can be found in an image.
    norm: of the backbone. "frozen": statistics, scale and shift of BatchNorm stay what they are (they are buffers that
        nothing changes), the default with weights. "batch": they are trained as usual, the default without, for then
        "frozen" would be no normalisation at all. Neck and head hold ordinary BatchNorm in either case, for whose
        running statistics parts.py has policies.
    pixels: what the network itself is fed. "normalized": the images as they come, the default without weights. "unit":
        values of 0 to 1, ImageNet's normalisation undone, which published weights were trained on and is the default
        with weights; it needs 3 channels, and a data set that is normalised with these constants, as photographs are.

    Raises ModelError for anything else, for weights that cannot be had or do not fit, and without the extra.
    """
    channels, height, width = shape
    _check_sides(height, width)
    _check_options(classes, queries, norm, pixels)
    frozen = (norm or ("frozen" if weights else "batch")) == "frozen"
    unit = (pixels or ("unit" if weights else "normalized")) == "unit"
    if unit and channels != len(MEAN):
        raise ModelError(f"rtdetr: pixels is 'unit', which is for 3 channels; the images have {channels}.")
    if weights is None:
        if revision is not None:
            raise ModelError(f"rtdetr: revision is {revision!r} without weights. Name them, or leave it out.")
        return RTDetr(new_model(size or "r18", channels, classes, frozen=frozen), queries, unit)
    if size is not None:
        raise ModelError(f"rtdetr: size is {size!r}, but the weights {weights!r} tell the size. Leave one out.")
    return RTDetr(read_model(weights, revision, channels, classes, frozen=frozen), queries, unit)


def _check_options(classes: int, queries: int, norm: str | None, pixels: str | None) -> None:
    for name, given, allowed in (("norm", norm, ("frozen", "batch")), ("pixels", pixels, ("normalized", "unit"))):
        if given is not None and given not in allowed:
            raise ModelError(f"rtdetr: {name} is {given!r}.{did_you_mean(str(given), allowed)}")
    for name, number in (("classes", classes), ("queries", queries)):
        if not isinstance(number, int) or number < 1:
            raise ModelError(f"rtdetr: {name} is {number!r}; wanted a whole number of at least 1.")
