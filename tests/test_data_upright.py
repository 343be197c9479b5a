"""Pictures that were taken sideways: boxes lie on what they mark, however the EXIF data turn the picture."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from trees_for_tests import BOX, HEIGHT, WIDTH, coco_file, make_coco, make_soda, make_yolo, write

from fedbox.data import DataError
from fedbox.data.annotations_coco import read_coco, read_soda10m
from fedbox.data.annotations_yolo import read_yolo
from fedbox.data.pictures import opened


def turned_picture(path: Path, orientation: int) -> None:
    """Write the usual picture, of WIDTH x HEIGHT as stored and with BOX in white, with an EXIF orientation."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif.tobytes())


def bright(image: np.ndarray) -> list[int]:
    """Return the corners x1, y1, x2, y2 of what is white."""
    rows, columns = np.nonzero(image.mean(0) > 200)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize("claims", [True, False])
@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
def test_boxes_belong_to_the_pixels_as_stored(tmp_path: Path, orientation: int, claims: bool) -> None:
    make_coco(tmp_path)
    turned_picture(tmp_path / "images" / "a.png", orientation)
    content = coco_file(["a.png"])
    if not claims:
        del content["images"][0]["width"], content["images"][0]["height"]
    write(tmp_path / "annotations" / "train.json", content)
    data = read_coco(tmp_path, size=96)
    np.testing.assert_allclose(data.train.boxes, [bright(data.train.images[0])], atol=1)
    np.testing.assert_allclose(data.train.boxes, [[24, 36, 60, 60]], atol=1e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_a_claimed_size_tells_a_turned_picture(tmp_path: Path, cached: bool) -> None:
    """Of images in the cache, too: the one who claims the stored size and the one who claims the other share none."""
    make_coco(tmp_path)
    cache = tmp_path / "cache" if cached else None
    turned_picture(tmp_path / "images" / "a.png", 6)
    path = tmp_path / "annotations" / "train.json"
    write(path, coco_file(["a.png"]))
    assert read_coco(tmp_path, size=96, cache=cache).train.boxes.tolist() == [[24, 36, 60, 60]]
    # Turned clockwise, (x, y) is at (HEIGHT - y, x).
    x1, y1, x2, y2 = BOX
    content = coco_file(["a.png"], [[HEIGHT - y2, x1, y2 - y1, x2 - x1]])
    content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    write(path, content)
    data = read_coco(tmp_path, size=96, cache=cache)
    np.testing.assert_allclose(data.train.boxes, [bright(np.asarray(data.train.images[np.arange(1)])[0])], atol=1)
    assert data.train.boxes.tolist() == [[36, 24, 60, 60]]
    content["images"][0] |= {"width": HEIGHT, "height": WIDTH + 1}
    write(path, content)
    with pytest.raises(DataError, match=r"a.png is 80 x 40 \(width x height\) but the annotations say 40 x 81"):
        read_coco(tmp_path, size=96, cache=cache)


def test_pictures_without_annotations_are_turned(tmp_path: Path) -> None:
    make_soda(tmp_path / "soda")
    turned_picture(tmp_path / "soda" / "bare" / "u.png", 6)
    image = read_soda10m(tmp_path / "soda", size=96, unlabelled="bare").train.images[1]
    assert bright(image) == [36, 24, 60, 60]
    make_yolo(tmp_path / "yolo")
    folder = tmp_path / "yolo" / "images" / "train" / "rainy"
    turned_picture(folder / "a.png", 6)
    turned_picture(folder / "bare.png", 6)
    marked, bare = read_yolo(tmp_path / "yolo", size=96).train.images
    assert (bright(marked), bright(bare)) == ([24, 36, 60, 60], [36, 24, 60, 60])


def test_odd_exif_data_do_not_matter(tmp_path: Path) -> None:
    """A text where a number belongs, as some cameras write: Pillow's own turning fails on it."""
    entries = struct.pack(">HHI4s", ExifTags.Base.ImageWidth, 2, 3, b"ab\0\0")
    entries += struct.pack(">HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + entries + bytes(4)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    path = tmp_path / "a.jpg"
    image.save(path, exif=exif)
    with Image.open(path) as stored, pytest.raises(struct.error):
        ImageOps.exif_transpose(stored)
    assert opened(path.read_bytes(), "a.jpg", 3).size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(9))
def test_pictures_are_turned_as_pillow_turns_them(tmp_path: Path, orientation: int) -> None:
    turned_picture(tmp_path / "a.png", orientation)
    with Image.open(tmp_path / "a.png") as stored:
        wanted = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(np.asarray(opened((tmp_path / "a.png").read_bytes(), "a", 3)), wanted)
