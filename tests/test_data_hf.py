import io
import socket
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedbox.data import DataError, load_dataset
from fedbox.data.hub import as_splits

FEATURES = datasets.Features(
    {
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=["cat", "dog", "emu"]),
        "weather": datasets.Value("string"),
    }
)


def png(value: int, size: tuple[int, int] = (5, 4), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, start: int = 0) -> dict[str, list[object]]:
    numbers = range(start, start + count)
    return {
        "picture": [{"bytes": png(number), "path": None} for number in numbers],
        "kind": [number % 3 for number in numbers],
        "weather": ["rain" if number % 2 else "sun" for number in numbers],
    }


def save(path: Path, content: dict[str, list[object]], features: datasets.Features | None = FEATURES) -> None:
    """Write what the hub serves: parquet with the features of `datasets` in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(content, features=features).to_parquet(path)


def raw(path: Path, **columns: list[object]) -> Path:
    """Write parquet as other tools do, without that metadata."""
    pq.write_table(pa.table(columns), path)
    return path


def test_a_folder_in_the_hub_layout(tmp_path):
    save(tmp_path / "data" / "train-00000-of-00002.parquet", rows(6))
    save(tmp_path / "data" / "train-00001-of-00002.parquet", rows(4, start=6))
    save(tmp_path / "data" / "validation-00000-of-00001.parquet", rows(3, start=20))
    data = load_dataset("hf", tmp_path, attributes=["weather"])
    assert data.shape == (1, 4, 5)
    assert data.classes == ("cat", "dog", "emu")
    assert data.train.images[:, 0, 0, 0].tolist() == list(range(10))
    assert data.train.labels.tolist() == [number % 3 for number in range(10)]
    assert data.test.images[:, 0, 0, 0].tolist() == [20, 21, 22]
    assert data.test.attributes["weather"].tolist() == ["sun", "rain", "sun"]


def test_a_single_file_is_split_with_every_class_in_proportion(tmp_path):
    save(tmp_path / "all.parquet", rows(60))
    data = load_dataset("hf", tmp_path / "all.parquet", test_share=0.2)
    assert np.bincount(data.test.labels).tolist() == [4, 4, 4]
    both = np.concatenate([data.train.images[:, 0, 0, 0], data.test.images[:, 0, 0, 0]])
    assert sorted(both.tolist()) == list(range(60))


def test_parquet_of_other_tools_with_text_labels_and_plain_bytes(tmp_path):
    path = raw(
        tmp_path / "x.parquet",
        shot=[png(value, mode="RGB") for value in range(4)],
        label=["b", "a", "c", "a"],
        town=[3, 1, 1, 2],
    )
    data = load_dataset("hf", path, test_share=0, attributes=["town"])
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [1, 0, 2, 0]
    assert data.train.attributes["town"].tolist() == [3, 1, 1, 2]
    assert data.shape == (3, 4, 5)


def test_pictures_kept_as_files_beside_the_table(tmp_path):
    (tmp_path / "1.png").write_bytes(png(9))
    cells = [{"bytes": None, "path": str(tmp_path / "1.png")}]
    data = load_dataset("hf", raw(tmp_path / "x.parquet", image=cells, label=[7]), test_share=0)
    assert data.train.images.max() == 9
    assert data.classes == ("7",)


def test_size_and_channels(tmp_path):
    path = raw(tmp_path / "x.parquet", image=[png(9), png(9, size=(8, 8))], label=[0, 1])
    with pytest.raises(DataError, match="give the option size"):
        load_dataset("hf", path, test_share=0)
    assert load_dataset("hf", path, size=6, channels=3, test_share=0).shape == (3, 6, 6)


def test_columns_can_be_named(tmp_path):
    path = raw(tmp_path / "x.parquet", a=[png(1)], b=[png(2)], good=[0], bad=[1])
    with pytest.raises(DataError, match="image_column may be any of a, b"):
        load_dataset("hf", path)
    with pytest.raises(DataError, match=r"label_column was not found.*a, b, good, bad"):
        load_dataset("hf", path, image_column="b")
    data = load_dataset("hf", path, image_column="b", label_column="good", test_share=0)
    assert data.train.images.max() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "trian"}, r"no split 'trian' \(did you mean 'train'\?\); it has test, train"),
        ({"test_split": "dev"}, "no split 'dev'"),
        ({"test_split": "train"}, "'train', the train split; leave it out"),
        ({"image_column": "image"}, r"no column 'image'; it has picture, kind, weather"),
        ({"label_column": "kidn"}, "did you mean 'kind'"),
        ({"attributes": ["wether"]}, "did you mean 'weather'"),
        ({"image_column": "weather"}, "holds .*string.*, not pictures"),
        ({"label_column": "picture"}, "labels are integers or texts"),
    ],
)
def test_wrong_names_are_explained(tmp_path, options, message):
    save(tmp_path / "train.parquet", rows(3))
    save(tmp_path / "test.parquet", rows(3))
    with pytest.raises(DataError, match=message):
        load_dataset("hf", tmp_path, **options)


def test_rows_without_label_or_picture_are_named(tmp_path):
    path = raw(tmp_path / "x.parquet", image=[png(1), png(2)], label=[0, -1])
    with pytest.raises(DataError, match=r"row 1: column 'label' holds no label \(-1\)"):
        load_dataset("hf", path)
    path = raw(tmp_path / "x.parquet", image=[png(1), None], label=[0, 1])
    with pytest.raises(DataError, match=r"row 1, column 'image': there is no picture"):
        load_dataset("hf", path)
    path = raw(tmp_path / "x.parquet", image=[png(1), b"junk"], label=[0, 1])
    with pytest.raises(DataError, match=r"row 1, column 'image' does not decode"):
        load_dataset("hf", path)


def test_files_that_are_missing_damaged_or_at_odds_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing.parquet' does not exist"):
        load_dataset("hf", tmp_path / "nothing.parquet")
    with pytest.raises(DataError, match=r"holds no \.parquet files"):
        load_dataset("hf", tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"train.parquet is no readable parquet file"):
        load_dataset("hf", tmp_path)
    raw(tmp_path / "train-0.parquet", image=[png(1)], label=[0])
    raw(tmp_path / "train.parquet", image=[png(1)], label=["x"])
    with pytest.raises(DataError, match="differ in their columns"):
        load_dataset("hf", tmp_path)
    with pytest.raises(DataError, match="needs root"):
        load_dataset("hf")


def test_what_datasets_loads_is_taken_in_its_order():
    """The hub's answer is a DatasetDict; shuffled rows keep their order in an index of its own."""
    whole = datasets.Dataset.from_dict(rows(9), features=FEATURES)
    split = as_splits(datasets.DatasetDict({"train": whole.shuffle(seed=1)}))["train"]
    assert split.column("kind") == whole.shuffle(seed=1)["kind"][:]
    assert split.column("kind") != whole["kind"][:]
    assert split.column("picture")[0]["bytes"].startswith(b"\x89PNG")


def test_an_unreachable_hub_is_said_soon(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"'nobody/nothing-at-all' cannot be had.*give a local parquet"):
        load_dataset("hf", "nobody/nothing-at-all")
    assert time.monotonic() - start < 20


def test_a_machine_without_network_is_told_soon(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    start = time.monotonic()
    with pytest.raises(DataError, match="HF_HUB_OFFLINE=1"):
        load_dataset("hf", "nobody/nothing-at-all")
    assert time.monotonic() - start < 20
