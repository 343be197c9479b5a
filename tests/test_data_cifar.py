import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedbox.data import DataError, load_dataset

CLASSES = np.array(["cat", "dog"])


def jpeg(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (value, 0, 255 - value)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write(path: Path, streams: list[bytes], **changed: np.ndarray | None) -> None:
    arrays = {
        "data": np.frombuffer(b"".join(streams), np.uint8),
        "offsets": np.cumsum([0, *map(len, streams)]),
        "labels": np.arange(len(streams), dtype=np.uint8) % 2,
        "classes": CLASSES,
    } | changed
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEDBOX_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "train.npz", [jpeg(value) for value in (0, 100, 200)])
    write(tmp_path / "test.npz", [jpeg(50)])
    return tmp_path


def stored(root: Path) -> list[Path]:
    return sorted((root / "cache").iterdir())


def test_decodes_every_stream(root):
    data = load_dataset("cifar10_jpeg", root)
    assert data.shape == (3, 32, 32)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(data.train.images[:, 0, 5, 5], [0, 100, 200], atol=3)
    np.testing.assert_allclose(data.train.images[:, 2, 5, 5], [255, 155, 55], atol=3)


def test_the_cache_is_used_and_follows_the_content(root):
    load_dataset("cifar10_jpeg", root)
    train = next(path for path in stored(root) if "train" in path.name)
    np.save(train, np.full((3, 3, 32, 32), 7, np.uint8))
    assert (load_dataset("cifar10_jpeg", root).train.images == 7).all()
    write(root / "train.npz", [jpeg(value) for value in (0, 0, 0)])
    assert load_dataset("cifar10_jpeg", root).train.images[2, 0].max() < 5


def test_a_damaged_cache_file_is_made_again(root):
    fresh = load_dataset("cifar10_jpeg", root).train.images
    for path in stored(root):
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(load_dataset("cifar10_jpeg", root).train.images, fresh)
    np.testing.assert_array_equal(load_dataset("cifar10_jpeg", root).train.images, fresh)
    assert all(path.stat().st_size > 1000 for path in stored(root))


def test_a_cache_that_cannot_be_written_costs_no_result(root, monkeypatch):
    (root / "file").touch()
    monkeypatch.setenv("FEDBOX_CACHE", str(root / "file"))
    assert len(load_dataset("cifar10_jpeg", root).train) == 3


def test_a_bad_stream_is_named_by_its_index(root):
    write(root / "train.npz", [jpeg(0), jpeg(100)[:200], jpeg(200)])
    with pytest.raises(DataError, match=r"train.npz: image 1 does not decode"):
        load_dataset("cifar10_jpeg", root)
    assert not any(path.suffix == ".tmp" for path in root.rglob("*"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"offsets": np.array([0, 5])}, "1 labels need 2 offsets|3 labels need 4 offsets, got 2"),
        ({"offsets": np.array([0, 9, 5, 20])}, "offsets must rise from 0"),
        ({"labels": np.array([0, 2, 1])}, "label 2 of image 1 is out of range 0..1"),
        ({"labels": None}, r"lacks the array\(s\) labels"),
        ({"classes": np.array(["cat", "cow"])}, "train.npz has the classes .*cow"),
    ],
)
def test_wrong_arrays_are_named(root, changed, message):
    write(root / "train.npz", [jpeg(value) for value in (0, 100, 200)], **changed)
    with pytest.raises(DataError, match=message):
        load_dataset("cifar10_jpeg", root)


def test_missing_and_damaged_files_are_named(root):
    (root / "train.npz").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match=r"train.npz is no readable .npz file"):
        load_dataset("cifar10_jpeg", root)
    (root / "train.npz").unlink()
    with pytest.raises(DataError, match=r"train.npz does not exist"):
        load_dataset("cifar10_jpeg", root)


def test_real_cifar10_has_its_known_mean(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBOX_CACHE", str(tmp_path))
    data = load_dataset("cifar10_jpeg", shared_data / "cifar10_jpeg")
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    means = data.train.images.mean((0, 2, 3)) / 255
    np.testing.assert_allclose(means, data.mean, atol=2e-3)  # JPEG moves the mean a little
