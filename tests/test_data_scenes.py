import numpy as np
import pytest

from fedbox.data import DataError, partition
from fedbox.data.options import call_checked
from fedbox.data.scene_layout import CLASSES, Draws
from fedbox.data.scene_shapes import DRAWINGS, PALE
from fedbox.data.scene_sprites import sprite
from fedbox.data.scene_weather import WEATHERS, light_of
from fedbox.data.scenes import draw_scenes, read_scenes

FOUR = ("cloudy", "overcast", "rainy", "snowy")


def drawn(count: int = 12, weather: str = "cloudy", shift: float = 1.0, seed: int = 0, size: int = 128):
    return draw_scenes(np.arange(count), (weather,) * count, size=size, shift=shift, seed=seed, part="train")


def test_the_set_is_what_was_asked_for():
    data = read_scenes(samples=22, test_samples=9, weathers=FOUR, size=96)
    assert data.classes == CLASSES == ("person", "car", "bus", "truck", "traffic sign")
    assert data.shape == (3, 96, 96)
    assert (len(data.train), len(data.test)) == (22, 9)
    names, counts = np.unique(data.train.attributes["weather"], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "cloudy": 6,
        "overcast": 6,
        "rainy": 5,
        "snowy": 5,
    }
    parts = partition(data.train.labels, data.train.attributes, kind="natural", key="weather", seed=0)
    assert parts.keys == tuple(sorted(FOUR))


def test_images_are_a_function_of_seed_index_and_weather():
    few, many = (read_scenes(samples=count, test_samples=4, weathers=FOUR, size=64).train for count in (5, 70))
    np.testing.assert_array_equal(few.images, many.images[:5])
    np.testing.assert_array_equal(few.boxes, many.boxes[: len(few.boxes)])
    one = draw_scenes(np.array([69]), (str(many.attributes["weather"][69]),), size=64, shift=1, seed=0, part="train")
    np.testing.assert_array_equal(one[0][0], many.images[69])
    np.testing.assert_array_equal(one[1], many.of(69)[0])
    other = read_scenes(samples=5, test_samples=5, weathers=FOUR, size=64, seed=1)
    assert (other.train.images != few.images).mean() > 0.5
    assert (other.train.images != other.test.images).mean() > 0.5


