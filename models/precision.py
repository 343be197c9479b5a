"""Mixed precision: a network whose matrix products and convolutions run in bfloat16, and whose weights stay float32."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def lower_precision(module: nn.Module, device: torch.device) -> None:
    """Let the forward passes of a network run under `torch.autocast` to bfloat16 from now on.

    Weights, gradients, statistics and all that a network gives back are float32 as before, so losses and whatever else
    follows is computed in full. A part that is called by itself (`model.backbone(x)`) is treated like the whole, and so
    are copies: what changes is the class, to a subclass of what it was.
    """
    for each in (module, *module.children()):
        kind: Any = type(each)
        each.__class__ = _lowered(kind, device.type)


@cache
def _lowered(kind: Any, device: str) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled(device):  # within the whole: its parts hand on what they have
            return kind.forward(self, *args, **kwargs)
        with torch.autocast(device, dtype=torch.bfloat16):
            out = kind.forward(self, *args, **kwargs)
        return _full(out)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _full(value: Any) -> Any:
    """Give the same value with float32 in place of bfloat16 tensors, in tuples, lists and dictionaries as well."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, dict):
        return type(value)({key: _full(each) for key, each in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_full(each) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(_full(each) for each in value)
    return value
