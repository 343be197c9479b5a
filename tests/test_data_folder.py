from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedbox.data import DataError, load_dataset


def picture(path: Path, value: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value,) * len(mode) if mode == "RGB" else value).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    for number in range(20):
        picture(tmp_path / "train" / "dog" / f"{number}.png", 10)
        picture(tmp_path / "train" / "cat" / f"{number}.PNG", 200)
    return tmp_path


def test_classes_are_sorted_and_pictures_are_height_by_width(root):
    data = load_dataset("image_folder", root, test_share=0)
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 4, 6)
    assert len(data.test) == 0
    for label, value in ((0, 200), (1, 10)):
        assert (data.train.images[data.train.labels == label] == value).all()


def test_named_classes_keep_their_labels_where_a_site_lacks_some(root):
    """A client without a bird: its labels are those of everybody else."""
    (root / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=r"bird holds no picture .* or name all classes in the option classes"):
        load_dataset("image_folder", root)
    picture(root / "test" / "emu" / "1.png", 99)
    data = load_dataset("image_folder", root, classes=["emu", "dog", "cat", "bird"])
    assert data.classes == ("emu", "dog", "cat", "bird")
    assert set(data.train.labels.tolist()) == {1, 2}
    assert data.test.labels.tolist() == [0]
    with pytest.raises(DataError, match=r"class folder .*cat is none of the option classes: dog, bird"):
        load_dataset("image_folder", root, classes=["dog", "bird"])


def test_grey_and_resized(root):
    picture(root / "train" / "dog" / "other.bmp", 10, size=(30, 10))
    data = load_dataset("image_folder", root, channels=1, size=[8, 5])
    assert data.shape == (1, 8, 5)
    assert set(np.unique(data.train.images)) == {10, 200}


def test_a_test_folder_is_read_as_such(root):
    picture(root / "test" / "dog" / "1.jpg", 77)
    data = load_dataset("image_folder", root)
    assert (len(data.train), len(data.test)) == (40, 1)
    assert data.test.labels.tolist() == [1]
    np.testing.assert_allclose(data.test.images, 77, atol=2)


def test_the_split_by_hash_never_moves_a_picture(tmp_path):
    def split(numbers: range) -> tuple[set[int], set[int]]:
        for number in numbers:
            picture(tmp_path / "train" / "a" / f"{number}.png", number)
        data = load_dataset("image_folder", tmp_path, test_share=0.3)
        return set(data.train.images[:, 0, 0, 0].tolist()), set(data.test.images[:, 0, 0, 0].tolist())

    train, test = split(range(100))
    more_train, more_test = split(range(100, 200))
    assert train < more_train
    assert test < more_test
    assert len(more_train) + len(more_test) == 200
    assert 40 <= len(more_test) <= 80


def test_domains_become_an_attribute(tmp_path):
    for number in range(10):
        picture(tmp_path / "night" / "car" / f"{number}.png", 20)
        picture(tmp_path / "day" / "car" / f"{number}.png", 220)
        picture(tmp_path / "day" / "van" / f"{number}.png", 220)
    data = load_dataset("image_folder", tmp_path, domains=True, test_share=0.2)
    assert data.classes == ("car", "van")
    for part in (data.train, data.test):
        np.testing.assert_array_equal(part.attributes["domain"] == "night", part.images[:, 0, 0, 0] == 20)
        assert {"day", "night"} == set(part.attributes["domain"].tolist())


def test_pictures_of_other_sizes_ask_for_size(root):
    picture(root / "train" / "dog" / "x.png", 1, size=(9, 9))
    with pytest.raises(DataError, match=r"is 4 x 6, .*x.png is 9 x 9 .*option size"):
        load_dataset("image_folder", root, test_share=0)


def test_what_is_no_picture_is_passed_over_or_named(root):
    (root / "train" / "dog" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / ".hidden").mkdir()
    assert len(load_dataset("image_folder", root, test_share=0).train) == 40
    (root / "train" / "dog" / "bad.jpg").write_bytes(b"no picture at all")
    with pytest.raises(DataError, match=r"bad.jpg does not decode"):
        load_dataset("image_folder", root)


def test_a_truncated_picture_is_named(root):
    path = root / "train" / "dog" / "0.png"
    Image.effect_noise((6, 4), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"0.png does not decode"):
        load_dataset("image_folder", root)


def test_pictures_of_16_bits_are_refused(root):
    Image.new("I;16", (6, 4), 40000).save(root / "train" / "dog" / "0.png")
    with pytest.raises(DataError, match=r"0.png has more than 8 bits"):
        load_dataset("image_folder", root)


def test_a_picture_lies_as_its_exif_says(tmp_path):
    turned = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "train" / "a").mkdir(parents=True)
    turned.save(tmp_path / "train" / "a" / "0.jpg", exif=exif)
    assert load_dataset("image_folder", tmp_path, test_share=0).shape == (3, 6, 4)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        ("", {}, "has no folder 'train'"),
        ("sunny/car", {}, "set domains: true"),
        ("train", {}, "holds no class folders"),
        ("train/dog", {}, r"class folder .*dog holds no picture"),
        ("", {"domains": True}, "holds no folders"),
        ("sunny", {"domains": True}, "sunny holds no class folders"),
    ],
)
def test_an_empty_layout_is_explained(tmp_path, make, options, message):
    (tmp_path / make).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match=message):
        load_dataset("image_folder", tmp_path, **options)


def test_a_test_class_without_train_pictures_is_named(root):
    picture(root / "test" / "emu" / "0.png", 1)
    with pytest.raises(DataError, match=r"has the class\(es\) emu that"):
        load_dataset("image_folder", root)
