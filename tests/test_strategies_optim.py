import pytest
import torch
from boxes_for_tests import site_of
from torch import nn

from fedbox.configs import TrainConfig
from fedbox.strategies.optim import FlatSGD, lr_factor, make_optimizer, set_lr


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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_are_those_of_torch(schedule: str, optimizer: str) -> None:
    total, reference = 7, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler: torch.optim.lr_scheduler.LRScheduler = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(reference, factor=1),
        "linear": lambda: torch.optim.lr_scheduler.LinearLR(reference, 1, 0, total_iters=total),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(reference, total),
    }[schedule]()
    ours = make_optimizer(TrainConfig(optimizer=optimizer), [nn.Parameter(torch.zeros(1))], 0.2)
    for done in range(total):
        set_lr(ours, 0.2 * lr_factor(schedule, done, total))
        found = ours.lr if isinstance(ours, FlatSGD) else ours.param_groups[0]["lr"]
        assert found == pytest.approx(reference.param_groups[0]["lr"], abs=1e-12)
        reference.step()
        scheduler.step()


def test_a_round_follows_the_schedule_over_the_steps_that_it_takes() -> None:
    """The gradient is forced to one, so each step of plain SGD moves every weight by its learning rate."""
    site = site_of("server", **{"train.optimizer": "sgd", "train.lr": 0.5, "train.schedule": "linear"})
    moved, last = [], site.flat.flat.clone()

    def follow() -> None:
        moved.append((last - site.flat.flat).mean().item())
        last.copy_(site.flat.flat)

    fit = site.fit(adjust=lambda: site.flat.flat_grad.fill_(1.0), after_step=follow, epochs=2)
    assert fit.steps == len(moved) == site.steps(len(site.labelled), epochs=2)
    assert moved == pytest.approx([0.5 * (1 - done / fit.steps) for done in range(fit.steps)], rel=1e-4)
