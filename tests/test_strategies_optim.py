import pytest
import torch
from torch import nn

from fedbox.configs import TrainConfig
from fedbox.strategies.optim import FlatSGD, make_optimizer


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_flat_sgd_gives_the_bits_of_torch(momentum: float, weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    flat = FlatSGD([ours], 0.05, momentum, weight_decay)
    reference = torch.optim.SGD([theirs], 0.05, momentum=momentum, weight_decay=weight_decay, foreach=False)
    for _ in range(20):
        grad = torch.randn(1000, generator=generator)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        flat.step()
        reference.step()
        assert torch.equal(ours, theirs)


def test_sgd_worked_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = FlatSGD([weight], lr=0.1, momentum=0.5, weight_decay=0.1)
    for grad, expected in ((1.0, 1.0 - 0.1 * 1.1), (2.0, 0.89 - 0.1 * (0.5 * 1.1 + 2.0 + 0.1 * 0.89))):
        weight.grad = torch.tensor([grad])
        optimizer.step()
        assert weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_others_are_torch_s(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = TrainConfig(optimizer=name, weight_decay=0.01)
    made = make_optimizer(config, [nn.Parameter(torch.zeros(3))], 0.2)
    assert isinstance(made, kind)
    assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.2, 0.01)
