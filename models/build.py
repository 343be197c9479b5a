"""Builds a classifier by name, from an installed package or from `module:callable`, and checks it."""

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .classifiers import Shape, cnn, mlp, resnet
from .detections import Detections, ObjectDetector, Predictions
from .detector import detector
from .errors import ModelError, did_you_mean
from .hub_text import hf_text
from .parts import parts
from .rtdetr import rtdetr
from .small import mobilenet, vit
from .text import transformer

GROUP = "fedbox.models"
MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "detector": detector,
    "hf_text": hf_text,
    "mlp": mlp,
    "mobilenet": mobilenet,
    "resnet": resnet,
    "rtdetr": rtdetr,
    "transformer": transformer,
    "vit": vit,
}


def build_model(name: str, *, shape: Shape, classes: int, seed: int, options: Mapping[str, object] = {}) -> nn.Module:
    """Build a classifier on the CPU whose weights depend on the arguments alone.

    name: a key of MODELS, an entry point of the group `fedbox.models`, or `module:callable`, in this
        order. The callable is called as callable(shape, classes, **options) and gives an nn.Module that maps
        float32 images [b, *shape] to logits [b, classes]; it should have the children `backbone` and `head`,
        otherwise the whole of it counts as one part (see parts.py). It must draw its weights from torch's
        own generator.
    shape: channels, height, width of an image. seed: 0 <= seed < 2**64.

    Torch's global generator is left as it was. Raises ModelError for an unknown name or option, for a failure
    of the callable and for a model that is not as described.
    """
    _check_arguments(name, shape, classes, seed)
    constructor = find_model(name)
    _check_options(name, constructor, options)
    # The device context keeps a global default device from changing the draws: weights come from the CPU.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        try:
            model: nn.Module = constructor(tuple(shape), classes, **options)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"model {name!r} failed for shape {tuple(shape)}, {classes} classes and options "
                f"{dict(options)}: {_told(error)}"
            ) from error
        check_model(name, model, shape, classes)
    return model


def find_model(name: str) -> Callable[..., Any]:
    """Return the callable that `name` stands for; see build_model. Raises ModelError when there is none."""
    if name in MODELS:
        return MODELS[name]
    installed = importlib.metadata.entry_points(group=GROUP)
    targets = sorted({entry.value for entry in installed if entry.name == name})
    if len(targets) > 1:
        raise ModelError(f"model {name!r} is offered by {len(targets)} packages: {', '.join(targets)}. Name one.")
    target = targets[0] if targets else name
    if ":" not in target:
        known = sorted({*MODELS, *(entry.name for entry in installed)})
        raise ModelError(f"no model is called {name!r}.{did_you_mean(name, known)} Or write module:callable.")
    return _import(target)


def check_model(name: str, model: object, shape: Shape, classes: int) -> None:
    """Raise ModelError unless `model` turns float32 [2, *shape] into finite logits [2, classes].

    A detector (`ObjectDetector`) turns them into raw predictions instead, and those into Detections.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} returned {type(model).__name__}; wanted a torch.nn.Module.")
    wanted = f"wanted float32 logits of shape [2, {classes}] for images of shape {[2, *shape]}"
    for key, value in model.named_parameters():
        if value.dtype != torch.float32:
            raise ModelError(f"model {name!r}: parameter {key!r} is {value.dtype}; wanted torch.float32 only.")
    if not any(True for _ in model.parameters()):
        raise ModelError(f"model {name!r} returned a {type(model).__name__} without parameters; {wanted}.")
    out = _forward(name, model, shape, wanted)
    if isinstance(model, ObjectDetector):
        _check_detector(name, model, out, shape, classes)
        parts(model)
        return
    if not isinstance(out, torch.Tensor):
        raise ModelError(f"model {name!r}: its forward returned {type(out).__name__}; {wanted}.")
    if tuple(out.shape) != (2, classes) or out.dtype != torch.float32:
        raise ModelError(f"model {name!r}: its forward returned {out.dtype} {list(out.shape)}; {wanted}.")
    if not bool(torch.isfinite(out).all()):
        raise ModelError(f"model {name!r}: a batch of zeros gave logits that are not finite; {wanted}.")
    parts(model)  # refuses tied weights; only now, for the forward has filled what was lazy


def load_weights(module: nn.Module, file: str) -> None:
    """Copy the arrays of a safetensors file into the module's parameters and buffers of the same names.

    Arrays that the file lacks stay as they are, so a backbone alone can be given. Raises ModelError for a file that
    cannot be read, an array that the model does not have, and one of another shape; then nothing was changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model.weights: {file} cannot be read as safetensors: {error}.") from error
    known = module.state_dict()
    for name, value in arrays.items():
        if name not in known:
            raise ModelError(f"model.weights: the model has no array {name!r} of {file}.{did_you_mean(name, known)}")
        if value.shape != known[name].shape:
            raise ModelError(
                f"model.weights: array {name!r} of {file} is {list(value.shape)}; the model's is "
                f"{list(known[name].shape)}."
            )
    with torch.no_grad():
        for name, value in arrays.items():
            known[name].copy_(value)


