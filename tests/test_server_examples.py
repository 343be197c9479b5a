"""Example pictures in the report: what is counted, what is shown, what is refused."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_for_tests import Tags, add_examples, example, jpeg, make_detection_run, make_run, page

from fedbox.server.examples import Box, found, read_examples
from fedbox.server.report import write_report

PHASES = ["server", "full"]


def _run(folder: Path, *entries: dict[str, Any], **more: Any) -> Path:
    return add_examples(make_detection_run(folder, PHASES, **more), *entries)


def _box(x: float, y: float, side: float, name: str = "car", score: float = 1.0) -> Box:
    return Box(x, y, x + side, y + side, name, score)


def test_iou_and_found_by_hand() -> None:
    assert _box(0, 0, 2).iou(_box(1, 1, 2)) == 1 / 7
    assert _box(0, 0, 2).iou(_box(2, 0, 2)) == 0
    truth = [_box(0, 0, 10), _box(2, 0, 10), _box(50, 50, 10, "bus")]
    assert found(truth, []) == 0
    assert found(truth, [_box(1, 0, 10)] * 3) == 2  # IoU 9 / 11 with both cars; a third finds none
    assert found(truth, [_box(50, 50, 10, "car")]) == 0  # the wrong class
    assert found(truth, [_box(50, 55, 10, "bus")]) == 0  # IoU 1 / 3
    # The better detection comes first and takes the car at 0, so nothing is left for the other, which misses that at 4.
    assert found([_box(0, 0, 10), _box(4, 0, 10)], [_box(-1, 0, 10, score=0.5), _box(1, 0, 10, score=0.9)]) == 1


coordinates = st.floats(0, 50)
boxes = st.builds(_box, coordinates, coordinates, st.floats(1, 40), st.sampled_from(["car", "bus"]), st.floats(0, 1))


@given(st.lists(boxes, max_size=6), st.lists(boxes, max_size=6), st.randoms())
def test_found_is_bounded_and_needs_no_order(truth: list[Box], detected: list[Box], random: Any) -> None:
    count = found(truth, detected)
    assert 0 <= count <= min(len(truth), len(detected))
    assert found(truth, truth) == len(truth)
    shuffled = list({box.score: box for box in detected}.values())
    expected = found(truth, shuffled)
    random.shuffle(shuffled)
    assert found(truth, shuffled) == expected


def test_a_picture_is_shown_with_its_boxes_and_a_text_that_counts(tmp_path: Path) -> None:
    text = page([_run(tmp_path / "r")], tmp_path)
    tags = Tags(text)
    assert not tags.open
    counts = "3 true boxes; 2 found by the global model (1 false), 1 by the teacher, 0 by the student (1 false)"
    (picture,) = [attrs for tag, attrs in tags.seen if tag == "svg" and attrs.get("class") == "picture"]
    assert picture["aria-label"] == f"rainy 1: {counts}"
    assert f"<figcaption>{counts}</figcaption>" in text
    (image,) = [attrs for tag, attrs in tags.seen if tag == "image"]
    assert base64.b64decode((image["href"] or "").removeprefix("data:image/jpeg;base64,")) == jpeg()
    for kind, titles in {
        "truth": ["bus, truth", "car, truth", "car, truth"],
        "model": ["car 0.40, global model", "bus 0.90, global model", "car 0.80, global model"],  # the largest first
        "teacher": ["bus 1.00, teacher"],
        "student": ["car 0.50, student"],
    }.items():
        group = re.search(rf'<g class="b b-{kind}">.*?</g>', text, re.DOTALL)
        assert group
        assert re.findall(r"<title>(.*?)</title>", group[0]) == titles
    assert "teacher and student of client-1" in text
    assert ["truth", "car", "1.0000", "30.0", "4.0", "40.0", "24.0"] in [
        re.findall(r">([^<>]+)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", text)
    ]


def test_each_kind_has_a_box_to_hide_it_and_a_line_of_its_own(tmp_path: Path) -> None:
    text = page([_run(tmp_path / "r")], tmp_path)
    ids = [attrs.get("id") for tag, attrs in Tags(text).seen if tag == "input"]
    assert ids == ["box-truth", "box-model", "box-teacher", "box-student"]
    looks = dict(re.findall(r"\.b-(\w+) \{ stroke: ([^}]*)\}", text))
    assert len(set(looks.values())) == 4
    dashes = [re.search(r"stroke-dasharray: ([\d ]+)", look) for look in looks.values()]
    assert len({dash[1] if dash else "" for dash in dashes}) == 4  # not by colour alone
    for kind in looks:
        assert f"#box-{kind}:not(:checked)) .b.b-{kind} {{ display: none; }}" in text
    alone = example(boxes={"truth": [], "model": []}, client=None, domain=None)
    text = page([_run(tmp_path / "s", alone)], tmp_path)
    assert [attrs.get("id") for tag, attrs in Tags(text).seen if tag == "input"] == ["box-truth", "box-model"]
    assert "picture 1: 0 true boxes; 0 found by the global model" in text
    assert "<h3>Test images</h3>" in text


def test_the_same_folders_give_the_same_bytes_and_nothing_is_fetched(tmp_path: Path) -> None:
    run = _run(tmp_path / "r")
    first = write_report([run], tmp_path / "a.html").read_bytes()
    assert first == write_report([run], tmp_path / "b.html").read_bytes()
    for _, attrs in Tags(first.decode()).seen:
        for key in ("src", "href", "xlink:href"):
            value = attrs.get(key) or ""
            assert value.startswith(("#", "data:")) or not value


def test_several_runs_are_folded_under_their_labels(tmp_path: Path) -> None:
    runs = [_run(tmp_path / f"r{i}", strategy=name) for i, name in enumerate(("fedsto", "fedavg"))]
    runs += [make_run(tmp_path / "none", [0.5], strategy="local")]
    text = page(runs, tmp_path)
    tags = Tags(text)
    assert not tags.open
    folds = [attrs for tag, attrs in tags.seen if tag == "details" and "run" in (attrs.get("class") or "").split()]
    assert [("open" in attrs, attrs["class"]) for attrs in folds] == [(True, "card run g0"), (False, "card run g1")]
    assert "<summary>fedsto: 1 picture<" in text
    names = [attrs.get("aria-label") for tag, attrs in tags.seen if attrs.get("class") == "picture"]
    assert [str(name).partition(":")[0] for name in names] == ["fedsto, rainy 1", "fedavg, rainy 1"]
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_report_without_pictures_has_no_such_section(tmp_path: Path) -> None:
    text = page([make_detection_run(tmp_path / "r", PHASES)], tmp_path)
    assert "Examples" not in text
    assert "examples.json" not in text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a$x$&amp;]]>", "\x1b\x00"]
)
def test_names_are_escaped(tmp_path: Path, name: str) -> None:
    entry = example(domain=name, classes=[name, name], client=name)
    tags = Tags(page([_run(tmp_path / "r", entry)], tmp_path))
    assert not tags.open
    assert [attrs for tag, attrs in tags.seen if attrs.get("class") == "picture"]
    assert not {"script", "img"} & {tag for tag, _ in tags.seen}
    assert not [key for _, attrs in tags.seen for key in attrs if key.startswith("on")]


@pytest.mark.parametrize(
    "text", [None, "", "[", "[]", "null", '{"version": 1}', '{"version": 1, "examples": 3}', "[" * 99999]
)
def test_a_list_that_cannot_be_read_is_noted(tmp_path: Path, text: str | None) -> None:
    listed = add_examples(tmp_path) / "examples" / "examples.json"
    listed.unlink()
    if text is not None:
        listed.write_text(text)
    notes: list[str] = []
    assert read_examples(tmp_path, notes) == ()
    assert notes == ["examples/examples.json is absent or unreadable: no pictures"]


def test_a_later_version_is_noted(tmp_path: Path) -> None:
    (add_examples(tmp_path) / "examples" / "examples.json").write_text('{"version": 2, "examples": []}')
    notes: list[str] = []
    assert read_examples(tmp_path, notes) == ()
    assert notes == ["examples/examples.json has version 2; this report reads version 1"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "01.jpg"}, "examples/01.jpg cannot be shown: the picture is absent"),
        ({"image": "../../secret.jpg"}, "not the name of a file in the folder"),
        ({"image": ".."}, "the picture is absent"),
        ({"image": "link.jpg"}, "the picture is absent"),
        ({"image": 3}, "not the name of a file in the folder"),
        ({"width": 65}, "the picture is 64 x 32 pixels"),
        ({"width": 0}, "0 is not a whole number from 1 to 4096"),
        ({"height": 1e400}, "inf is not a whole number"),
        ({"boxes": {"truth": [[0, 0, 65, 10, 0, 1]]}}, "not in the picture"),
        ({"boxes": {"truth": [[5, 0, 5, 10, 0, 1]]}}, "not in the picture"),
        ({"boxes": {"truth": [[0, 0, float("nan"), 10, 0, 1]]}}, "not in the picture"),
        ({"boxes": {"model": [[0, 0, 5, 10, 0, 7]]}}, "wrong score"),
        ({"boxes": {"model": [[0, 0, 5, 10, 2, 0.5]]}}, "the label 2; there are 2 classes"),
        ({"boxes": {"model": [[0, 0, 5]]}}, "cannot be shown"),
        ({"boxes": {"model": "xxxxxx"}}, "cannot be shown"),
        ({"boxes": 3}, "cannot be shown"),
        ({"classes": None}, "cannot be shown"),
    ],
)
def test_a_broken_entry_is_noted_and_the_others_are_read(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    notes: list[str] = []
    run = add_examples(tmp_path, example(**changes), example())
    (run / "examples" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    assert len(read_examples(run, notes)) == 1
    assert len(notes) == 1
    assert reason in notes[0]


def test_notes_stand_on_the_page_beside_the_pictures_that_are_whole(tmp_path: Path) -> None:
    text = page([_run(tmp_path / "r", example(image="01.jpg"), example())], tmp_path)
    assert "examples/01.jpg cannot be shown: the picture is absent" in text
    assert text.count('class="picture"') == 1


@pytest.mark.parametrize("data", [b"", b"<svg onload='alert(1)'/>", jpeg()[:300], b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_a_broken_picture_is_noted(tmp_path: Path, data: bytes) -> None:
    run = add_examples(tmp_path, example(), example(), example())
    (run / "examples" / "00.jpg").write_bytes(data)
    notes: list[str] = []
    assert read_examples(run, notes) == ()
    (note,) = notes
    assert note.startswith("examples/00.jpg cannot be shown: ")
    assert note.endswith("; nor can 2 more")


def test_an_entry_that_is_no_mapping_is_noted(tmp_path: Path) -> None:
    run = add_examples(tmp_path)
    (run / "examples" / "examples.json").write_text(json.dumps({"version": 1, "examples": [3, None, example()]}))
    notes: list[str] = []
    assert len(read_examples(run, notes)) == 1
    assert notes[0].startswith("examples/3 cannot be shown")
