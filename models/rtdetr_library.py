"""The library's RT-DETRv2 model: made new in a given size, or read from weights in the library's own format."""

from typing import Any, NamedTuple

from torch import nn

from .errors import ModelError, did_you_mean
from .hub import Quiet, folder_of, reading

KIND = "rt_detr_v2"
PRIOR = 0.01


class Size(NamedTuple):
    """What tells the sizes apart.

    block, depths, widths: kind of residual block, blocks and channels in each stage of the backbone, `stem` channels
    before them. hidden, ffn, expansion: channels of the encoder, of its feed-forward layer, and the share of the former
    inside its convolutional blocks. model, layers: channels and layers of the decoder.
    """

    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int
    hidden: int
    ffn: int
    expansion: float
    model: int
    layers: int


_THIN, _WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)
SIZES = {
    "tiny": Size("basic", (1, 1, 1, 1), (16, 32, 48, 64), 16, 64, 128, 0.5, 64, 2),
    "r18": Size("basic", (2, 2, 2, 2), _THIN, 64, 256, 1024, 0.5, 256, 3),
    "r34": Size("basic", (3, 4, 6, 3), _THIN, 64, 256, 1024, 0.5, 256, 4),
    "r50m": Size("bottleneck", (3, 4, 6, 3), _WIDE, 64, 256, 1024, 0.5, 256, 6),
    "r50": Size("bottleneck", (3, 4, 6, 3), _WIDE, 64, 256, 1024, 1.0, 256, 6),
    "r101": Size("bottleneck", (3, 4, 23, 3), _WIDE, 64, 384, 2048, 1.0, 256, 6),
}


def new_model(size: str, channels: int, classes: int, *, frozen: bool) -> Any:
    """Return a RTDetrV2Model, decoder heads included, with weights from torch's global generator.

    Raises ModelError for an unknown size, and without the extra.
    """
    library = _library()
    if size not in SIZES:
        raise ModelError(f"rtdetr: size is {size!r}.{did_you_mean(str(size), SIZES)}")
    wanted = SIZES[size]
    backbone = library.RTDetrResNetConfig(
        num_channels=channels,
        embedding_size=wanted.stem,
        hidden_sizes=list(wanted.widths),
        depths=list(wanted.depths),
        layer_type=wanted.block,
        out_indices=[2, 3, 4],
    )
    config = library.RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=list(wanted.widths[1:]),
        encoder_hidden_dim=wanted.hidden,
        encoder_ffn_dim=wanted.ffn,
        hidden_expansion=wanted.expansion,
        decoder_in_channels=[wanted.hidden] * 3,
        d_model=wanted.model,
        decoder_ffn_dim=4 * wanted.model,
        decoder_layers=wanted.layers,
        **_common(classes, frozen),
    )
    whole = library.RTDetrV2ForObjectDetection(config).model
    _draw(whole)
    return whole


def read_model(weights: str, revision: str | None, channels: int, classes: int, *, frozen: bool) -> Any:
    """Return a RTDetrV2Model, decoder heads included, with the weights of a folder or of a model on the hub.

    The layers that depend on the number of classes are drawn anew when it is another one. Raises ModelError when the
    weights cannot be found or read, when they are of another kind of model or leave out a layer, for images of other
    channels, and without the extra.
    """
    library = _library()
    folder = folder_of("rtdetr", weights, revision)
    with reading("rtdetr", weights):
        kind = library.PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0].get("model_type")
        if kind != KIND:
            raise ModelError(f"rtdetr: the weights {weights!r} are of the model type {kind!r}; wanted {KIND!r}.")
        with Quiet(library):
            model, told = library.RTDetrV2ForObjectDetection.from_pretrained(
                folder,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
                dtype="float32",
                **_common(classes, frozen),
            )
    _check_complete(weights, told, model.config.backbone_config.num_channels, channels)
    return model.model


def _common(classes: int, frozen: bool) -> dict[str, Any]:
    """Return what fedbox decides for every model: no denoising queries, and nothing laid down for one size of image.

    New class heads begin with the score PRIOR, as in the paper's code. The library takes 1 / (classes + 1), which is
    about as much for COCO's 80; with few classes every query would begin as an object that is half believed.
    """
    return {
        "num_labels": classes,
        "initializer_bias_prior_prob": PRIOR,
        "freeze_backbone_batch_norms": frozen,
        "num_denoising": 0,
        "anchor_image_size": None,
        "eval_size": None,
    }


def _draw(whole: nn.Module) -> None:
    """Draw the layers of neck and head as torch does by default, which is how the paper's code begins.

    The library means its own draw to be loaded over: normal with deviation 0.01 throughout, scales of norm layers
    included. After 45 steps on two scenes the tiny model had 0.78 of its first loss when it began there, and 0.34 when
    it began here (means of three seeds). What the library draws with a purpose stays: class heads (their prior), the
    last layers of box heads, the deformable attention; and the backbone.
    """
    for name, module in whole.named_modules():
        kept = ("backbone.", "class_embed", "enc_score_head", "encoder_attn.")
        last = "bbox" in name and name.endswith("layers.2")
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d) and not last and not any(k in name for k in kept):
            module.reset_parameters()


def _check_complete(weights: str, told: dict[str, Any], known: int, channels: int) -> None:
    if known != channels:
        raise ModelError(f"rtdetr: the weights {weights!r} are for images of {known} channels; these have {channels}.")
    # Counters that a frozen norm layer does not keep, and constants that the configuration gives.
    derived = ("num_batches_tracked", "n_points_scale")
    missing = {key for key in told["missing_keys"] if not key.endswith(derived)}
    others = {key for key, *_ in told["mismatched_keys"] if "class_embed" not in key and "enc_score_head" not in key}
    if missing or others:
        names = sorted(missing | others)
        raise ModelError(
            f"rtdetr: the weights {weights!r} lack {len(names)} arrays that their config.json asks for, or have them "
            f"in another shape: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}."
        )


def _library() -> Any:
    try:
        import scipy.optimize  # noqa: F401  # the matching of set_loss.py; better told now than in the first step
        import transformers
    except ImportError as error:
        raise ModelError(f"model 'rtdetr' needs the extra 'detr' ({error}): pip install 'fedbox[detr]'") from error
    return transformers
