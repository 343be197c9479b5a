"""Plain SGD on flat vectors: the same bits as torch.optim.SGD, without its cost.

torch.optim.SGD imports torch's compiler when it is made (a second in every process) and takes three times as long for
a step on one vector. Everything else is left to torch.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..configs import TrainConfig
from ..models import FlatModel


class FlatSGD:
    """SGD with momentum and weight decay over flat parameters whose `.grad` is set (see FlatModel.trainable).

    v <- momentum v + (g + weight_decay w), the first v being the first gradient;  w <- w - lr v.
    """

    def __init__(self, leaves: Sequence[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._leaves = list(leaves)
        self._velocity: list[Tensor] = []

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters along their gradients. The gradients are changed; they are zeroed before the next use."""
        first = not self._velocity
        for number, leaf in enumerate(self._leaves):
            grad = leaf.grad
            assert grad is not None
            if self.weight_decay:
                grad.add_(leaf, alpha=self.weight_decay)
            if self.momentum and first:
                self._velocity.append(grad.clone())
            elif self.momentum:
                self._velocity[number].mul_(self.momentum).add_(grad)
            leaf.add_(self._velocity[number] if self.momentum else grad, alpha=-self.lr)


def set_lr(optimizer: FlatSGD | torch.optim.Optimizer, lr: float) -> None:
    """Let the next steps have learning rate `lr`."""
    if isinstance(optimizer, FlatSGD):
        optimizer.lr = lr
        return
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_factor(schedule: str, done: int, total: int) -> float:
    """Give the share of the learning rate that step `done` (from 0) of `total` has: 1 at first, near 0 at the last.

    linear: 1 - done / total; cosine: (1 + cos(pi done / total)) / 2 (Loshchilov and Hutter, 2017, equation 5, one
    restart a round); constant: 1.
    """
    if schedule == "linear":
        return 1 - done / total
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done / total)) / 2
    return 1.0


def proximal(flat: FlatModel, mu: float) -> Callable[[], None] | None:
    """Give what adds FedProx's mu (w - w_now) to every gradient, w_now the weights at this moment; None for mu 0."""
    if mu == 0:
        return None
    start = flat.flat.clone()

    def pull() -> None:
        flat.flat_grad.add_(flat.flat - start, alpha=mu)

    return pull


def make_optimizer(
    config: TrainConfig, leaves: Sequence[nn.Parameter], lr: float, plain: bool = False
) -> FlatSGD | torch.optim.Optimizer:
    """Give the configured optimiser at learning rate `lr`; with `plain` it is torch's own in any case."""
    if config.optimizer == "sgd" and plain:
        return torch.optim.SGD(list(leaves), lr, config.momentum, weight_decay=config.weight_decay)
    if config.optimizer == "sgd":
        return FlatSGD(leaves, lr, config.momentum, config.weight_decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(list(leaves), lr, weight_decay=config.weight_decay)


def backward(value: Tensor, measure: Callable[..., object]) -> None:
    """Take the gradient of a loss, `value`, that `measure` gave. Raises PluginError where it can have none."""
    try:
        value.backward()  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError):  # asked afterwards, since in each step it would cost
        _refuse(value, measure)
        raise


def _refuse(value: object, measure: Callable[..., object]) -> None:
    """Raise PluginError where it is the fault of what a loss gave that there is no gradient."""
    from .registry import PluginError

    whole = measure.func if isinstance(measure, partial) else measure
    place, _, name = getattr(whole, "__qualname__", type(whole).__name__).rpartition(".<locals>.")
    if place and "." not in name:
        name = f"{name} of {place}"
    if not isinstance(value, Tensor):
        raise PluginError(f"{name} returned {type(value).__name__}; wanted a scalar tensor")
    if value.numel() != 1:
        raise PluginError(f"{name} returned shape {tuple(value.shape)}; wanted a scalar, such as its mean()")
    if not value.requires_grad:
        raise PluginError(f"{name} returned a tensor without a gradient; wanted one that was computed by site.model")
