"""Running statistics of BatchNorm, estimated on images as they are instead of followed over training's views."""

from collections.abc import Sequence

import torch
from torch import nn

from .samples import Samples


@torch.no_grad()
def estimate(model: nn.Module, parts: Sequence[Samples], batch_size: int) -> int:
    """Replace the running statistics by those of all the samples, each batch counting the same; give their number.

    Batches have `batch_size` samples, the last one of a part as many as are left. The model ends in eval mode. Without
    samples, or without BatchNorm, nothing is done and 0 returned.
    """
    held = [samples for samples in parts if len(samples)]
    norms = norms_of(model)
    if not held or not norms:
        return 0
    before, device = [norm.momentum for norm in norms], next(model.parameters()).device
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for samples in held:
        for index in torch.split(torch.arange(len(samples), device=device), batch_size):
            model(samples.x(index))
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