def test_the_weather_changes_the_looks_and_not_the_boxes():
    clear = drawn()
    for weather in WEATHERS[1:]:
        seen = drawn(weather=weather)
        for ours, theirs in zip(seen[1:], clear[1:], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        changes = [
            np.abs(drawn(weather=weather, shift=shift)[0].astype(int) - clear[0]).mean() for shift in (0, 0.5, 1, 2)
        ]
        assert changes[0] == 0
        assert changes[1] > 2
        assert sorted(changes) == changes


def test_weathers_look_as_their_names_say():
    images = {weather: drawn(weather=weather)[0].astype(float) for weather in WEATHERS}
    light = {weather: values.mean() for weather, values in images.items()}
    assert light["night"] < 0.4 * light["cloudy"]
    assert light["rainy"] < light["cloudy"]
    road = {weather: values[:, :, 110:, :].mean() for weather, values in images.items()}
    assert road["snowy"] > 1.2 * road["overcast"]
    colour = {weather: values.std(1).mean() for weather, values in images.items()}
    assert colour["overcast"] < colour["cloudy"]
    # Fog takes the contrast of what is far (rows around the horizon), not of what is near.
    contrast = {weather: values[:, :, 45:60].std((1, 2, 3)).mean() for weather, values in images.items()}
    assert contrast["foggy"] < 0.6 * contrast["cloudy"]


def test_boxes_hold_whole_pixels_of_sensible_objects():
    images, boxes, labels, offsets = drawn(400, size=128)
    counts = np.diff(offsets)
    assert counts.min() >= 3
    assert counts.max() <= 8
    assert len(np.unique(counts)) == 6
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 5
    shares = np.bincount(labels, minlength=5) / len(labels)
    assert shares.min() > 0.05
    assert (sides[labels == 0, 1] > sides[labels == 0, 0]).mean() > 0.9  # people are upright
    assert sides.prod(1).max() > 15 * np.median(sides.prod(1))  # near and far
    assert len(images) == 400


def test_a_box_is_exactly_what_its_object_changes(monkeypatch):
    """Leave one object out: the pixels that change, shadow aside, lie in its box and touch its open sides."""
    from fedbox.data import scene_layout, scenes

    whole = drawn(30, weather="foggy", shift=0)
    real, tested = scene_layout.objects_of, 0

    def without_nearest(draws, camera, size):
        things = real(draws, camera, size)
        depth = np.where(things.kept, things.depth, np.inf)
        kept = things.kept.copy()
        kept[np.arange(len(kept)), depth.argmin(1)] = False
        return scene_layout.Things(**{**vars(things), "kept": kept})

    monkeypatch.setattr(scenes, "objects_of", without_nearest)
    fewer = drawn(30, weather="foggy", shift=0)
    for image in range(30):
        mine = whole[1][whole[3][image] : whole[3][image + 1]].tolist()
        left = fewer[1][fewer[3][image] : fewer[3][image + 1]].tolist()
        (gone,) = [box for box in mine if box not in left] or [None]
        if gone is None:
            continue
        kind = whole[2][whole[3][image] + mine.index(gone)]
        changed = (np.abs(whole[0][image].astype(int) - fewer[0][image]) > 3).any(0)
        x1, y1, x2, y2 = gone
        if kind == CLASSES.index("traffic sign"):
            continue  # its pole goes too
        tested += 1
        outside = changed.copy()
        outside[y1:y2, x1:x2] = False
        below = np.zeros_like(outside)
        below[y2 - 1 : y2 + 12] = True  # the shadow under it
        assert not (outside & ~below).any()
        rows, columns = changed[:y2].any(1).nonzero()[0], changed[y1:y2].any(0).nonzero()[0]
        assert abs(rows[0] - y1) <= 1
        assert abs(columns[0] - x1) <= 1
        assert abs(columns[-1] + 1 - x2) <= 1
    assert tested > 15


@pytest.mark.parametrize("name", DRAWINGS)
def test_cut_outs_touch_all_sides_at_every_size(name):
    cut = sprite(name)
    for level in cut.levels:
        cover = level.sum(2)
        assert cover.max() <= 1 + 1e-5
        assert all(edge.max() > 0 for edge in (cover[0], cover[-1], cover[:, 0], cover[:, -1]))
    window = cut.at(20, 10, range(20), range(10), False)
    np.testing.assert_array_equal(cut.at(20, 10, range(5, 9), range(2, 4), False), window[5:9, 2:4])
    np.testing.assert_array_equal(cut.at(20, 10, range(20), range(10), True), window[:, ::-1])


def test_a_cut_out_keeps_its_areas():
    """The white half disc of a one-way sign covers the same share at every size."""
    shares = [level[..., PALE].mean() for level in sprite("sign_board").levels]
    np.testing.assert_allclose(shares, shares[0], atol=0.05)


def test_draws_are_uniform_and_independent():
    draws = Draws(0, "train", np.arange(20_000))
    first, second = draws(2), draws(2)
    values = np.concatenate((first, second), 1)
    np.testing.assert_allclose(values.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(np.histogram(values, 10, (0, 1))[0] / values.size, 0.1, atol=0.005)
    correlation = np.corrcoef(np.concatenate((values[:-1], values[1:]), 1).T)
    assert np.abs(correlation - np.eye(8))[:4, :4].max() < 0.03
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.03
    np.testing.assert_array_equal(Draws(0, "train", np.array([7]))(2)[0], first[7])
    assert not np.array_equal(Draws(1, "train", np.array([7]))(2)[0], first[7])


def test_shift_moves_light_from_cloudy_through_the_weather():
    clear, half, full, twice = (light_of(("rainy",), shift) for shift in (0, 0.5, 1, 2))
    np.testing.assert_allclose(clear.gain, 1)
    np.testing.assert_allclose(full.gain[0], [0.46, 0.50, 0.56], rtol=1e-6)
    np.testing.assert_allclose(half.gain**2, full.gain, rtol=1e-5)
    np.testing.assert_allclose(twice.gain, full.gain**2, rtol=1e-5)
    np.testing.assert_allclose(half.fog, (0.003 + 0.020) / 2, rtol=1e-5)
    assert twice.wet[0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weathers": ("cloudy", "rany")}, r"unknown weather 'rany' \(did you mean 'rainy'\?\); known are cloudy"),
        ({"weathers": ("cloudy", "cloudy")}, "must be different ones"),
        ({"weathers": ()}, "at least one"),
        ({"shift": 2.5}, "shift: got 2.5"),
        ({"size": 100}, "size: got 100"),
        ({"samples": 0}, "samples: got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        call_checked("scenes", read_scenes, None, **options)
