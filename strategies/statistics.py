"""Running statistics of BatchNorm, estimated on images as they are instead of followed over training's views."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from .samples import Samples


@torch.no_grad()
def estimate(model: nn.Module, parts: Sequence[Samples], batch_size: int) -> int:
    """Replace the running statistics by those of all the samples, each sample counting the same; give their number.

    They are means over batches of up to `batch_size` samples, as even as may be, weighted by their samples; so the
    variance is that within batches. The model ends in eval mode. Without samples, or without BatchNorm, nothing is done
    and 0 returned.
    """
    held = [samples for samples in parts if len(samples)]
    norms = norms_of(model)
    if not held or not norms:
        return 0
    before, device = [norm.momentum for norm in norms], next(model.parameters()).device
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    for samples in held:
        index = torch.arange(len(samples), device=device)
        for batch in torch.tensor_split(index, math.ceil(len(samples) / batch_size)):
            seen += len(batch)
            for norm in norms:
                norm.momentum = len(batch) / seen  # so that what was seen before keeps its weight
            model(samples.x(batch))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()
    return sum(len(samples) for samples in held)


def norms_of(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Give the layers that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
