"""YOLO's label files and data.yaml, written as its tools write them."""

import numpy as np
import pytest
from trees_for_tests import MOVED, SIZE, WIDTH, make_yolo, picture, write

from fedbox.data import DataError
from fedbox.data.annotations_yolo import read_yolo


def test_yolo_reads_polygons_lists_and_pictures_without_labels(tmp_path):
    make_yolo(tmp_path)
    picture(tmp_path / "images" / "train" / "rainy" / "empty.png")
    label = tmp_path / "labels" / "train" / "rainy" / "a.txt"
    write(label, "\n1 0.25 0.25 0.625 0.5 0.4 0.75\n0 0.5 0.5 0.1 0.1\n")
    data = read_yolo(tmp_path, size=SIZE)
    assert data.classes == ("person", "car")
    assert data.train.counts.tolist() == [2, 0]
    np.testing.assert_allclose(data.train.boxes[0], MOVED, atol=1e-4)
    write(tmp_path / "train.txt", "./images/train/rainy/a.png\n")
    write(tmp_path / "data.yaml", "train: train.txt\nval: ../images/val\nnames: [person, car]\n")
    assert read_yolo(tmp_path, size=SIZE).train.names.tolist() == ["images/train/rainy/a.png"]
    (tmp_path / "data.yaml").unlink()
    assert len(read_yolo(tmp_path, size=SIZE, names=("person", "car")).train) == 2
    assert read_yolo(tmp_path, size=SIZE, names=("person", "car"), classes=("car",)).train.box_labels.tolist() == [0]


def test_yolo_reads_the_other_layout(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / "a.jpg")
        write(tmp_path / part / "labels" / "a.txt", f"0 {35 / WIDTH} 0.5 {30 / WIDTH} 0.5\n")
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['car']\n")
    np.testing.assert_allclose(read_yolo(tmp_path, size=SIZE).test.boxes, [MOVED], atol=1e-5)


def test_yolo_places_count_from_the_path_of_data_yaml(tmp_path):
    """Ultralytics' own files lie beside the folder that their `path` names."""
    make_yolo(tmp_path / "coco8")
    (tmp_path / "coco8" / "data.yaml").unlink()
    head = "path: coco8\nnames: [person, car]\n"
    write(tmp_path / "data.yaml", f"{head}train: images/train\nval: images/val\n")
    assert read_yolo(tmp_path, size=SIZE).train.names.tolist() == ["coco8/images/train/rainy/a.png"]
    write(tmp_path / "coco8" / "train.txt", "./images/train/rainy/a.png\n")
    write(tmp_path / "data.yaml", f"{head}train: train.txt\nval: [images/val]\n")
    data = read_yolo(tmp_path, size=SIZE)
    assert data.train.names.tolist() == ["coco8/images/train/rainy/a.png"]
    np.testing.assert_allclose(data.train.boxes, [MOVED], atol=1e-4)


def test_yolo_key_points_are_not_taken_for_polygons(tmp_path):
    make_yolo(tmp_path)
    label = tmp_path / "labels" / "train" / "rainy" / "a.txt"
    write(label, f"{label.read_text().strip()} 0 0 0.9 0.9\n")
    config = (tmp_path / "data.yaml").read_text()
    write(tmp_path / "data.yaml", f"{config}kpt_shape: [2, 2]\n")
    np.testing.assert_allclose(read_yolo(tmp_path, size=SIZE).train.boxes, [MOVED], atol=1e-4)
    # Visibility, 2 where a point is seen, is no share of a side.
    write(label, f"{label.read_text().strip().removesuffix(' 0 0 0.9 0.9')} 0 0 0 0.9 0.9 2\n")
    write(tmp_path / "data.yaml", f"{config}kpt_shape: [2, 3]\n")
    np.testing.assert_allclose(read_yolo(tmp_path, size=SIZE).train.boxes, [MOVED], atol=1e-4)
    write(tmp_path / "data.yaml", f"{config}kpt_shape: 17\n")
    with pytest.raises(DataError, match=r"data.yaml: kpt_shape: 2 numbers are needed, got 17"):
        read_yolo(tmp_path, size=SIZE)


def test_yolo_boxes_may_reach_out_a_little(tmp_path):
    """By a hundredth, as Ultralytics takes them: converters round, and cameras crop."""
    make_yolo(tmp_path)
    label = tmp_path / "labels" / "train" / "rainy" / "a.txt"
    write(label, "1 .5 .5 1.01 1\n1 -.01 -.01 .5 1.01 .5 .5\n")
    assert read_yolo(tmp_path, size=SIZE).train.boxes.tolist() == [[0, 0, 64, 32], [0, 0, 32, 32]]
    write(label, "1 .5 .5 1.02 1\n")
    with pytest.raises(DataError, match=r"line 1: .* must be shares"):
        read_yolo(tmp_path, size=SIZE)


