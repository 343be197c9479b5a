"""How arrays get in and out of a FlatModel; how it trains is in test_models_flat.py."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedbox.models import FlatModel, ModelError, build_model

SHAPE = (1, 8, 8)
FORMATS = [torch.contiguous_format, torch.channels_last]


def make(name: str = "cnn", options: Any = None, memory: torch.memory_format = FORMATS[0], seed: int = 1) -> nn.Module:
    model = build_model(name, shape=SHAPE, classes=3, seed=seed, options=options or {})
    return model.double().to(memory_format=memory)  # type: ignore[call-overload, no-any-return]


def images(memory: torch.memory_format = FORMATS[0]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(6, *SHAPE, generator=draw, dtype=torch.float64).to(memory_format=memory)


@pytest.mark.parametrize("memory", FORMATS)
def test_state_and_load_round_trip(memory: Any) -> None:
    options = {"norm": "batch", "width": 4}
    one = FlatModel(make("resnet", options, memory))
    one.trainable()
    one.module(images(memory))  # moves the running statistics
    names = list(reversed(one.module.state_dict()))
    arrays = one.state(names)
    assert list(arrays) == names
    assert all(array.flags.c_contiguous and array.flags.owndata for array in arrays.values())
    assert arrays["backbone.norm.num_batches_tracked"].shape == ()
    two = FlatModel(make("resnet", options, seed=9))
    with torch.no_grad():
        two.flat.add_(1)
    for array in arrays.values():
        array.flags.writeable = False
    two.load(arrays)
    two.check()
    for key, value in one.module.state_dict().items():
        assert torch.equal(value, two.module.state_dict()[key]), key
    x = images()
    assert torch.allclose(one.module.eval()(x), two.module.eval()(x), rtol=0, atol=1e-12)
    kept = arrays["head.weight"].copy()
    with torch.no_grad():
        one.flat.zero_()
    assert np.array_equal(arrays["head.weight"], kept)


def test_load_takes_any_layout_of_an_array() -> None:
    wanted = np.arange(27, dtype=np.float64).reshape(3, 1, 3, 3)
    flat = FlatModel(make(options={"width": 3}))
    for given_array in (np.asfortranarray(wanted), wanted[::-1][::-1], wanted[:, :, ::-1][:, :, ::-1]):
        flat.load({"backbone.conv1.weight": given_array})
        assert np.array_equal(flat.state(["backbone.conv1.weight"])["backbone.conv1.weight"], wanted)


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("head.wieght", np.zeros((3, 32)), "no array 'head.wieght'. Did you mean 'head.weight'"),
        (
            "head.weight",
            np.zeros((32, 3)),
            r"'head.weight' is .*float64.* \[32, 3\]; wanted float64 \[3, 32\]",
        ),
        ("head.weight", np.zeros((3, 32), np.float32), "float32.*; wanted float64"),
        ("head.weight", np.zeros((3, 32), ">f8"), ">f8"),
    ],
)
def test_a_wrong_array_is_named_and_nothing_is_changed(name: str, array: Any, told: str) -> None:
    flat = FlatModel(make())
    before = flat.flat.clone()
    with pytest.raises(ModelError, match=told):
        flat.load({"head.bias": np.ones(3), name: array})
    assert torch.equal(flat.flat, before)
    with pytest.raises(ModelError, match="no array 'x'"):
        flat.state(["x"])
    with pytest.raises(ModelError, match=r"no part 'hed'. Did you mean 'head'"):
        flat.slice_of("hed")


def test_reset_buffers_brings_back_the_first_ones() -> None:
    flat = FlatModel(make("resnet", {"norm": "batch", "width": 4}))
    names = [name for name, _ in flat.module.named_buffers()]
    first, weights = flat.state(names), flat.flat.clone()
    flat.module(images())
    assert flat.state(["backbone.norm.num_batches_tracked"])["backbone.norm.num_batches_tracked"] == 1
    flat.reset_buffers()
    for name, value in flat.state(names).items():
        assert np.array_equal(value, first[name])
    assert torch.equal(flat.flat, weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_state_load_and_training_work() -> None:
    flat = FlatModel(make(memory=torch.channels_last), "cuda")
    assert flat.flat.is_cuda
    names = list(flat.module.state_dict())
    arrays = flat.state(names)
    optimiser = torch.optim.SGD(flat.trainable(), lr=0.1)
    loss = F.cross_entropy(flat.module(images().cuda()), torch.arange(6, device="cuda") % 3)
    torch.autograd.backward(loss)
    optimiser.step()
    flat.check()
    assert not np.array_equal(flat.state(names)["head.weight"], arrays["head.weight"])
    flat.load(arrays)
    assert all(np.array_equal(value, arrays[name]) for name, value in flat.state(names).items())
