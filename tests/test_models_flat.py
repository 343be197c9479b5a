import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedbox.models import FlatModel, ModelError, build_model

SHAPE = (1, 8, 8)
FORMATS = [torch.contiguous_format, torch.channels_last]
CASES: list[tuple[str, dict[str, object]]] = [
    ("mlp", {"hidden": [7, 5]}),
    ("cnn", {"width": 3, "hidden": 5}),
    ("resnet", {"width": 4, "norm": "batch"}),
    ("resnet", {"width": 4}),
]


def make(name: str = "cnn", options: Any = None, memory: torch.memory_format = FORMATS[0]) -> nn.Module:
    model = build_model(name, shape=SHAPE, classes=3, seed=1, options=options or {})
    return model.double().to(memory_format=memory)  # type: ignore[call-overload, no-any-return]


def batches(count: int, memory: torch.memory_format = FORMATS[0]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(6, *SHAPE, generator=draw, dtype=torch.float64).to(memory_format=memory),
            torch.randint(0, 3, (6,), generator=draw),
        )
        for _ in range(count)
    ]


def backward(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], create_graph: bool = False) -> None:
    torch.autograd.backward(F.cross_entropy(model(batch[0]), batch[1]), create_graph=create_graph)


OPTIMISERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_training_equals_plain_torch(name: str, options: Any, memory: Any, optimiser: str) -> None:
    plain = make(name, options, memory)
    flat = FlatModel(copy.deepcopy(plain))
    start = flat.flat.clone()
    one = OPTIMISERS[optimiser](plain.parameters())
    leaves = flat.trainable()
    assert len(leaves) == 1
    two = OPTIMISERS[optimiser](leaves)
    for batch in batches(8, memory):
        one.zero_grad()
        flat.zero_grad()
        backward(plain, batch)
        backward(flat.module, batch)
        one.step()
        two.step()
    flat.check()
    assert (flat.flat - start).abs().max() > 1e-3
    for key, value in plain.state_dict().items():
        np.testing.assert_allclose(flat.state([key])[key], value.numpy(), rtol=0, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_weights_and_gradients_stay_views_of_their_format(name: str, options: Any, memory: Any) -> None:
    plain = make(name, options, memory)
    strides = {key: value.stride() for key, value in plain.named_parameters()}
    flat = FlatModel(plain)
    flat.trainable()
    batch = batches(1, memory)[0]
    backward(flat.module, batch)
    once = flat.flat_grad.clone()
    backward(flat.module, batch)
    flat.check()
    assert once.abs().sum() > 0
    if options.get("norm") != "batch":
        assert torch.allclose(flat.flat_grad, 2 * once, rtol=0, atol=1e-12)
    for key, value in flat.module.named_parameters():
        assert value.grad is not None
        assert value.stride() == value.grad.stride() == strides[key]
        assert value.untyped_storage().data_ptr() == flat.flat.untyped_storage().data_ptr()
        assert value.grad.untyped_storage().data_ptr() == flat.flat_grad.untyped_storage().data_ptr()


def test_a_convolution_still_gives_channels_last() -> None:
    flat = FlatModel(make(memory=torch.channels_last))
    out = flat.module.get_submodule("backbone.conv1")(batches(1, torch.channels_last)[0][0])
    assert not out.is_contiguous()
    assert out.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5), double=st.booleans())
def test_the_layout_is_aligned_and_without_overlap(sizes: list[int], double: bool) -> None:
    model = nn.Module()
    model.backbone = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
    model.neck = nn.ReLU()
    model.head = nn.Linear(sizes[-1], 3)
    if double:
        model.double()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    flat = FlatModel(model)
    covered = torch.zeros(len(flat.flat), dtype=torch.int)
    for key, span in flat.spans.items():
        covered[span] += 1
        assert span.start % 16 == 0
        assert dict(model.named_parameters())[key].data_ptr() % 64 == 0
        assert torch.equal(flat.flat[span], before[key].flatten())
        assert torch.equal(model.get_parameter(key), before[key])
    assert covered.max() == 1
    assert not flat.flat[covered == 0].any()
    backbone, neck, head = (flat.slice_of(part) for part in ("backbone", "neck", "head"))
    assert (backbone.start, backbone.stop, neck.stop, head.stop) == (
        0,
        neck.start,
        head.start,
        len(flat.flat),
    )
    for part, names in flat.parts.items():
        whole = flat.slice_of(part)
        assert all(whole.start <= flat.spans[n].start <= flat.spans[n].stop <= whole.stop for n in names)


