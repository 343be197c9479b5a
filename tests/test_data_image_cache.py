"""Images kept on disk: the same data with and without, never out of date, never half-made, whoever is killed when."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees_for_tests import FORMATS, SIZE, coco_file, make_coco, picture, write, zipped_tree

from fedbox.data import BoxData, DataError, load_dataset
from fedbox.data.annotations_coco import read_coco
from fedbox.data.image_cache import cached_images
from fedbox.data.rows import Rows

SHAPE = (4, 3, 32, 64)


def same(ours: BoxData, theirs: BoxData) -> None:
    np.testing.assert_array_equal(ours.images[:], theirs.images[:])
    for name in ("boxes", "box_labels", "offsets", "names"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.attributes.keys() == theirs.attributes.keys()
    for name, values in ours.attributes.items():
        np.testing.assert_array_equal(values, theirs.attributes[name])


def files(folder: Path, ending: str = "") -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{ending}"))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    make_coco(tmp_path / "coco")
    return tmp_path / "coco"


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_the_same_with_and_without(tmp_path: Path, kind: str, zipped: bool) -> None:
    make, read, _, _ = FORMATS[kind]
    make(tmp_path / "data")
    root = zipped_tree(tmp_path / "data") if zipped else tmp_path / "data"
    plain = read(root, size=SIZE)
    assert isinstance(plain.train.images, np.ndarray)
    for _ in range(2):
        cached = read(root, size=SIZE, cache=tmp_path / "cache")
        assert cached.classes == plain.classes
        for part in ("train", "test"):
            assert isinstance(getattr(cached, part).images, Rows)
            same(getattr(cached, part), getattr(plain, part))
        assert len(files(tmp_path / "cache")) == 4


def spoil(path: Path) -> None:
    """Make a picture unreadable without a trace: its size and its time of change are what they were."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_second_use_decodes_nothing(coco: Path, tmp_path: Path) -> None:
    plain = read_coco(coco, size=SIZE)
    read_coco(coco, size=SIZE, cache=tmp_path / "cache")
    for name in ("a.png", "b.png", "c.png"):
        spoil(coco / "images" / name)
    with pytest.raises(DataError, match="does not decode"):
        read_coco(coco, size=SIZE)
    same(read_coco(coco, size=SIZE, cache=tmp_path / "cache").train, plain.train)


def test_options_that_leave_the_pixels_alone_use_the_same_files(coco: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    read_coco(coco, size=SIZE, cache=cache)
    before = files(cache)
    for options in ({"classes": ("person",)}, {"min_side": 500}, {"bad_boxes": "drop"}):
        assert len(read_coco(coco, size=SIZE, cache=cache, **options).train) == 2
    assert files(cache) == before


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_picture_that_changes_is_decoded_anew(coco: Path, tmp_path: Path, zipped: bool) -> None:
    def read() -> tuple[BoxData, BoxData]:
        root = zipped_tree(coco) if zipped else coco
        return tuple(read_coco(root, size=SIZE, **more).train for more in ({}, {"cache": tmp_path / "cache"}))

    same(*read())
    picture(coco / "images" / "b.png", (0, 0, 8, 8))
    plain, cached = read()
    same(plain, cached)
    assert cached.images[1][:, :6, :6].min() > 128
    assert len(files(tmp_path / "cache", ".npy")) == 3  # the test part has not changed


def test_configurations_share_a_folder(coco: Path, tmp_path: Path) -> None:
    """Another frame, other pictures, another order or another place: other files, and nobody gets those of others."""
    shutil.copytree(coco, tmp_path / "copy")
    swapped = coco_file(["b.png", "a.png"])
    write(coco / "annotations" / "swapped.json", swapped)
    picture(coco / "images" / "b.png", (0, 0, 8, 8))
    wishes: list[tuple[Path, dict[str, Any]]] = [
        (coco, {"size": SIZE}),
        (coco, {"size": (64, 32)}),
        (coco, {"size": SIZE, "limit": 1}),
        (coco, {"size": SIZE, "train": "annotations/swapped.json"}),
        (tmp_path / "copy", {"size": SIZE}),
    ]
    for _ in range(2):
        for root, options in wishes:
            cached = read_coco(root, test=None, cache=tmp_path / "cache", **options)
            same(cached.train, read_coco(root, test=None, **options).train)
    assert len(files(tmp_path / "cache", ".npy")) == len(wishes)


@pytest.mark.parametrize("change", ["time", "place", "checksum"])
def test_a_picture_of_the_same_size_in_bytes_is_told_apart(tmp_path: Path, change: str) -> None:
    root = tmp_path / "coco"
    write(root / "annotations" / "train.json", coco_file(["a.bmp"]))
    file = root / "images" / "a.bmp"
    picture(file)
    options = {"size": SIZE, "test": None, "cache": tmp_path / "cache"}
    read_coco(zipped_tree(root) if change == "checksum" else root, **options)
    status = file.stat()
    if change == "place":
        root = root.rename(tmp_path / "moved")
        file = root / "images" / "a.bmp"
    picture(file, (0, 0, 8, 8))
    later = 1_000_000 if change == "time" else 0
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + later))
    assert file.stat().st_size == status.st_size
    again = read_coco(zipped_tree(root) if change == "checksum" else root, **options)
    assert again.train.images[0][:, :6, :6].min() > 128


