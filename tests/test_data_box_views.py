import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbox.data import DataError
from fedbox.data.box_views import BoxViews, Geometry, Targets

SIDE = 64
STILL = {"flip": False, "mosaic": 0, "scale": (1, 1), "colour": 0, "grey": 0, "blur": 0, "cutout": 0}
CALM = {"colour": 0, "grey": 0, "blur": 0, "cutout": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rectangles(count: int, seed: int = 0, side: int = SIDE) -> tuple[torch.Tensor, Targets]:
    """Images with one white rectangle on black each, and its box, whose label is the image's number."""
    g = seeded(seed)
    low = torch.randint(6, side // 2, (count, 2), generator=g)
    high = low + torch.randint(8, side // 2 - 8, (count, 2), generator=g)
    x = torch.zeros(count, 3, side, side)
    for image in range(count):
        x[image, :, low[image, 1] : high[image, 1], low[image, 0] : high[image, 0]] = 1
    return x, Targets(torch.cat((low, high), 1).float(), torch.arange(count), torch.arange(count))


def measured(image: torch.Tensor) -> torch.Tensor:
    """The extent of what is brighter than the grey of the edges: [4]."""
    bright = image[0] > 0.75
    rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
    return torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).float()


@pytest.mark.parametrize("kind", ["weak", "strong"])
@pytest.mark.parametrize("seed", range(10))
def test_boxes_move_with_their_pixels(kind, seed):
    x, targets = rectangles(16, seed)
    view = getattr(BoxViews(**CALM, mosaic=0), kind)(x, targets, seeded(seed))
    assert len(view.targets.boxes) > 8
    assert view.targets.owners.tolist() == view.targets.labels.tolist()
    for box, image in zip(view.targets.boxes, view.targets.owners, strict=True):
        assert (box - measured(view.images[image])).abs().max() <= 1.5


@pytest.mark.parametrize("seed", range(10))
def test_boxes_of_a_mosaic_move_with_their_pixels(seed):
    """Each image has one rectangle of its own brightness, by which its copies in the mosaics are found."""
    x, targets = rectangles(8, seed)
    level = 0.6 + 0.05 * torch.arange(8).view(-1, 1, 1, 1)
    view = BoxViews(**CALM, mosaic=1).strong(x * level, targets, seeded(seed))
    assert len(view.targets.boxes) > 8
    for box, label, image in zip(view.targets.boxes, view.targets.labels, view.targets.owners, strict=True):
        x1, y1, x2, y2 = (box + torch.tensor([1.5, 1.5, -1.5, -1.5])).round().int().tolist()
        inner = view.images[image, 0, y1:y2, x1:x2]
        torch.testing.assert_close(inner, level[label].view(1, 1).expand_as(inner), atol=0.01, rtol=0)
        # Just outside lies something else, unless the image ends there.
        wide = (box + torch.tensor([-2.5, -2.5, 2.5, 2.5])).round().int().tolist()
        for rows, columns in (
            (slice(wide[1], wide[1] + 1), slice(x1, x2)),
            (slice(wide[3] - 1, wide[3]), slice(x1, x2)),
        ):
            if rows.start >= 0 and rows.stop <= SIDE and x2 > x1:
                assert ((view.images[image, 0, rows, columns] - level[label].item()).abs() > 0.02).any()


def test_pseudo_boxes_of_the_weak_view_reach_the_strong_one():
    x, targets = rectangles(16)
    views = BoxViews(**CALM, mosaic=0)
    weak = views.weak(x, targets, seeded(1))
    strong = views.strong(weak.images, Targets.none(x), seeded(2))
    assert len(strong.targets.boxes) == 0
    scored = Targets(weak.targets.boxes, weak.targets.labels, weak.targets.owners, weak.targets.labels / 16)
    moved = strong.geometry.apply(scored)
    assert len(moved.boxes) > 8
    torch.testing.assert_close(moved.scores, moved.labels / 16)
    for box, image in zip(moved.boxes, moved.owners, strict=True):
        assert (box - measured(strong.images[image])).abs().max() <= 2


def geometry(transform, source=0, holes=None) -> Geometry:
    sources = torch.tensor([[source, -1, -1, -1]])
    places = torch.zeros(1, 4, 4)
    places[0, 0] = torch.tensor(transform)
    return Geometry(sources, places, torch.zeros(1, 1, 4) if holes is None else torch.tensor([[holes]]), 32, 64)


def boxes_after(view: Geometry, *boxes: tuple[float, ...]) -> list[list[float]]:
    count = len(boxes)
    targets = Targets(torch.tensor(boxes), torch.arange(count), torch.zeros(count, dtype=torch.long))
    return view.apply(targets).boxes.tolist()


def test_geometry_by_hand():
    assert boxes_after(geometry([1.0, 0, 1, 0]), (1, 2, 3, 4)) == [[1, 2, 3, 4]]
    assert boxes_after(geometry([-1.0, 64, 1, 0]), (1, 2, 3, 4)) == [[61, 2, 63, 4]]
    assert boxes_after(geometry([2.0, -8, 0.5, 4]), (10, 0, 20, 8)) == [[12, 4, 32, 8]]
    # Clipped: 3 of 10 columns are left, then 2 of 10, which is less than a quarter.
    assert boxes_after(geometry([1.0, 57, 1, 0]), (4, 2, 14, 12)) == [[61, 2, 64, 12]]
    assert boxes_after(geometry([1.0, 58, 1, 0]), (4, 2, 14, 12)) == []
    # A hole leaves 30 of 100, then 20 of 100 pixels.
    assert boxes_after(geometry([1.0, 0, 1, 0], holes=[0.0, 0, 11, 32]), (4, 2, 14, 12)) == [[4, 2, 14, 12]]
    assert boxes_after(geometry([1.0, 0, 1, 0], holes=[0.0, 0, 12, 32]), (4, 2, 14, 12)) == []
    assert boxes_after(geometry([1.0, 0, 1, 0], source=3), (1, 2, 3, 4)) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["weak", "strong"]))
