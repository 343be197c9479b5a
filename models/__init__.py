"""Classifiers with named parts, the policies for their buffers, and the flat vectors they train on."""

from .build import MODELS, build_model, check_model, find_model, load_weights
from .classifiers import Classifier, cnn, mlp, resnet
from .errors import ModelError
from .flat import FlatModel
from .parts import BufferPolicy, buffer_names, norm_names, part_names, parts, shared_names
from .plain import PlainModel

__all__ = [
    "MODELS",
    "BufferPolicy",
    "Classifier",
    "FlatModel",
    "ModelError",
    "PlainModel",
    "buffer_names",
    "build_model",
    "check_model",
    "cnn",
    "find_model",
    "load_weights",
    "mlp",
    "norm_names",
    "part_names",
    "parts",
    "resnet",
    "shared_names",
]