def _check_detector(name: str, model: ObjectDetector, out: object, shape: Shape, classes: int) -> None:
    if isinstance(out, Predictions) and (out.classes.shape[0] != 2 or out.classes.shape[2] != classes):
        raise ModelError(f"model {name!r}: its Predictions are for {out.classes.shape[2]} classes; wanted {classes}.")
    found: object = model.detect(torch.zeros(2, *shape), 0.5)
    if not isinstance(found, list) or len(found) != 2 or not all(isinstance(each, Detections) for each in found):
        raise ModelError(f"model {name!r}: its detect must give a list of Detections, one for each image.")


def _forward(name: str, model: nn.Module, shape: Shape, wanted: str) -> object:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # a trial in training mode would move the statistics of BatchNorm
    try:
        with torch.no_grad():
            out: object = model(torch.zeros(2, *shape))
    except Exception as error:
        raise ModelError(f"model {name!r}: its forward failed: {_told(error)}; {wanted}.") from error
    finally:
        for module, mode in modes:
            module.training = mode
    return out


def _check_arguments(name: str, shape: Shape, classes: int, seed: int) -> None:
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ModelError(f"model {name!r}: shape is {shape!r}; wanted channels, height, width, each at least 1.")
    if not isinstance(classes, int) or classes < 1:
        raise ModelError(f"model {name!r}: classes is {classes!r}; wanted a whole number of at least 1.")
    if not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ModelError(f"model {name!r}: seed is {seed!r}; wanted a whole number from 0 to 2**64 - 1.")


def foreign_options(name: str, names: Iterable[str]) -> list[str]:
    """Return those of the names that are no options of the model. Raises ModelError when there is none."""
    try:
        signature = inspect.signature(find_model(name))
    except ValueError:
        return []
    return _foreign(signature, names)[0]


def _foreign(signature: inspect.Signature, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return those of the names that are no options of a model, and the options that it has by name."""
    named = [p for p in signature.parameters.values() if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    positional = [p for p in signature.parameters.values() if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    taken = {p.name for p in positional[:2]}  # shape and classes, whatever the callable calls them
    allowed = [p.name for p in named if p.name not in taken]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    return [name for name in names if name in taken or (name not in allowed and not open_ended)], allowed


def _check_options(name: str, constructor: Callable[..., Any], options: Mapping[str, object]) -> None:
    try:
        signature = inspect.signature(constructor)
    except ValueError:  # some callables written in C tell no signature; the call itself will judge
        return
    foreign, allowed = _foreign(signature, options)
    if foreign:
        raise ModelError(f"model {name!r} has no option {foreign[0]!r}.{did_you_mean(foreign[0], allowed)}")
    try:
        signature.bind(None, None, **options)
    except TypeError as error:
        raise ModelError(
            f"model {name!r} cannot be called as {name}(shape, classes, **{dict(options)}): {error}."
        ) from error


def _import(target: str) -> Callable[..., Any]:
    module_name, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"model {target!r}: the module {module_name!r} could not be imported: {_told(error)}. "
            "Is it installed, or its folder on PYTHONPATH?"
        ) from error
    for step in path.split("."):
        if not hasattr(found, step):
            public = [key for key in dir(found) if not key.startswith("_")]
            raise ModelError(f"model {target!r}: {module_name!r} has no {path!r}.{did_you_mean(path, public)}")
        found = getattr(found, step)
    if not callable(found):
        raise ModelError(f"model {target!r} is a {type(found).__name__}; wanted a callable that gives a model.")
    called: Callable[..., Any] = found
    return called


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
