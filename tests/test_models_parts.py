from collections import OrderedDict

import pytest
import torch
from torch import nn

from fedbox.models import ModelError, buffer_names, build_model, part_names, parts, shared_names


class Necked(nn.Module):
    """An order of its own, a parameter and a buffer in no child, a buffer that does not persist."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.backbone = nn.Sequential(OrderedDict(linear=nn.Linear(3, 4), norm=nn.BatchNorm1d(4)))
        self.neck = nn.BatchNorm1d(4, affine=False)
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


BACKBONE = ("backbone.linear.weight", "backbone.linear.bias", "backbone.norm.weight", "backbone.norm.bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_parts_follow_the_order_of_definition() -> None:
    assert parts(Necked()) == {
        "head": ("head.weight", "head.bias"),
        "backbone": BACKBONE,
        "neck": (),
        "scale": ("scale",),
        "mean": (),
        "scratch": (),
    }


def test_a_model_without_backbone_and_head_is_one_part() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert parts(model) == {"model": ("0.weight", "0.bias", "1.weight", "1.bias")}
    assert shared_names(model, "global", ["model"]) == tuple(model.state_dict())
    assert part_names(model) == ("model",)


def test_buffer_names_are_those_that_persist() -> None:
    assert set(buffer_names(Necked())) == {
        "mean",
        *(f"backbone.norm.{name}" for name in STATISTICS),
        *(f"neck.{name}" for name in STATISTICS),
    }


@pytest.mark.parametrize("policy", ["local", "drop"])
def test_buffers_travel_under_the_global_policy_only(policy: str) -> None:
    model = Necked()
    assert shared_names(model, policy, ["backbone"]) == BACKBONE  # type: ignore[arg-type]
    assert shared_names(model, policy, ["neck"]) == ()  # type: ignore[arg-type]
    assert shared_names(model, "global", ["backbone"]) == (
        *BACKBONE,
        *(f"backbone.norm.{name}" for name in STATISTICS),
    )
    assert shared_names(model, "global", ["neck", "mean"]) == ("mean", *(f"neck.{n}" for n in STATISTICS))
    assert shared_names(model, "global") == tuple(model.state_dict())
    assert set(shared_names(model, policy)) == {name for name, _ in model.named_parameters()}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_the_parts_of_a_built_in_model_share_out_all_names(name: str) -> None:
    model = build_model(name, shape=(1, 8, 8), classes=3, seed=0)
    assert list(parts(model)) == ["backbone", "head"]
    assert [key for names in parts(model).values() for key in names] == list(model.state_dict())


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(ModelError, match=r"no part 'hed'. Did you mean 'head'"):
        shared_names(Necked(), "global", ["backbone", "hed"])
    with pytest.raises(ModelError, match="is the text 'head'; wanted a list"):
        shared_names(Necked(), "global", "head")
    with pytest.raises(ModelError, match=r"policy is 'globl'. Did you mean 'global'"):
        shared_names(Necked(), "globl")  # type: ignore[arg-type]


def test_tied_weights_are_refused_by_both_names() -> None:
    one = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    one[1].weight = one[0].weight
    with pytest.raises(ModelError, match=r"'0.weight' and '1.weight' are one tensor"):
        parts(one)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    two = nn.Sequential(first, second)
    second.bias = nn.Parameter(first.bias.detach())  # another object on the same memory
    with pytest.raises(ModelError, match=r"'0.bias' and '1.bias' are one tensor"):
        shared_names(two, "drop")
