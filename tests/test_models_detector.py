import copy
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from fedbox.models import FlatModel, ModelError, buffer_names, part_names, shared_names
from fedbox.models.boxes import pairwise_iou
from fedbox.models.detection_loss import supervised_loss
from fedbox.models.detections import Predictions
from fedbox.models.detector import SIZES, Detector, detector, grid, select

NORMS = ("group", "batch")
SHAPE = (3, 96, 96)


@pytest.fixture(autouse=True)
def one_thread_and_one_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def weights(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def scenes(count: int = 8, side: int = 96, classes: int = 3) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Plain grey images with one to three rectangles in the colour of their class, which may cover each other."""
    draw = torch.Generator().manual_seed(0)
    images, targets = torch.full((count, 3, side, side), 0.5), []
    for image in images:
        boxes = int(torch.randint(1, 4, (1,), generator=draw))
        sides = torch.randint(12, 49, (boxes, 2), generator=draw)
        corners = (torch.rand(boxes, 2, generator=draw) * (side - sides)).long()
        labels = torch.randint(classes, (boxes,), generator=draw)
        for (x, y), (width, height), label in zip(corners, sides, labels, strict=True):
            image[:, y : y + height, x : x + width] = torch.eye(3)[label][:, None, None]
        targets.append((torch.cat((corners, corners + sides), dim=1).float(), labels))
    return images, targets


@pytest.mark.parametrize(("size", "low", "high"), [("nano", 0.28, 0.33), ("small", 0.5, 0.6), ("medium", 0.9, 1.1)])
def test_sizes_and_the_share_of_the_backbone(size: Any, low: float, high: float) -> None:
    model = detector(SHAPE, 5, size)
    assert low * 1e6 <= weights(model) <= high * 1e6
    assert 0.53 <= weights(model.backbone) / weights(model) <= 0.6
    assert part_names(model) == ("backbone", "neck", "head")
    assert weights(detector(SHAPE, 5, size, "batch")) == weights(model)


@pytest.mark.parametrize("norm", NORMS)
def test_buffers_are_those_of_batch_norm(norm: Any) -> None:
    model = detector(SHAPE, 3, norm=norm)
    assert bool(buffer_names(model)) == (norm == "batch")
    travelling = set(shared_names(model, "global", ["backbone"]))
    assert travelling == {name for name in model.state_dict() if name.startswith("backbone.")}


@pytest.mark.parametrize(("height", "width"), [(96, 96), (128, 64), (32, 256)])
def test_points_are_the_centres_of_the_cells(height: int, width: int) -> None:
    wanted = [
        (stride * (column + 0.5), stride * (row + 0.5), stride)
        for stride in (8, 16, 32)
        for row in range(height // stride)
        for column in range(width // stride)
    ]
    points, strides = grid(height, width, torch.zeros(0))
    assert torch.cat((points, strides[:, None]), dim=1).tolist() == [list(each) for each in wanted]
    out = detector((1, height, width), 4)(torch.rand(2, 1, height, width))
    assert out.classes.shape == (2, len(wanted), 4)
    assert out.objectness.shape == (2, len(wanted))
    assert out.boxes.shape == (2, len(wanted), 4)
    assert torch.equal(out.points, points)
    assert torch.equal(out.strides, strides)


def test_points_lie_in_the_order_of_the_features() -> None:
    # A head that lets one channel of the features through tells which point each cell of the map became.
    model = detector((3, 64, 96), 2)
    features = [torch.zeros(1, 48, 64 // s, 96 // s) for s in (8, 16, 32)]
    features[1][0, :, 2, 3] = 1
    for tower in (model.head.box_tower, model.head.class_tower):
        tower.convs = nn.ModuleList()
    nn.init.ones_(model.head.box.weight)
    raw = torch.cat(model.head(features), dim=1)
    points, strides = grid(64, 96, raw)
    found = (raw[0, :, 0] > 1).nonzero().squeeze(1)
    assert points[found].tolist() == [[16 * 3.5, 16 * 2.5]]
    assert strides[found].tolist() == [16]


@pytest.mark.parametrize("norm", NORMS)
def test_the_start_is_calm(norm: Any) -> None:
    out = detector(SHAPE, 4, norm=norm)(torch.rand(8, *SHAPE))
    assert out.objectness.sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)
    assert out.classes.sigmoid().mean().item() == pytest.approx(0.25, rel=0.3)
    sides = (out.boxes[..., 2:] - out.boxes[..., :2]) / out.strides[:, None]
    assert sides.mean().item() == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_finite_and_reach_every_weight_and_memory_formats_agree(norm: Any) -> None:
    last = detector(SHAPE, 3, norm=norm).double()
    plain = copy.deepcopy(last).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert last.get_parameter("backbone.stem.1.conv.weight").is_contiguous(memory_format=torch.channels_last)
    # A box for each level, lest the classes' norm layers of one see no matched point.
    boxes = torch.tensor([[4.0, 4.0, 92.0, 92.0], [26.0, 24.0, 70.0, 72.0], [10.0, 10.0, 34.0, 32.0]])
    images, targets = torch.rand(4, *SHAPE).double(), [(boxes, torch.arange(3))] * 4
    losses = [supervised_loss(model(images), targets) for model in (last, plain)]
    torch.autograd.backward([each.total for each in losses])
    assert losses[0].total.item() == pytest.approx(losses[1].total.item(), rel=1e-9)
    for (name, one), two in zip(last.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert one.grad.isfinite().all(), name
        assert one.grad.any(), name
        assert torch.allclose(one.grad, two.grad, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("norm", NORMS)
def test_a_flat_model_trains_it_part_by_part(norm: Any) -> None:
    flat = FlatModel(detector(SHAPE, 3, norm=norm))
    images, targets = scenes()
    before = flat.flat.clone()
    optimiser = torch.optim.SGD(flat.trainable(["backbone"]), lr=0.01)
    for _ in range(2):
        flat.zero_grad()
        supervised_loss(flat.module(images), targets).total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    flat.check()
    moved = {part: bool((flat.flat != before)[flat.slice_of(part)].any()) for part in flat.parts}
    assert moved == {"backbone": True, "neck": False, "head": False}


@pytest.mark.parametrize("norm", NORMS)
def test_eight_images_are_learnt_by_heart(norm: Any) -> None:
    model = detector(SHAPE, 3, norm=norm)
    images, targets = scenes()
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(80):
        optimiser.zero_grad()
        supervised_loss(model(images), targets).total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    found = model.detect(images, confidence=0.25)
    hits = [
        ((pairwise_iou(boxes, each.boxes) >= 0.5) & (labels[:, None] == each.labels)).any(dim=1)
        for each, (boxes, labels) in zip(found, targets, strict=True)
    ]
    truth = sum(len(labels) for _, labels in targets)
    assert torch.cat(hits).float().mean().item() >= 0.9
    assert sum(len(each.boxes) for each in found) <= 2 * truth


def test_detect_keeps_the_modes_and_the_statistics() -> None:
    model = detector(SHAPE, 3, norm="batch").train()
    model.neck.eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    one = model.detect(torch.rand(2, *SHAPE), confidence=0.0, most=7)
    assert [len(each.boxes) for each in one] == [7, 7]
    assert model.training
    assert model.head.training
    assert not any(module.training for module in model.neck.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_selection_by_hand() -> None:
    # Scores: 0.5 x 0.9; the same place, less; the same place, other class; below 0.1; another place, beyond the image.
    points, strides = grid(32, 32, torch.zeros(0))
    objectness, chances = torch.full((1, 21), 0.01), torch.full((1, 21, 2), 0.5)
    boxes = torch.zeros(1, 21, 4)
    rows: list[tuple[float, list[float], list[float]]] = [
        (0.5, [0.9, 0.2], [0, 0, 10, 10]),
        (0.5, [0.8, 0.2], [0, 0, 10, 9]),
        (0.4, [0.1, 0.6], [0, 0, 10, 10]),
        (0.3, [0.3, 0.1], [20, 20, 30, 30]),
        (0.9, [0.7, 0.1], [20, -5, 40, 16]),
    ]
    for index, (score, chance, box) in enumerate(rows):
        objectness[0, index], chances[0, index], boxes[0, index] = score, torch.tensor(chance), torch.tensor(box)
    given = Predictions(chances.logit(), objectness.logit(), boxes, points, strides)
    (found,) = select(given, 32, 32, 0.1, 0.65, 100)
    assert found.boxes.tolist() == [[20, 0, 32, 16], [0, 0, 10, 10], [0, 0, 10, 10]]
    assert found.scores.tolist() == pytest.approx([0.63, 0.45, 0.24])
    assert found.objectness.tolist() == pytest.approx([0.9, 0.5, 0.4])
    assert found.labels.tolist() == [0, 0, 1]
    assert len(select(given, 32, 32, 0.1, 0.65, 2)[0].boxes) == 2
    assert len(select(given, 32, 32, 0.1, 0.95, 100)[0].boxes) == 4
    (none,) = select(given, 32, 32, 0.99, 0.65, 100)
    assert [tuple(value.shape) for value in none] == [(0, 4), (0,), (0,), (0,)]


def test_weights_depend_on_the_seed_alone() -> None:
    def made(seed: int) -> Detector:
        torch.manual_seed(seed)
        return detector(SHAPE, 3)

    one, same, other = (FlatModel(made(seed)).flat for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_bad_options_are_told() -> None:
    assert get_args(detector.__annotations__["size"]) == tuple(SIZES)
    for arguments, words in (
        (((3, 100, 96), 3), "100x96; wanted sides that are multiples of 32"),
        (((3, 0, 96), 3), "0x96"),
        ((SHAPE, 0), "classes is 0"),
        ((SHAPE, 3, "nan"), "Did you mean 'nano'"),
        (((3, 32, 32), 3, "nano", "batch"), "one value a channel.*Choose norm=group"),
        ((SHAPE, 3, "nano", "layer"), "norm is 'layer'.*Allowed: group, batch"),
    ):
        with pytest.raises(ModelError, match=words):
            detector(*arguments)
    with pytest.raises(ModelError, match="80x96"):
        detector(SHAPE, 3)(torch.rand(1, 3, 80, 96))