BAD = [[20, 10, 0, 5], [0, 0, 10, 10]]


@pytest.mark.parametrize("cache", [None, "cache"])
def test_bad_boxes_are_told_alike(coco: Path, tmp_path: Path, cache: str | None, caplog: Any) -> None:
    options = {"size": SIZE, "cache": cache and tmp_path / cache}
    write(coco / "annotations" / "train.json", coco_file(["a.png", "b.png"], BAD))
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 bad box.*annotations\[0\] \(id 1\): box \[20.0, 10.0, 20.0, 15.0\]"):
            read_coco(coco, **options)
    caplog.clear()
    data = read_coco(coco, bad_boxes="drop", **options)
    assert data.train.counts.tolist() == [0, 1]
    assert "1 bad box(es) left out" in caplog.text
    wrong = coco_file(["a.png", "b.png"])
    wrong["images"][1]["width"] = 640
    write(coco / "annotations" / "train.json", wrong)
    with pytest.raises(DataError, match=r"images\[1\]: images/b.png is 80 x 40 .* say 640 x 40; are they those of"):
        read_coco(coco, **options)


def test_pictures_that_do_not_decode_leave_nothing_behind(coco: Path, tmp_path: Path) -> None:
    spoil(coco / "images" / "b.png")
    with pytest.raises(DataError, match=r"images/b.png does not decode"):
        read_coco(coco, size=SIZE, cache=tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def frames(calls: list[int] | None = None, pause: float = 0.0) -> Iterator[tuple[Any, tuple[int, int]]]:
    if calls is not None:
        calls.append(1)
    for row in range(SHAPE[0]):
        time.sleep(pause)
        yield np.full(SHAPE[1:], row, np.uint8), (row + 1, 7)


KILLED = """
import os, signal, sys
from pathlib import Path
from test_data_image_cache import SHAPE, frames
from fedbox.data.image_cache import cached_images
def deadly():
    for row, pair in enumerate(frames()):
        if row == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield pair
cached_images(Path(sys.argv[1]), "x", SHAPE, deadly)
"""


def test_a_killed_build_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert files(tmp_path) == ["x.part"]
    calls: list[int] = []
    rows, sizes = cached_images(tmp_path, "x", SHAPE, lambda: frames(calls))
    assert calls == [1]
    assert rows[:].mean((1, 2, 3)).tolist() == [0, 1, 2, 3]
    assert sizes == [(1, 7), (2, 7), (3, 7), (4, 7)]
    assert files(tmp_path) == ["x.json", "x.npy"]


@pytest.mark.parametrize("name", ["x.npy", "x.json"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), Path.unlink])
def test_a_damaged_file_costs_time_only(tmp_path: Path, name: str, damage: Any) -> None:
    cached_images(tmp_path, "x", SHAPE, frames)
    damage(tmp_path / name)
    calls: list[int] = []
    rows, _ = cached_images(tmp_path, "x", SHAPE, lambda: frames(calls))
    assert calls == [1]
    assert rows[:].mean((1, 2, 3)).tolist() == [0, 1, 2, 3]


def at_once(makers: list[Any], folder: Path) -> list[Any]:
    """Build the same files from several threads, each with a maker of its own; give what each got."""
    results: list[Any] = [None] * len(makers)

    def work(number: int) -> None:
        try:
            results[number] = cached_images(folder, "x", SHAPE, makers[number])[0][:].mean((1, 2, 3)).tolist()
        except DataError as error:
            results[number] = str(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(makers))]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    return results


