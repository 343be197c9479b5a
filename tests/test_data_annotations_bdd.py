"""BDD100K's labels with a file for each picture, as the archive of 2018 has them beside the lists of all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees_for_tests import BOX, MOVED, SIZE, make_bdd, picture, write, zipped_tree

from fedbox.data import DataError
from fedbox.data.annotations_driving import read_bdd100k


def _alone(root: Path, part: str, name: str, weather: str | None, objects: Any) -> Path:
    """Write one picture and its file, whose name has no ending inside."""
    picture(root / "images" / "100k" / part / f"{name}.jpg")
    where = None if weather is None else {"weather": weather, "scene": "highway", "timeofday": "night"}
    path = root / "labels" / "100k" / part / f"{name}.json"
    write(path, {"name": name, "attributes": where, "frames": [{"timestamp": 10000, "objects": objects}]})
    return path


def _objects() -> list[dict[str, Any]]:
    box = dict(zip(("x1", "y1", "x2", "y2"), BOX, strict=True))
    return [
        {"category": "car", "id": 0, "attributes": {"occluded": False}, "box2d": box},
        {"category": "area/drivable", "id": 1, "attributes": {}, "poly2d": [[1, 2, "L"], [3, 4, "C"]]},
    ]


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("place", ["", "bdd100k/"])
def test_a_file_for_each_picture_is_read(tmp_path: Path, place: str, zipped: bool) -> None:
    root = tmp_path / "data"
    for part in ("train", "val"):
        _alone(root / place, part, "0000f77c-6257be58", "partly cloudy", _objects())
        _alone(root / place, part, "0000f77c-62c2a288", "rainy", None)
    data = read_bdd100k(zipped_tree(root) if zipped else root, size=SIZE)
    names = [f"images/100k/train/{name}.jpg" for name in ("0000f77c-6257be58", "0000f77c-62c2a288")]
    assert data.train.names is not None
    assert [name.removeprefix(place) for name in data.train.names.tolist()] == names
    assert data.train.counts.tolist() == [1, 0]
    np.testing.assert_allclose(data.train.boxes, [MOVED], atol=1e-5)
    assert data.classes[data.train.box_labels[0]] == "car"
    assert data.train.attributes["weather"].tolist() == ["cloudy", "rainy"]
    assert len(read_bdd100k(root, size=SIZE, weathers=("rainy",)).test) == 1


def test_the_list_of_all_goes_first(tmp_path: Path) -> None:
    make_bdd(tmp_path)
    for part in ("train", "val"):
        _alone(tmp_path, part, "other", "rainy", _objects())
    assert len(read_bdd100k(tmp_path, size=SIZE).train) == 2


def test_faults_name_the_file_and_its_line(tmp_path: Path) -> None:
    for part in ("train", "val"):
        path = _alone(tmp_path, part, "a", None, _objects())
    content = json.loads(path.read_text())
    content["frames"][0]["objects"][0]["category"] = "tractor"
    write(path, json.dumps(content, indent=1))
    with pytest.raises(DataError, match=r"val/a.json: frames\[0\]: objects\[0\], line 8 has the unknown category 'tra"):
        read_bdd100k(tmp_path)
    write(path, {**content, "frames": []})
    with pytest.raises(DataError, match=r"val/a.json must hold one frame, as it is of one picture; got 0"):
        read_bdd100k(tmp_path)
    with pytest.raises(
        DataError, match=r"labels/100k/train/ has no picture with weather rainy; it has no weather at all"
    ):
        read_bdd100k(tmp_path, weathers=("rainy",))
