"""The network of a participant, built for what it is given."""

import torch

from ..configs import Config, ModelSpec
from ..data.inputs import Inputs
from ..models import FlatModel, ModelError, PlainModel, build_model, load_weights
from ..models.detections import ObjectDetector
from ..models.precision import lower_precision
from .seeds import derive


def network(config: Config, spec: ModelSpec, inputs: Inputs, device: torch.device) -> FlatModel:
    """Build a network with its initial weights, resident on a device. Raises ModelError.

    The same `spec` gives the same weights to all who ask.
    """
    module = build_model(
        spec.name,
        shape=inputs.shape,
        classes=len(inputs.classes),
        seed=derive(config.seed, "model"),
        options=spec.options,
    )
    boxed, weights = inputs.task == "boxes", config.model.weights
    if boxed != isinstance(module, ObjectDetector):
        wanted = "a detector, such as model=detector" if boxed else "a classifier, such as model=cnn"
        raise ModelError(f"the samples of {inputs.dataset} want {wanted}; {spec.name} is none")
    if weights is not None:
        load_weights(module, weights)
    if config.train.precision == "bfloat16":
        lower_precision(module, device)
    kind = PlainModel if config.engine.kind == "plain" else FlatModel
    return kind(module, device)
