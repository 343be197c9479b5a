import numpy as np
import pytest

from fedbox.data import DataError, DataSet, ImageData


def images(count: int = 3, channels: int = 1) -> np.ndarray:
    return np.arange(count * channels * 4, dtype=np.uint8).reshape(count, channels, 2, 2)


def data(labels: list[int], channels: int = 1, **attributes: list[str]) -> ImageData:
    named = {name: np.array(values) for name, values in attributes.items()}
    return ImageData(images(len(labels), channels), np.array(labels, np.int64), named)


def test_take_keeps_the_order_asked_for_and_carries_attributes():
    taken = data([0, 1, 2], town=["a", "b", "c"]).take(np.array([2, 0]))
    assert taken.labels.tolist() == [2, 0]
    assert taken.attributes["town"].tolist() == ["c", "a"]
    assert taken.images[:, 0, 0, 0].tolist() == [8, 0]
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("pixels", "labels", "attributes", "message"),
    [
        (images().astype(np.float32), np.zeros(3, np.int64), {}, "uint8 array with 4 axes, got float32"),
        (images()[0], np.zeros(3, np.int64), {}, r"4 axes, got uint8 with shape \(1, 2, 2\)"),
        (images(), np.zeros(3, np.int32), {}, "int64 array with 1 axes, got int32"),
        (images(), [0, 0, 0], {}, "got list"),
        (images(), np.zeros(2, np.int64), {}, "3 images but 2 labels"),
        (images(), np.array([0, 1, -1]), {}, "label -1 of image 2 is negative"),
        (images(), np.zeros(3, np.int64), {"town": np.array(["a"])}, r"attribute 'town' has shape \(1,\)"),
    ],
)
def test_image_data_names_what_does_not_fit(pixels, labels, attributes, message):
    with pytest.raises(DataError, match=message):
        ImageData(pixels, labels, attributes)


def test_data_set_knows_its_shape():
    assert DataSet("x", data([0], 3), data([1], 3), ("a", "b"), (0.5,) * 3, (0.5,) * 3).shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("train", "test", "classes", "mean", "std", "message"),
    [
        (data([0]), data([0], 3), ("a",), (0.5,), (0.5,), "both must agree"),
        (data([0]), data([0, 5]), ("a", "b"), (0.5,), (0.5,), "label 5 of test image 1 is out of range.*0..1"),
        (data([0]), data([0]), ("a", "a"), (0.5,), (0.5,), "class names must differ"),
        (data([0]), data([0]), ("a",), (0.5, 0.5), (0.5,), "each of 1 channel"),
        (data([0]), data([0]), ("a",), (0.5,), (0.0,), "above 0"),
        (data([0]), data([0]), ("a",), (128.0,), (1.0,), "must lie in 0..1"),
    ],
)
def test_data_set_names_what_does_not_fit(train, test, classes, mean, std, message):
    with pytest.raises(DataError, match=message):
        DataSet("x", train, test, classes, mean, std)


def test_the_error_is_a_value_error_with_exit_code_3():
    assert issubclass(DataError, ValueError)
    assert DataError.exit_code == 3