def test_yolo_names_the_yaml_files_that_there_are(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "coco8.yml")
    with pytest.raises(
        DataError, match=r"data.yaml does not exist; YAML files are coco8.yml; .* data.options.data, or"
    ):
        read_yolo(tmp_path)
    with pytest.raises(
        DataError, match=r"coco8.yml is no readable zip archive: .*; data.root is a folder with data.ya"
    ):
        read_yolo(tmp_path / "coco8.yml")


def test_yolo_tells_how_to_do_without_a_test_part(tmp_path):
    make_yolo(tmp_path)
    with pytest.raises(DataError, match=r"no part 'valid'; .*data.options.test, or data.options.test=null"):
        read_yolo(tmp_path, test="valid")
    with pytest.raises(DataError, match=r"images/valid, valid/images; .*, or data.options.test=null"):
        read_yolo(tmp_path, test="valid", names=("person", "car"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a.txt, line 2: unknown class '2'; classes are numbered 0..1"),
        ("car 0.5 0.5 0.1 0.1", r"line 2: unknown class 'car'"),
        ("1 0.5 0.5 0.1", r"line 2: a line is .*, got 4 values"),
        ("1 0.5 0.5 0.1 x", r"line 2: 4 numbers are needed"),
        ("1 35 20 30 20", r"line 2: .* must be shares of the picture's sides"),
        ("1 0.5 0.5 0 0.1", r"line 2: box .* has no area"),
    ],
)
def test_yolo_faults_name_file_and_line(tmp_path, line, message):
    make_yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "rainy" / "a.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_yolo(tmp_path)


def test_yolo_labels_of_other_pictures_are_recognised(tmp_path):
    make_yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "stranger.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"1 of 2 label files in .* have no picture in images/train: .*stranger.txt"):
        read_yolo(tmp_path)


def test_yolo_without_label_files_is_told(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "labels" / "val").rename(tmp_path / "labels" / "valid")
    with pytest.raises(DataError, match=r"no picture of part 'val' has a label file; looked for labels/val/rainy/b"):
        read_yolo(tmp_path)


@pytest.mark.parametrize("beside", [False, True], ids=["labels", "beside"])
def test_yolo_lists_are_checked_for_labels_of_other_pictures(tmp_path, beside):
    """A list may leave out pictures of its folder, though; and lists may lie beside label files."""
    base = "all" if beside else "images"
    folder = tmp_path / "all" if beside else tmp_path / "labels"
    for name in ("a", "b", "c"):
        picture(tmp_path / base / f"{name}.png")
        write(folder / f"{name}.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / base / "some.txt", f"{base}/a.png\n")
    write(tmp_path / base / "others.txt", f"\n{base}/z.png\n")
    write(tmp_path / "data.yaml", f"train: {base}/some.txt\nval: {base}/others.txt\nnames: [car]\n")
    with pytest.raises(DataError, match=r"1 of 2 pictures are not in .*others.txt, line 2: '.*/z.png'"):
        read_yolo(tmp_path)
    write(tmp_path / base / "others.txt", f"{base}/b.png\n")
    data = read_yolo(tmp_path, size=SIZE)
    assert (data.train.names.tolist(), data.test.names.tolist()) == ([f"{base}/a.png"], [f"{base}/b.png"])
    write(folder / "stranger.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"1 of 4 label files in .* have no picture in .*stranger.txt; are they those"):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: a, 2: b}\ntrain: images/train", "names must be a list of classes, or number each from 0"),
        ("names: [person, car]\ntrain: images/train", "data.yaml has no part 'val'; it has names, train"),
        ("names: [person, car]\ntrain: nowhere\nval: x", "nowhere holds no pictures"),
        ("names: [person\ntrain: x", r"data.yaml, line 2: no valid YAML"),
    ],
)
def test_a_wrong_data_yaml_is_explained(tmp_path, text, message):
    make_yolo(tmp_path)
    write(tmp_path / "data.yaml", text)
    with pytest.raises(DataError, match=message):
        read_yolo(tmp_path)


def test_yolo_classes_are_numbered_as_other_tools_write_numbers(tmp_path):
    make_yolo(tmp_path)
    write(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: {'0': person, '1': car}\n")
    write(tmp_path / "labels/train/rainy/a.txt", "1.0 .5 .5 .1 .1\n0.000e+00 .5 .5 .2 .2\n01 .5 .5 .1 .1\n")
    assert read_yolo(tmp_path, size=SIZE).train.box_labels.tolist() == [1, 0, 1]
    for odd in ("0.5", "nan", "inf"):
        write(tmp_path / "labels/train/rainy/a.txt", f"{odd} .5 .5 .1 .1\n")
        with pytest.raises(DataError, match=f"line 1: unknown class '{odd}'; classes are numbered 0..1"):
            read_yolo(tmp_path, size=SIZE)
