from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedbox.models import MODELS, ModelError, build_model, find_model

SHAPE = (1, 8, 8)
SOURCE = """
import torch
from torch import nn

class Named(nn.Module):
    def __init__(self, shape, classes, width=4, *, scale=1.0):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        self.neck = nn.ReLU()
        self.head = nn.Linear(width, classes)
        self.scale = scale
    def forward(self, x):
        return self.scale * self.head(self.neck(self.backbone(x)))

def plain(shape, classes, **options):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))

def lazy(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def moody(shape, classes):
    model = Named(shape, classes)
    model.backbone.eval()
    return model

def normed(shape, classes):
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, classes))

def text(shape, classes): return "a model"
def wrong_size(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))
def double(shape, classes): return plain(shape, classes).double()
def tuple_out(shape, classes):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain(shape, classes)
        def forward(self, x): return self.inner(x), x
    return Pair()
def infinite(shape, classes): return Named(shape, classes, scale=float("inf"))
def empty(shape, classes): return nn.Flatten()
def breaks(shape, classes): raise RuntimeError("no such backbone file")
def picky(shape, classes, *, width): return Named(shape, classes, width)
def misfit(shape, classes): return nn.Linear(3, classes)
def tied(shape, classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, classes))
    model[2].weight = model[1].weight
    return model
number = 7
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module outside the package, and an installed package that offers three models."""
    (tmp_path / "outside_models.py").write_text(SOURCE)
    (tmp_path / "outside_broken.py").write_text("import a_package_that_is_not_there\n")
    for package, entries in {
        "someone": "tiny = outside_models:Named\ncnn = outside_models:plain\ntwice = outside_models:plain\n",
        "other": "twice = outside_models:Named\n",
    }.items():
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fedbox.models]\n{entries}")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def built(name: str, seed: int = 0, shape: tuple[int, int, int] = SHAPE, **options: Any) -> nn.Module:
    return build_model(name, shape=shape, classes=3, seed=seed, options=options)


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"hf_text"}))  # whose weights come from a file
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    shapes = {"detector": (3, 64, 64), "rtdetr": (3, 64, 64), "transformer": (1, 1, 16)}
    shape = shapes.get(name, (1, 8, 8))
    options = {"size": "tiny"} if name == "rtdetr" else {}
    first = built(name, seed=5, shape=shape, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    second = built(name, seed=5, shape=shape, **options)
    assert same(first, second)
    assert not same(first, built(name, seed=6, shape=shape, **options))
    assert first.training


def test_a_global_default_device_does_not_change_the_weights() -> None:
    first = built("mlp")
    torch.set_default_device("meta")
    try:
        second = built("mlp")
    finally:
        torch.set_default_device(None)
    assert same(first, second)


@pytest.mark.usefixtures("outside")
def test_models_from_a_module_and_from_an_installed_package() -> None:
    assert [name for name, _ in built("outside_models:Named").named_children()] == [
        "backbone",
        "neck",
        "head",
    ]
    assert sum(value.numel() for value in built("tiny", width=2).parameters()) == 64 * 2 + 2 + 2 * 3 + 3
    assert same(built("outside_models:Named", seed=4), built("tiny", seed=4))
    assert find_model("cnn") is MODELS["cnn"]  # what is built in comes first
    assert len(built("outside_models:plain", anything=1, goes=2).state_dict()) == 2
    assert same(built("outside_models:lazy", seed=2), built("outside_models:lazy", seed=2))


@pytest.mark.usefixtures("outside")
def test_the_trial_leaves_no_trace() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    moody = built("outside_models:moody")
    assert moody.training
    assert not moody.get_submodule("backbone").training
    normed = built("outside_models:normed").get_submodule("0")
    assert normed.num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        (
            "cnnn",
            {},
            "no model is called 'cnnn'. Did you mean 'cnn'\\? "
            "Allowed: cnn, detector, hf_text, mlp, mobilenet, resnet, rtdetr, tiny, transformer, twice, vit",
        ),
        ("zzz", {}, "no model is called 'zzz'. Allowed"),
        ("twice", {}, "offered by 2 packages: outside_models:Named, outside_models:plain"),
        ("cnn", {"widht": 3}, "'cnn' has no option 'widht'. Did you mean 'width'\\? Allowed: width, hidden, features"),
        ("cnn", {"classes": 3}, "no option 'classes'"),
        ("tiny", {"size": 3}, "no option 'size'. Allowed: width, scale"),
        ("outside_models:picky", {}, "cannot be called.*missing a required.*'width'"),
        (
            "outside_missing:f",
            {},
            "'outside_missing' could not be imported.*No module named 'outside_missing'",
        ),
        ("outside_broken:f", {}, "'outside_broken' could not be imported.*a_package_that_is_not_there"),
        ("outside_models:plian", {}, "has no 'plian'. Did you mean 'plain'"),
        ("outside_models:", {}, "has no ''"),
        ("outside_models:number", {}, "is a int; wanted a callable"),
        ("outside_models:text", {}, "returned str; wanted a torch.nn.Module"),
        ("outside_models:wrong_size", {}, r"returned torch.float32 \[2, 4\]; wanted .* \[2, 3\]"),
        ("outside_models:double", {}, "parameter '2.weight' is torch.float64; wanted torch.float32"),
        ("outside_models:tuple_out", {}, "its forward returned tuple; wanted"),
        ("outside_models:infinite", {}, "not finite"),
        ("outside_models:empty", {}, "without parameters"),
        ("outside_models:breaks", {}, "RuntimeError: no such backbone file"),
        ("outside_models:misfit", {}, r"its forward failed: RuntimeError.*images of shape \[2, 1, 8, 8\]"),
        ("outside_models:tied", {}, "'1.weight' and '2.weight' are one tensor"),
    ],
)
def test_what_is_wrong_is_named(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        built(name, **options)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("shape", "classes", "seed", "told"),
    [
        ((28, 28), 10, 0, r"shape is \(28, 28\)"),
        ((1, 0, 28), 10, 0, "each at least 1"),
        ((1, 28, 28), 0, 0, "classes is 0"),
        ((1, 28, 28), 10, -1, "seed is -1"),
        ((1, 28, 28), 10, 2**64, "seed is 18446744073709551616"),
    ],
)
def test_bad_arguments_are_named(shape: tuple[int, int, int], classes: int, seed: int, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        build_model("mlp", shape=shape, classes=classes, seed=seed)
