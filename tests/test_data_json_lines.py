"""The line of a record in a JSON file, against files written so that the line is known."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees_for_tests import coco_file, make_bdd, make_coco, make_soda, write

from fedbox.data import DataError
from fedbox.data.annotations_coco import read_coco, read_soda10m
from fedbox.data.annotations_driving import read_bdd100k
from fedbox.data.json_lines import line_of, with_lines

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=6
)


@given(st.lists(VALUES, min_size=1, max_size=5), st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.data())
def test_with_one_element_a_line_the_line_is_known(elements: list[Any], before: dict[str, Any], data: Any) -> None:
    row = data.draw(st.integers(0, len(elements) - 1))
    before.pop("seek", None)
    head = "".join(f"  {json.dumps(key)} : {json.dumps(value)},\n" for key, value in before.items())
    listed = ",\n".join(json.dumps(value) for value in elements)
    text = f'{{\n{head}"seek": [\n{listed}\n]}}\n'
    assert json.loads(text)["seek"] == elements
    assert line_of(text, [("seek", row)]) == 3 + len(before) + row
    assert line_of(text, [("seek", len(elements))]) is None
    assert line_of(text, [("lost", 0)]) is None


def test_nested_records_and_bare_lists() -> None:
    text = '[\n {"labels": []},\n {"name": "b",\n  "labels": [1,\n   {"box": 2}]}\n]'
    assert line_of(text, [("frames", 1)]) == 3
    assert line_of(text, [("frames", 1), ("labels", 1)]) == 5
    assert line_of(text, [("frames", 0), ("labels", 0)]) is None
    assert line_of('"text"', [("frames", 0)]) is None
    assert with_lines("a.json: frames[1]: labels[1] is bad", "a.json", text) == (
        "a.json: frames[1]: labels[1], line 5 is bad"
    )
    assert with_lines("b.json: frames[1] is bad", "a.json", text) == "b.json: frames[1] is bad"
    assert with_lines("a.json: frames[1] is bad", "a.json", json.dumps(json.loads(text))) == "a.json: frames[1] is bad"


def test_coco_tells_the_lines_of_all_bad_boxes(tmp_path: Path) -> None:
    make_coco(tmp_path)
    content = coco_file(["a.png", "b.png"], [[20, 10, 0, 5], [200, 10, 5, 5]])
    text = json.dumps(content, indent=1)
    write(tmp_path / "annotations" / "train.json", text)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if '"image_id"' in line]
    with pytest.raises(DataError) as told:
        read_coco(tmp_path, size=64)
    for row, (line, word) in enumerate(zip(lines, ("no area", "outside"), strict=True)):
        # The record begins two lines above its second key.
        assert f"train.json: annotations[{row}], line {line - 2} (id {row + 1})" in str(told.value)
        assert word in str(told.value)


def test_the_other_json_formats_tell_lines_too(tmp_path: Path) -> None:
    make_bdd(tmp_path / "bdd")
    file = tmp_path / "bdd" / "labels" / "det_20" / "det_train.json"
    frames = json.loads(file.read_text())
    frames[1]["labels"][0]["category"] = "tractor"
    file.write_text(json.dumps(frames, indent=2))
    with pytest.raises(DataError, match=r"frames\[1\]: labels\[0\], line \d+ has the unknown category 'tractor'"):
        read_bdd100k(tmp_path / "bdd")
    make_soda(tmp_path / "soda")
    file = tmp_path / "soda" / "SSLAD-2D" / "labeled" / "annotations" / "instance_train.json"
    content = json.loads(file.read_text())
    del content["annotations"][0]["bbox"]
    file.write_text(json.dumps(content, indent=2))
    with pytest.raises(DataError, match=r"annotations\[0\], line \d+ lacks 'bbox'"):
        read_soda10m(tmp_path / "soda")
