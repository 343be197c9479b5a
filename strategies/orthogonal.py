"""The spectral orthogonality term of FedSTO (section 4.3) and SRIP (Bansal et al. 2018, arXiv 1810.09102).

R(W) = sigma(W'W - I) + sigma(WW' - I) for every weight W reshaped to [outputs, inputs], sigma the spectral norm. It is
estimated by two steps of power iteration from a random vector, as SRIP does; neither product is ever formed.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_TINY = 1e-12


def spectral_norm(apply: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Estimate the spectral norm of a symmetric matrix A from `apply(v) = A v` and a start vector [n]; a scalar."""
    with torch.no_grad():
        direction = apply(start)
        direction = direction / direction.norm().clamp(min=_TINY)
    norm: Tensor = apply(direction).norm()
    return norm


def orthogonality(weights: Iterable[Tensor], generator: torch.Generator) -> Tensor:
    """Give the sum of R(W) over the weights that have at least two axes; a scalar that can be differentiated."""
    total = torch.zeros(())
    for weight in weights:
        if weight.dim() < 2:
            continue
        matrix = weight.flatten(1)
        for tall in (matrix, matrix.T):
            start = torch.randn(tall.shape[1], generator=generator).to(matrix)
            total = total.to(matrix) + spectral_norm(lambda v, m=tall: m.T @ (m @ v) - v, start)  # type: ignore[misc]
    return total
