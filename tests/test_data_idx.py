import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from fedbox.data import DataError, load_dataset

PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)


def idx(array: np.ndarray) -> bytes:
    """The format as its author describes it: 0, 0, type 8, axes; the sizes; the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.tobytes()


def write(root: Path, mark: str = "-", zipped: bool = True) -> Path:
    for part in ("train", "t10k"):
        for what, array in (("images", PIXELS), ("labels", LABELS)):
            raw = idx(array)
            path = root / f"{part}-{what}{mark}idx{array.ndim}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(raw) if zipped else raw)
    return root


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_reads_both_spellings_zipped_or_not(tmp_path, mark, zipped, name):
    data = load_dataset(name, write(tmp_path, mark, zipped))
    np.testing.assert_array_equal(data.train.images, PIXELS[:, None])
    np.testing.assert_array_equal(data.test.labels, LABELS)
    assert data.train.labels.dtype == np.int64
    assert len(data.classes) == 10


def test_an_unpacked_file_that_kept_its_gz_name_is_read(tmp_path):
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(LABELS))
    assert load_dataset("mnist", tmp_path).train.labels.tolist() == LABELS.tolist()


IMAGES_FILE, LABELS_FILE = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES_FILE, gzip.compress(idx(PIXELS))[:-20], "damaged or truncated gzip"),
        (IMAGES_FILE, gzip.compress(idx(PIXELS))[:14] + b"\xff\xff\xff\xff", "damaged or truncated gzip"),
        (IMAGES_FILE, b"<html>not found</html>", "not a gzip file: it opens with b'<h'"),
        (IMAGES_FILE, gzip.compress(idx(LABELS)), "magic number 2049; idx images have 2051"),
        (LABELS_FILE, gzip.compress(idx(PIXELS)), "magic number 2051; idx labels have 2049"),
        (IMAGES_FILE, gzip.compress(idx(PIXELS)[:-1]), r"cut short: 75 bytes, its sizes \(5, 4, 3\) need 76"),
        (IMAGES_FILE, gzip.compress(idx(PIXELS) + b"x"), "too long: 77 bytes"),
        (IMAGES_FILE, gzip.compress(b"\0\0\x08\x03"), "cut short: 4 bytes, its header alone needs 16"),
        (LABELS_FILE, gzip.compress(idx(LABELS[:4])), "holds 5 images but .* 4 labels"),
        (
            LABELS_FILE,
            gzip.compress(idx(np.array([3, 1, 10, 1, 9], np.uint8))),
            "label 10 of image 2 is out of range 0..9",
        ),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else None,  # gzip holds the time: no name for a test
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path, name, content, message):
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("mnist", tmp_path)
    assert name in str(caught.value)


def test_a_missing_file_is_named_in_all_spellings_with_its_source(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="get the files from https://") as caught:
        load_dataset("fashion_mnist", tmp_path)
    for spelling in ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte.gz"):
        assert spelling in str(caught.value)


def test_a_missing_root_says_what_it_should_hold(tmp_path):
    with pytest.raises(DataError, match="needs root: a folder with the idx files"):
        load_dataset("mnist")
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("mnist", tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"root 'nowhere' does not exist, seen from {re.escape(str(Path.cwd()))};"):
        load_dataset("mnist", "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset("mnist", tmp_path / "file")


def test_real_fashion_mnist_matches_its_stored_constants(shared_data):
    data = load_dataset("fashion_mnist", shared_data / "fashion_mnist")
    assert data.shape == (1, 28, 28)
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.images.mean() / 255 == pytest.approx(data.mean[0], abs=1e-4)
    assert data.train.images.std() / 255 == pytest.approx(data.std[0], abs=1e-4)
