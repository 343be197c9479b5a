import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedbox.models import Classifier, ModelError, build_model, cnn, mlp, resnet

CASES = [
    ("mlp", {}),
    ("mlp", {"hidden": [64, 48]}),
    ("cnn", {}),
    ("cnn", {"hidden": 0, "width": 5}),
    ("resnet", {}),
    ("resnet", {"norm": "batch", "width": 6, "depth": 14}),
    ("mobilenet", {}),
    ("mobilenet", {"width": 4, "depth": 3, "expansion": 2, "features": 20}),
    ("vit", {}),
    ("vit", {"patch": 3, "width": 12, "depth": 1, "heads": 3, "features": 7}),
    ("mlp", {"features": 16}),
    ("cnn", {"features": 64}),
    ("resnet", {"features": 64}),
]


def weights(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def test_the_default_sizes_are_those_worked_out_by_hand() -> None:
    shape = (1, 28, 28)
    assert weights(mlp(shape, 10)) == (784 * 72 + 72) + (72 * 10 + 10)
    assert weights(cnn(shape, 10)) == (9 * 16 + 16) + (9 * 16 * 32 + 32) + (49 * 32 * 32 + 32) + (32 * 10 + 10)
    convs = 9 * (1 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 16 * 32 + 32 * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    assert weights(resnet(shape, 10)) == convs + norms + (64 * 10 + 10) == 77_754
    assert weights(build_model("mobilenet", shape=shape, classes=10, seed=0)) == (9 * 16 + 2 * 16) + sum(
        4 * c * c + 2 * 4 * c + 9 * 4 * c + 2 * 4 * c + 4 * c * w + 2 * w
        for c, w in ((16, 16), (16, 32), (32, 32), (32, 64))
    ) + (64 * 10 + 10)
    block = 4 * 48 + (48 * 144 + 144) + (48 * 48 + 48) + (48 * 96 + 96) + (96 * 48 + 48)
    squares = 16 * 48 + 48 + 49 * 48
    assert weights(build_model("vit", shape=shape, classes=10, seed=0)) == squares + 2 * block + 96 + (48 * 10 + 10)


def test_features_pool_what_the_backbone_gives() -> None:
    """AdaptiveAvgPool1d by hand: 72 to 8 are means of nine, 32 to 64 each value twice."""
    x = torch.randn(2, 1, 8, 8)
    few = build_model("mlp", shape=(1, 8, 8), classes=3, seed=0, options={"features": 8})
    whole = build_model("mlp", shape=(1, 8, 8), classes=3, seed=0)
    assert isinstance(few, Classifier)
    assert isinstance(whole, Classifier)
    assert torch.allclose(few.features(x), whole.features(x).view(2, 8, 9).mean(2), atol=1e-6)
    many = build_model("cnn", shape=(1, 8, 8), classes=3, seed=0, options={"features": 64})
    plain = build_model("cnn", shape=(1, 8, 8), classes=3, seed=0)
    assert isinstance(many, Classifier)
    assert isinstance(plain, Classifier)
    assert torch.allclose(many.features(x), plain.features(x).repeat_interleave(2, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "mobilenet", "vit"])
def test_no_features_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="features is 0; wanted a whole number of at least 1"):
        build_model(name, shape=(1, 8, 8), classes=3, seed=0, options={"features": 0})


def test_heads_divide_the_width() -> None:
    with pytest.raises(ModelError, match="width is 10, heads is 4"):
        build_model("vit", shape=(1, 8, 8), classes=3, seed=0, options={"width": 10})


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 13)])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_channels_last_gives_the_output_and_gradients_of_contiguous(
    name: str, options: dict[str, object], shape: tuple[int, int, int]
) -> None:
    plain = build_model(name, shape=shape, classes=7, seed=3, options=options).double()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.manual_seed(0)
    x, y = torch.randn(5, *shape, dtype=torch.float64), torch.randint(0, 7, (5,))
    out = plain(x)
    out_last = last(x.to(memory_format=torch.channels_last))
    assert out.shape == (5, 7)
    assert torch.allclose(out, out_last, rtol=0, atol=1e-12)
    torch.autograd.backward([F.cross_entropy(out, y), F.cross_entropy(out_last, y)])
    for (key, one), two in zip(plain.named_parameters(), last.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=0, atol=1e-12), key


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_head_of_the_features_is_the_output(name: str, options: dict[str, object]) -> None:
    model = build_model(name, shape=(3, 8, 8), classes=4, seed=0, options=options).eval()
    assert isinstance(model, Classifier)
    x = torch.randn(6, 3, 8, 8)
    features = model.features(x)
    assert features.shape == (6, model.feature_dim)
    assert torch.equal(F.linear(features, model.head.weight, model.head.bias), model(x))


def test_pooling_before_relu_equals_relu_before_pooling() -> None:
    model = cnn((1, 12, 12), 3)
    layers = dict(model.backbone.named_children())
    assert list(layers)[:3] == ["conv1", "pool1", "relu1"]
    torch.manual_seed(1)
    x = torch.randn(4, 1, 12, 12)
    reference = x
    for index in ("1", "2"):
        reference = F.max_pool2d(F.relu(layers[f"conv{index}"](reference)), 2)
    expected = F.relu(layers["linear"](reference.reshape(4, -1)))
    assert torch.allclose(model.features(x), expected, atol=1e-6)


def test_group_norm_leaves_no_buffers_and_batch_norm_does() -> None:
    assert not list(resnet((1, 8, 8), 3).buffers())
    assert list(resnet((1, 8, 8), 3, norm="batch").buffers())


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("mlp", {"hidden": 0}, "hidden is 0; wanted a whole number of at least 1"),
        ("mlp", {"hidden": [8, "x"]}, "hidden is 'x'"),
        ("mlp", {"hidden": "wide"}, "hidden is 'wide'; wanted a width"),
        ("mlp", {"hidden": True}, "hidden is True"),
        ("cnn", {"width": 2.5}, "width is 2.5"),
        ("cnn", {"hidden": -1}, "at least 0"),
        ("resnet", {"depth": 18}, "depth is 18; wanted 6n \\+ 2"),
        ("resnet", {"norm": "grup"}, "norm is 'grup'. Did you mean 'group'\\?"),
    ],
)
def test_a_bad_option_is_named(name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        build_model(name, shape=(1, 8, 8), classes=3, seed=0, options=options)


def test_the_cnn_refuses_images_that_it_cannot_halve_twice() -> None:
    with pytest.raises(ModelError, match="images are 3x8"):
        build_model("cnn", shape=(1, 3, 8), classes=3, seed=0)


@pytest.mark.parametrize(("name", "options"), [("mlp", {}), ("cnn", {}), ("resnet", {"norm": "batch"})])
def test_the_model_learns_two_easy_classes(name: str, options: dict[str, object]) -> None:
    model = build_model(name, shape=(1, 8, 8), classes=2, seed=0, options=options)
    draw = torch.Generator().manual_seed(5)
    y = torch.arange(40) % 2
    x = torch.randn(40, 1, 8, 8, generator=draw)
    x[y == 1, :, :4] += 1.5  # class 1 is bright in the upper half
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), y))
        optimiser.step()
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.95