@pytest.mark.parametrize(("trained", "frozen"), [("head", "backbone"), ("backbone", "head")])
def test_a_frozen_part_gets_no_gradient_and_does_not_move(trained: str, frozen: str) -> None:
    plain = make()
    flat = FlatModel(copy.deepcopy(plain))
    start = flat.flat.clone()
    backward(flat.module, batches(1)[0])  # a gradient from before must not survive
    optimiser = OPTIMISERS["sgd"](flat.trainable([trained]))
    reference = OPTIMISERS["sgd"](plain.get_submodule(trained).parameters())
    for batch in batches(4):
        flat.zero_grad()
        reference.zero_grad()
        backward(flat.module, batch)
        backward(plain, batch)
        assert not flat.flat_grad[flat.slice_of(frozen)].any()
        optimiser.step()
        reference.step()
    flat.check()
    still, moved = flat.slice_of(frozen), flat.slice_of(trained)
    assert torch.equal(flat.flat[still], start[still])
    assert not torch.equal(flat.flat[moved], start[moved])
    for key, value in plain.state_dict().items():
        np.testing.assert_allclose(flat.state([key])[key], value.numpy(), rtol=0, atol=1e-12, err_msg=key)
    assert len(flat.trainable()) == 1
    assert all(value.requires_grad for value in flat.module.parameters())
    assert flat.trainable([]) == []


def test_what_was_frozen_before_stays_frozen() -> None:
    model = make()
    model.get_parameter("backbone.conv2.weight").requires_grad_(False)
    flat = FlatModel(model)
    start = flat.flat.clone()
    leaves = flat.trainable()
    assert len(leaves) == 2
    optimiser = OPTIMISERS["sgd"](leaves)
    backward(flat.module, batches(1)[0])
    optimiser.step()
    moved = flat.flat != start
    assert not moved[flat.spans["backbone.conv2.weight"]].any()
    assert moved[flat.spans["backbone.conv2.bias"]].all()


def break_by_create_graph(flat: FlatModel, optimiser: torch.optim.Optimizer) -> None:
    backward(flat.module, batches(1)[0], create_graph=True)


def break_by_optimiser(flat: FlatModel, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()


def break_by_module(flat: FlatModel, optimiser: torch.optim.Optimizer) -> None:
    flat.module.zero_grad()


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("breakage", [break_by_create_graph, break_by_optimiser, break_by_module])
def test_a_replaced_gradient_is_found_and_mended(breakage: Any) -> None:
    flat = FlatModel(make())
    optimiser = OPTIMISERS["sgd"](flat.trainable())
    flat.check()
    breakage(flat, optimiser)
    with pytest.raises(ModelError, match="was replaced or set to None"):
        flat.check()
    flat.zero_grad()
    flat.check()
    start = flat.flat.clone()
    backward(flat.module, batches(1)[0])
    optimiser.step()
    assert not torch.equal(flat.flat, start)


def test_a_moved_module_is_found() -> None:
    flat = FlatModel(make())
    flat.module.float()
    with pytest.raises(ModelError, match="the module was moved"):
        flat.check()


def test_zero_grad_keeps_the_vector() -> None:
    flat = FlatModel(make())
    flat.trainable()
    address = flat.flat_grad.data_ptr()
    backward(flat.module, batches(1)[0])
    assert flat.flat_grad.any()
    flat.zero_grad()
    assert flat.flat_grad.data_ptr() == address
    assert not flat.flat_grad.any()
    flat.check()


def test_models_that_cannot_be_flattened_are_refused() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match=r"'0.weight' and '1.weight' are one tensor"):
        FlatModel(tied)
    with pytest.raises(ModelError, match=r"one dtype on one device; .*float32.*float64"):
        FlatModel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
    with pytest.raises(ModelError, match="it has no parameters"):
        FlatModel(nn.ReLU())
    with pytest.raises(ModelError, match=r"are torch.bfloat16; wanted"):
        FlatModel(nn.Linear(2, 2).bfloat16())


def test_a_second_flat_model_takes_the_module_over() -> None:
    first = FlatModel(make())
    second = FlatModel(first.module)
    assert torch.equal(first.flat, second.flat)
    second.check()
    with pytest.raises(ModelError, match="left the flat vector"):
        first.check()
