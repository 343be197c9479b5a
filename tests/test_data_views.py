import time

import numpy as np
import pytest
import torch

from fedbox.data import DataError, Views

SHAPES = [(8, 1, 8, 8), (8, 1, 28, 28), (8, 3, 32, 32), (4, 3, 20, 33), (5, 4, 9, 9), (1, 3, 16, 16)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(count: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Images with structure: noise would hide small geometry."""
    coarse = torch.rand(count, channels, 5, 5, generator=seeded(9))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").clamp(0, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_shape_range_and_input_are_kept(shape, strength, padding):
    x = torch.rand(shape, generator=seeded())
    before = x.clone()
    views = Views(strength=strength, padding=padding)
    for view in (views.weak, views.strong):
        for seed in range(5):
            y = view(x, seeded(seed))
            assert y.shape == x.shape
            assert y.dtype == x.dtype
            assert float(y.min()) >= 0
            assert float(y.max()) <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_the_generator_decides_and_the_global_one_is_left_alone(kind):
    x, view = smooth(8), getattr(Views(), kind)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, again, other = view(x, seeded(1)), view(x, seeded(1)), view(x, seeded(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_the_global_seed_decides():
    x = smooth(4)
    torch.manual_seed(5)
    one = Views().strong(x)
    torch.manual_seed(5)
    assert torch.equal(one, Views().strong(x))


def test_nothing_asked_is_nothing_done():
    x = smooth(6)
    still = Views(flip=False, shift=0, strength=0)
    assert torch.equal(still.weak(x, seeded()), x)
    assert torch.equal(still.strong(x, seeded()), x)
    assert torch.equal(Views(flip=False, shift=0, ops=0, cutout=0).strong(x, seeded()), x)


@pytest.mark.parametrize(
    ("padding", "numpy_mode"), [("zeros", "constant"), ("border", "edge"), ("reflection", "reflect")]
)
def test_a_shift_pads_like_numpy(padding, numpy_mode):
    x = smooth(300, 3, 9)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode=numpy_mode)
    y = Views(flip=False, shift=1 / 3, padding=padding).weak(x, seeded()).numpy()
    for image, around in zip(y, padded, strict=True):
        crops = (around[:, top : top + 9, left : left + 9] for top in range(7) for left in range(7))
        assert any(np.array_equal(image, crop) for crop in crops)


def test_the_largest_shift_works():
    for padding in ("zeros", "border", "reflection"):
        assert Views(shift=1.0, padding=padding).weak(torch.rand(50, 1, 1, 3), seeded()).shape == (50, 1, 1, 3)


def test_strength_0_is_the_weak_view_and_a_little_is_near_it():
    x = smooth(64)
    weak = Views().weak(x, seeded(4))
    assert torch.equal(Views(strength=0).strong(x, seeded(4)), weak)
    assert (Views(strength=0.01, cutout=0).strong(x, seeded(4)) - weak).abs().mean() < 0.005


def test_a_flip_is_an_exact_mirror_of_about_half_the_images():
    x = smooth(400, 1, 12)
    y = Views(shift=0).weak(x, seeded())
    same = torch.tensor([torch.equal(a, b) for a, b in zip(x, y, strict=True)])
    mirrored = torch.tensor([torch.equal(a.flip(-1), b) for a, b in zip(x, y, strict=True)])
    assert (same ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_a_shift_moves_whole_pixels_both_ways_as_far_as_asked():
    x = torch.zeros(2000, 1, 16, 16)
    x[:, :, 8, 8] = 1
    y = Views(flip=False, shift=0.125, padding="zeros").weak(x, seeded())
    assert set(y.unique().tolist()) == {0.0, 1.0}
    places = y.flatten(1).argmax(1)
    found = {(int(place) // 16 - 8, int(place) % 16 - 8) for place in places.unique()}
    assert found == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_images_of_one_batch_differ():
    x = smooth(1).expand(32, -1, -1, -1)
    for view in (Views().weak, Views().strong):
        assert len({image.numpy().tobytes() for image in view(x, seeded())}) > 16


@pytest.mark.parametrize("channels", [1, 3])
def test_more_strength_changes_more(channels):
    x = smooth(256, channels)
    changes = [
        float((Views(flip=False, shift=0, strength=s).strong(x, seeded(1)) - x).abs().mean())
        for s in (0.0, 0.25, 0.5, 1.0)
    ]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2] < changes[3]
    assert changes[3] > 0.1


def test_cutout_is_a_grey_square_of_the_size_asked_for():
    x = torch.zeros(500, 3, 32, 32)
    y = Views(flip=False, shift=0, ops=0, cutout=0.5, strength=1.0).strong(x, seeded())
    cut = (y == 0.5).sum((2, 3))
    assert torch.equal(cut[:, 0], cut[:, 2])
    assert int(cut.max()) == 16 * 16
    assert int(cut.min()) >= 8 * 8 - 16  # the centre lies inside: at least a quarter of it is seen
    assert set(y.unique().tolist()) == {0.0, 0.5}


def test_each_colour_operation_does_what_its_name_says():
    from fedbox.data.views import _COLOUR

    x = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).expand(1, 3, 2, 2)
    one = torch.ones(1, 1, 1, 1)
    expected = {
        "brightness": x * 1.9,
        "contrast": 0.5 + (x - 0.5) * 1.9,
        "sharpness": 0.5 + (x - 0.5) * 1.9,  # in 2 x 2 every neighbourhood is the whole
        "posterize": (x * 7).round() / 7,  # 3 bits
        "solarize": 1 - x,
        "autocontrast": (x - 0.2) / 0.6,
        "saturation": x,  # grey has none
    }
    assert expected.keys() == _COLOUR.keys()
    for name, operation in _COLOUR.items():
        torch.testing.assert_close(operation(x, one), expected[name].expand_as(x), msg=name)
        torch.testing.assert_close(operation(x, 0 * one), x, atol=1 / 510, rtol=0, msg=name)


def test_saturation_draws_colours_apart_and_keeps_their_grey():
    from fedbox.data.views import _COLOUR, _grey

    x = smooth(2) * 0.4 + 0.3
    y = _COLOUR["saturation"](x, torch.full((2, 1, 1, 1), 0.5))
    torch.testing.assert_close(_grey(y), _grey(x))
    assert (y.std(1) > x.std(1)).all()


def test_rotation_turns_about_the_centre():
    """The warp of a single operation, against torch's own affine grid."""
    from fedbox.data.views import _warp

    x = smooth(1, 1, 33)
    amounts = torch.tensor([1.0, 0, 0, 0, 0])[:, None]
    turned = _warp(x, amounts, "zeros")
    angle = torch.tensor(torch.pi / 4)
    matrix = torch.stack([angle.cos(), angle.sin(), angle * 0, -angle.sin(), angle.cos(), angle * 0]).view(1, 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(x.shape), align_corners=True)
    expected = torch.nn.functional.grid_sample(x, grid, align_corners=True)
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": 1.5}, r"strength must lie in 0..1, got 1.5"),
        ({"shift": -0.1}, "shift must lie"),
        ({"cutout": 2}, "cutout must lie"),
        ({"ops": -1}, "ops must be at least 0"),
        ({"padding": "mirror"}, "unknown padding 'mirror'; known are zeros, border, reflection"),
    ],
)
def test_wrong_parameters_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        Views(**given)


@pytest.mark.parametrize("x", [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_wrong_batches_are_refused(x):
    with pytest.raises(DataError, match=r"float images \[b, c, h, w\]"):
        Views().weak(x)


def test_strong_views_stay_cheap():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, views, generator = torch.rand(64, 3, 32, 32), Views(), seeded()
        views.strong(x, generator)
        times = []
        for _ in range(20):
            start = time.perf_counter()
            views.strong(x, generator)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times) < 0.02  # about 4 ms on one core


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_views_on_a_gpu():
    x = smooth(16)
    on_gpu = Views().strong(x.cuda(), seeded(1)).cpu()
    torch.testing.assert_close(on_gpu, Views().strong(x, seeded(1)), atol=1e-3, rtol=0)