def test_whoever_builds_at_the_same_time_waits_and_takes_what_is_there(tmp_path: Path, caplog: Any) -> None:
    calls: list[int] = []
    results = at_once([lambda: frames(calls, 0.1)] * 3, tmp_path)
    assert results == [[0, 1, 2, 3]] * 3
    assert calls == [1]
    assert "waiting for another process" in caplog.text
    assert files(tmp_path) == ["x.json", "x.npy"]


def test_when_the_first_builder_fails_the_next_one_takes_over(tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        for row, pair in enumerate(frames(pause=0.1)):
            if row == 3:
                raise DataError("b.png does not decode")
            yield pair

    results = at_once([broken, frames, frames], tmp_path)
    assert results == ["b.png does not decode", [0, 1, 2, 3], [0, 1, 2, 3]]
    assert files(tmp_path) == ["x.json", "x.npy"]


FULL = """
import resource, sys
from pathlib import Path
from fedbox.data.annotations_coco import read_coco
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
read_coco(sys.argv[1], size=64, cache=Path(sys.argv[2]))
"""


def test_a_full_disk_names_the_folder_and_the_bytes(coco: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", FULL, str(coco), str(tmp_path / "cache")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    told = f"fedbox.data.arrays.DataError: the cache {tmp_path / 'cache'} has no room for 2 images: 24,576 bytes are"
    assert told in done.stderr
    assert files(tmp_path / "cache") == []
    side = 32 * 2**20  # a picture of 3 PB, refused before anything is decoded
    with pytest.raises(DataError, match=r"has no room for 2 images: [\d,]{20,} bytes are needed, [\d,]+ are free"):
        read_coco(coco, size=side, cache=tmp_path / "cache")


def test_a_folder_that_cannot_be_written(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"the cache .*file cannot be written: .*; give another folder"):
        read_coco(coco, size=SIZE, cache=tmp_path / "file")


def test_more_than_the_memory_asks_for_a_cache(coco: Path) -> None:
    with pytest.raises(DataError, match=r"2 images need [\d,]+ bytes of memory, this machine has .* folder as cache"):
        read_coco(coco, size=32 * 2**20)


def mapped(root: Path) -> Any:
    """Read as a data set of somebody else's does, which knows no limit."""
    return read_coco(root, size=SIZE, cache=root / "cache")


def test_the_option_is_checked_and_a_limit_leaves_images_in_their_file(coco: Path, tmp_path: Path) -> None:
    few = load_dataset(f"{__name__}:mapped", coco, limit=1).train
    same(few, load_dataset("coco", coco, size=SIZE, limit=1).train)
    assert isinstance(few.images, Rows)
    text = load_dataset("coco", coco, size=SIZE, cache=str(coco / "cache"))
    same(text.train, read_coco(coco, size=SIZE).train)
    with pytest.raises(DataError, match="cache: got 5, input is not a valid path"):
        load_dataset("coco", coco, cache=5)


MEMORY = """
import json, sys
from pathlib import Path
import numpy as np, torch
from fedbox.data.boxes_data import BoxData
from fedbox.data.image_cache import cached_images
from fedbox.strategies.box_samples import BoxSamples

torch.set_num_threads(1)
shape = (1024, 3, 256, 256)

def frames():
    for row in range(shape[0]):
        yield np.full(shape[1:], row % 256, np.uint8), (256, 256)

def rss():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))

rows, _ = cached_images(Path(sys.argv[1]), "big", shape, frames)
boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (1024, 1))
whole = BoxData(rows, boxes, np.zeros(1024, np.int64), np.arange(1025))
constants = {"classes": ["car"], "mean": [0.5] * 3, "std": [0.5] * 3, "device": torch.device("cpu")}
start = rss()
samples = BoxSamples(whole.take(np.arange(1023, 23, -1)), **constants)
batch = samples.batch(torch.arange(0, 1000, 100))
lazy = rss() - start
held = whole.images[:]
print(json.dumps([lazy, rss() - start, batch.x.mean((1, 2, 3)).tolist()]))
"""


def test_a_batch_of_a_mapped_set_reads_only_its_own_rows(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to tell the memory of a process")
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    lazy, whole, means = json.loads(done.stdout)
    assert lazy < 60  # ten of a thousand images: 2 MB as bytes, 8 MB as floats
    assert whole > 190  # that the measure would see all of them
    np.testing.assert_allclose(means, [((1023 - 100 * row) % 256 / 255 - 0.5) / 0.5 for row in range(10)], atol=1e-5)
