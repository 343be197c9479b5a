import contextlib
import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedbox.strategies import Ask, Update
from fedbox.strategies.base import (
    WireError,
    content_size,
    from_array,
    read_task,
    read_update,
    task_content,
    to_array,
    to_record,
    update_content,
)

KINDS = st.sampled_from(["f4", "f8", "f2", "i8", "i4", "u1", "?"])
ARRAYS = KINDS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))


@given(ARRAYS)
def test_arrays_are_what_numpy_save_writes(value: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, value)
    array = to_array(value)
    assert array.data == buffer.getvalue()
    back = from_array(array)
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert back.tobytes() == value.tobytes()
    assert not back.flags.writeable


@given(ARRAYS)
@settings(max_examples=40)
def test_flowers_own_arrays_can_be_read(value: np.ndarray) -> None:
    assert from_array(Array(value)).tobytes() == value.tobytes()
    assert to_array(value).numpy().tobytes() == value.tobytes()


def test_fortran_order_is_kept_apart() -> None:
    value = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert (from_array(Array(value)) == value).all()
    assert (from_array(to_array(value)) == value).all()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_but_never_crash(data: bytes) -> None:
    with contextlib.suppress(WireError):
        from_array(Array("float32", (1,), "numpy.ndarray", data))


def test_pickled_objects_are_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(WireError, match="do not travel"):
        from_array(Array("object", (1,), "numpy.ndarray", buffer.getvalue()))
    with pytest.raises(WireError, match="object"):
        to_array(np.array([{}], dtype=object))


@given(
    st.dictionaries(st.text("abcdef./", min_size=1, max_size=200), ARRAYS, max_size=5),
    st.floats(allow_nan=False),
)
@settings(max_examples=60)
def test_the_size_is_what_flower_serialises(arrays: dict[str, np.ndarray], number: float) -> None:
    content = RecordDict(
        {
            "arrays": to_record(arrays),
            "metrics": MetricRecord({"loss": number, "num-examples": 3}),
            "task": ConfigRecord({"round": 7, "phase": "train"}),
        }
    )
    assert content_size(content) == recorddict_to_proto(content).ByteSize()


def test_a_large_array_is_sized_without_being_serialised_again() -> None:
    arrays = {"w": np.zeros(300_000, np.float32)}
    record = RecordDict({"arrays": to_record(arrays)})
    assert content_size(record) == recorddict_to_proto(record).ByteSize()
    assert 1_200_000 < content_size(record) < 1_200_000 * 1.001


def test_a_task_comes_back() -> None:
    ask = Ask({"w": np.ones(3, np.float32)}, "warm-up", {"steps": 3, "rate": 0.5, "name": "x", "on": True})
    content = task_content(ask, 4, to_record(ask.arrays), {"mine": np.zeros(2, np.float32)})
    round_, phase, values, received = read_task(content)
    assert (round_, phase, values) == (4, "warm-up", {"steps": 3, "rate": 0.5, "name": "x", "on": True})
    assert sorted(received) == ["mine", "w"]


def test_an_update_comes_back() -> None:
    update = Update({"w": np.ones((2, 2), np.float32)}, 7, {"train_loss": 0.5}, {"p": np.zeros(1, np.float32)})
    back = read_update(update_content(update))
    assert (back.examples, back.metrics) == (7, {"train_loss": 0.5})
    assert (back.weights["w"] == 1).all()
    assert list(back.extra) == ["p"]


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"arrays": ArrayRecord()})])
def test_a_reply_that_lacks_something_is_told(content: RecordDict) -> None:
    with pytest.raises(WireError, match="lacks"):
        read_update(content)
    with pytest.raises(WireError, match="lacks"):
        read_task(content)


@pytest.mark.parametrize(
    "header", ["{'descr': (", "(" * 9000, "-" * 9000 + "1", "1" + "+1j" * 3000, "\0", "{[]: 1}", "9" * 9900]
)
def test_headers_that_upset_pythons_parser_are_refused(header: str) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    content = RecordDict({"arrays": ArrayRecord(), "metrics": MetricRecord({"num-examples": 3})})
    content.array_records["arrays"]["w"] = Array("float32", (1,), "numpy.ndarray", data)
    with pytest.raises(WireError, match=r"bytes is not in \.npy format: ."):
        read_update(content)


@pytest.mark.parametrize("count", [float("inf"), float("nan"), 1e300, 0.5, [1, 2]])
def test_examples_that_are_no_whole_number_are_refused(count: float | list[int]) -> None:
    content = RecordDict({"arrays": ArrayRecord(), "metrics": MetricRecord({"num-examples": count})})
    with pytest.raises(WireError, match=r"num-examples is .*; wanted: a whole number below 2\*\*63"):
        read_update(content)


def test_examples_may_come_as_a_float_and_metrics_may_not_be_lists() -> None:
    metrics = MetricRecord({"num-examples": 3.0, "loss": 2})
    assert read_update(RecordDict({"arrays": ArrayRecord(), "metrics": metrics})).examples == 3
    metrics["loss"] = [1.0, 2.0]
    with pytest.raises(WireError, match="metric 'loss' is a list of 2 numbers; wanted: one number"):
        read_update(RecordDict({"arrays": ArrayRecord(), "metrics": metrics}))
