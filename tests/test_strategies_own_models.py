"""Strategies that speak of features and heads, on models that are not fedbox's own."""

import math
from pathlib import Path

import pytest
from plugins_for_tests import run
from torch import Tensor, nn

from fedbox.models import Classifier
from fedbox.strategies import UnsuitableError

NAMES = ["fedsa", "fedproto", "fedtgp", "feddistill", "lg-fedavg"]


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
        run(tmp_path / "run", strategy=strategy, model=f"{__name__}:Undivided")


@pytest.mark.parametrize("strategy", NAMES)
def test_a_classifier_of_ones_own_serves(strategy: str, tmp_path: Path) -> None:
    own = f"{__name__}:own_classifier" if strategy != "lg-fedavg" else f"{__name__}:Halves"
    result = run(tmp_path / "run", strategy=strategy, model=own, rounds=2)
    assert not any(record["failures"] for record in result.rounds)
