"""Strategies that speak of features and heads, on models that are not fedbox's own."""

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import fedbox
from fedbox.models import Classifier
from fedbox.strategies import UnsuitableError

NAMES = ["fedsa", "fedproto", "fedtgp", "feddistill", "lg-fedavg"]
TOY: dict[str, Any] = {
    "name": "toy",
    "rounds": 2,
    "data": {
        "dataset": "digits",
        "options": {"limit": 200, "test_limit": 50},
        "partition": {"kind": "iid", "clients": 2},
        "test_share": 0.25,
    },
    "train": {"batch_size": 10, "lr": 0.05},
    "engine": {"workers": 1},
}


class Undivided(nn.Module):
    """A model without the children backbone and head."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        out: Tensor = self.net(x)
        return out


class Halves(Undivided):
    """A module of one's own with the two children."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape, 24)
        self.backbone, self.head = self.net, nn.Linear(24, classes)
        del self.net

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        out: Tensor = self.head(self.backbone(x))
        return out


def own_classifier(shape: tuple[int, int, int], classes: int) -> Classifier:
    """Build a model as docs/models.md says."""
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 24), nn.ReLU()), 24, classes)


@pytest.mark.parametrize("strategy", NAMES)
def test_a_model_that_cannot_serve_is_refused_before_the_run(strategy: str, tmp_path: Path) -> None:
    with pytest.raises(UnsuitableError, match=f"^{strategy} needs a model .*Undivided"):
        fedbox.run(TOY, strategy=strategy, model=f"{__name__}:Undivided", out=tmp_path / "run", quiet=True)


@pytest.mark.parametrize("strategy", NAMES)
def test_a_classifier_of_ones_own_serves(strategy: str, tmp_path: Path) -> None:
    own = f"{__name__}:own_classifier" if strategy != "lg-fedavg" else f"{__name__}:Halves"
    result = fedbox.run(TOY, strategy=strategy, model=own, out=tmp_path / "run", quiet=True, report=False)
    assert not any(record["failures"] for record in result.rounds)