def test_boxes_lie_inside_and_are_ordered(seed, kind):
    x, targets = rectangles(6, seed % 7, 40)
    view = getattr(BoxViews(mosaic=0.7, scale=(0.3, 3)), kind)(x, targets, seeded(seed))
    boxes, owners = view.targets.boxes, view.targets.owners
    assert (boxes >= 0).all()
    assert (boxes <= 40).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert owners.tolist() == sorted(owners.tolist())
    assert view.images.shape == x.shape
    assert float(view.images.min()) >= 0
    assert float(view.images.max()) <= 1


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_the_generator_decides_and_the_global_one_and_the_input_are_left_alone(kind):
    x, targets = rectangles(8)
    before, state = x.clone(), torch.get_rng_state()
    draw = getattr(BoxViews(), kind)
    one, again, other = (draw(x, targets, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.targets.boxes, again.targets.boxes)
    assert not torch.equal(one.images, other.images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)


def test_nothing_asked_is_nothing_done():
    x, targets = rectangles(4)
    for view in (BoxViews(**STILL, weak_scale=0, weak_move=0).weak, BoxViews(**STILL).strong):
        seen = view(x, targets, seeded())
        torch.testing.assert_close(seen.images, x, atol=1e-4, rtol=0)
        torch.testing.assert_close(seen.targets.boxes, targets.boxes, atol=1e-4, rtol=0)


def test_holes_are_grey_and_hide_boxes():
    x = torch.ones(200, 3, 32, 32)
    targets = Targets(torch.tensor([[0.0, 0, 32, 32]]).repeat(200, 1), torch.zeros(200).long(), torch.arange(200))
    view = BoxViews(**{**STILL, "cutout": 1}).strong(x, targets, seeded())
    holes = view.geometry.holes[:, 0]
    sides = holes[:, 2:] - holes[:, :2]
    assert sides.min() >= 3
    assert sides.max() <= 13
    grey = (view.images[:, 0] == 0.5).sum((1, 2))
    assert torch.equal(grey.float(), sides.prod(1))
    assert len(view.targets.boxes) == 200
    half = BoxViews(**{**STILL, "cutout": 0.5}).strong(x, targets, seeded())
    assert 60 < int(((half.images == 0.5).flatten(1).any(1)).sum()) < 140


def test_colour_blur_and_grey_come_as_often_as_asked():
    x = torch.rand(200, 3, 16, 16, generator=seeded())
    none = Targets.none(x)
    plain = BoxViews(**STILL).strong(x, none, seeded()).images
    grey = BoxViews(**{**STILL, "grey": 0.25}).strong(x, none, seeded()).images
    assert 30 < int((grey[:, 0] == grey[:, 1]).flatten(1).all(1).sum()) < 70
    blurred = BoxViews(**{**STILL, "blur": 0.5}).strong(x, none, seeded()).images
    softer = blurred.std((1, 2, 3)) < 0.98 * plain.std((1, 2, 3))
    assert 70 < int(softer.sum()) < 130
    coloured = BoxViews(**{**STILL, "colour": 0.5}).strong(x, none, seeded()).images
    means = coloured.mean((1, 2, 3))
    assert means.min() < 0.4
    assert means.max() > 0.6
    one = torch.rand(4, 1, 16, 16, generator=seeded())
    assert BoxViews().strong(one, Targets.none(one), seeded()).images.shape == one.shape


def test_targets_join_and_divide():
    pairs = [(torch.rand(2, 4), torch.tensor([1, 2])), (torch.zeros(0, 4), torch.zeros(0).long())]
    joined = Targets.of([*pairs, (torch.rand(1, 4), torch.tensor([0]))])
    assert joined.owners.tolist() == [0, 0, 2]
    assert torch.equal(joined.image(0).boxes, pairs[0][0])
    assert len(joined.image(1).boxes) == 0
    assert joined.image(2).labels.tolist() == [0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mosaic": 1.5}, r"mosaic must lie in 0..1, got 1.5"),
        ({"cutout": -0.1}, "cutout must lie"),
        ({"scale": (0, 1)}, "scales must lie above 0"),
        ({"scale": (2, 1)}, "least first"),
        ({"weak_scale": 1}, "weak_scale 1"),
    ],
)
def test_wrong_parameters_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        BoxViews(**given)


def test_wrong_batches_are_refused():
    x = torch.zeros(3, 8, 8)
    with pytest.raises(DataError, match=r"float images \[b, c, h, w\]"):
        BoxViews().weak(x, Targets.none(x))


def test_views_stay_cheap():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, targets = rectangles(16, side=128)
        times = []
        for seed in range(10):
            start = time.perf_counter()
            BoxViews().strong(x, targets, seeded(seed))
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times[1:]) < 0.2  # about 20 ms on one core


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_views_on_a_gpu():
    x, targets = rectangles(8)
    on_gpu = Targets(targets.boxes.cuda(), targets.labels.cuda(), targets.owners.cuda())
    ours, theirs = BoxViews().strong(x, targets, seeded(1)), BoxViews().strong(x.cuda(), on_gpu, seeded(1))
    torch.testing.assert_close(theirs.images.cpu(), ours.images, atol=1e-3, rtol=0)
    torch.testing.assert_close(theirs.targets.boxes.cpu(), ours.targets.boxes, atol=1e-3, rtol=0)
