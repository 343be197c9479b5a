"""The border to Flower: asks and updates as Flower messages, and the sizes of these as serialised.

A train or evaluate message carries `arrays` (the same for all clients), sometimes `own` (for this client), and `task`
(round, phase, scalars). A reply carries `arrays`, sometimes `extra`, and `metrics` with Flower's `num-examples`, so
Flower's own strategies can read it too. Arrays travel in NumPy's .npy format, as Flower writes it.

Other modules take Flower's types from here: only this file, the two apps and the Grids import flwr.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from .contract import Ask, Update
from .npy import header_of, view_of

__all__ = [
    "Array",
    "ArrayRecord",
    "ConfigRecord",
    "Context",
    "Error",
    "Grid",
    "Message",
    "Metadata",
    "MetricRecord",
    "RecordDict",
    "Run",
    "WireError",
    "arrays_size",
    "content_size",
    "decoded",
    "from_array",
    "from_record",
    "identity",
    "pack_message",
    "read_run_config",
    "read_task",
    "read_update",
    "records_of",
    "remade",
    "run_config",
    "serialised_size",
    "task_content",
    "to_array",
    "to_record",
    "unpack_message",
    "update_content",
    "with_id",
]

SERVER_NODE = 1
# Flower's own code for a client app that raised; the others are ours.
RAISED, TIMED_OUT, LOST, OUT_OF_MEMORY, DISK = 2, 100, 101, 102, 103
ERROR_KINDS = {RAISED: "raised", TIMED_OUT: "timeout", LOST: "lost", OUT_OF_MEMORY: "raised", DISK: "raised"}
EXAMPLES = "num-examples"
_MOST_EXAMPLES = 2**63
_CONFIG_KEY = "fedbox"
R = TypeVar("R")


class WireError(ValueError):
    """A message does not have the form that both sides agreed on."""


def to_array(value: NDArray[Any]) -> Array:
    """Give Flower's Array of a numeric NumPy array: the bytes that `numpy.save` would write."""
    if value.dtype.kind not in "fiub":
        raise WireError(f"arrays of type {value.dtype} do not travel; use numbers or booleans")
    name, header = header_of(value.dtype.str, value.shape)
    # Joined in one go: the bytes are copied once.
    return Array(name, value.shape, "numpy.ndarray", b"".join((header, np.ascontiguousarray(value).data)))


def from_array(array: Array) -> NDArray[Any]:
    """Give a read-only NumPy view of an Array's bytes. Raises WireError when they are not what its fields say."""
    data = array.data
    try:
        return view_of(data)
    except Exception as error:  # NumPy reads a header with Python's own parser, which raises what it meets
        told = str(error) or type(error).__name__
        raise WireError(f"an array of {len(data)} bytes is not in .npy format: {told}") from error


def to_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Give an ArrayRecord of named arrays, in their order."""
    record = ArrayRecord()
    for name, value in arrays.items():  # one by one: given a mapping, ArrayRecord makes every Array anew
        record[name] = to_array(np.asarray(value))
    return record


_last: tuple[ArrayRecord, dict[str, NDArray[Any]]] | None = None


def from_record(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Give named read-only arrays. The last record is remembered: a broadcast is decoded once for all its clients."""
    global _last  # noqa: PLW0603
    if _last is None or _last[0] is not record:
        _last = (record, decoded(record))
    return _last[1]


def decoded(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Give named read-only arrays. Raises WireError."""
    return {name: from_array(array) for name, array in record.items()}


def records_of(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Give the records of a kind by name.

    Flower's `content.array_records` and the like form a cycle with the content: all its arrays would stay until
    Python's collector comes by.
    """
    return {key: record for key, record in content.items() if isinstance(record, kind)}


def arrays_size(content: RecordDict) -> int:
    """Give the bytes of a content's arrays."""
    return sum(len(array.data) for record in records_of(content, ArrayRecord).values() for array in record.values())


def task_content(ask: Ask, round_: int, shared: ArrayRecord, own: Mapping[str, NDArray[Any]]) -> RecordDict:
    """Give the content of the message to one client; `shared` is `to_record(ask.arrays)`, made once a round."""
    task = ConfigRecord({"round": round_, "phase": ask.phase, **{f"value.{k}": v for k, v in ask.values.items()}})
    content = RecordDict({"arrays": shared, "task": task})
    if own:
        content["own"] = to_record(own)
    return content


def read_task(content: RecordDict) -> tuple[int, str, dict[str, Any], dict[str, NDArray[Any]]]:
    """Give (round, phase, values, received arrays) of a train or evaluate message."""
    try:
        task, arrays = records_of(content, ConfigRecord)["task"], records_of(content, ArrayRecord)
        received = from_record(arrays["arrays"]) | decoded(arrays.get("own", ArrayRecord()))
        values = {key[6:]: value for key, value in task.items() if key.startswith("value.")}
        return int(task["round"]), str(task["phase"]), values, received  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise WireError(f"the message lacks {error}; was it sent by another program?") from error


def update_content(update: Update) -> RecordDict:
    """Give the content of a reply."""
    metrics: dict[str, int | float] = {name: float(value) for name, value in update.metrics.items()}
    content = RecordDict(
        {
            "arrays": to_record(update.weights),
            "metrics": MetricRecord({**metrics, EXAMPLES: int(update.examples)}),
        }
    )
    if update.extra:
        content["extra"] = to_record(update.extra)
    return content


def read_update(content: RecordDict) -> Update:
    """Give the update that a reply carries. Raises WireError when it is malformed."""
    try:
        metrics, arrays = dict(records_of(content, MetricRecord)["metrics"]), records_of(content, ArrayRecord)
        weights, extra = decoded(arrays["arrays"]), decoded(arrays.get("extra", ArrayRecord()))
        told = metrics.pop(EXAMPLES)
    except KeyError as error:
        raise WireError(f"the reply lacks {error}") from error
    for name, value in metrics.items():
        if isinstance(value, list):
            raise WireError(f"metric '{name}' is a list of {len(value)} numbers; wanted: one number")
    # A whole number of 64 bits also where it came as a float: what is not cannot be a weight.
    if isinstance(told, list) or not -_MOST_EXAMPLES < told < _MOST_EXAMPLES or told != int(told):
        raise WireError(f"num-examples is {str(told)[:80]}; wanted: a whole number below 2**63")
    return Update(weights, int(told), {name: float(value) for name, value in metrics.items()}, extra)  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _array_record_size(key: str, layout: tuple[tuple[str, str, tuple[int, ...], int], ...]) -> int:
    blank = {name: Array(dtype, shape, "numpy.ndarray", bytes(size)) for name, dtype, shape, size in layout}
    return int(recorddict_to_proto(RecordDict({key: ArrayRecord(blank)})).ByteSize())


def content_size(content: RecordDict) -> int:
    """Give the size in bytes of a message's content as Flower serialises it (protobuf).

    The size of an array record follows from its layout, so it is worked out once for each layout.
    """
    size = 0
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            layout = tuple((name, a.dtype, tuple(a.shape), len(a.data)) for name, a in record.items())
            size += _array_record_size(key, layout)
        else:
            size += int(recorddict_to_proto(RecordDict({key: record})).ByteSize())
    return size


def serialised_size(content: RecordDict) -> int:
    """Give the same size by serialising: slow, and with no layout remembered, to hold `content_size` against."""
    return len(recorddict_to_proto(content).SerializeToString())


def run_config(config_json: str, folder: str) -> dict[str, bool | float | int | str]:
    """Give Flower's run configuration, which holds scalars only: the configuration as one JSON text, and the folder."""
    return {_CONFIG_KEY: config_json, "folder": folder}


def read_run_config(values: Mapping[str, Any]) -> tuple[str, str]:
    """Give (configuration as JSON, folder) from Flower's run configuration."""
    if _CONFIG_KEY not in values:
        raise WireError(f"the run configuration lacks the key '{_CONFIG_KEY}'")
    return str(values[_CONFIG_KEY]), str(values.get("folder", ""))


@contextmanager
def identity(run_id: int, node_id: int = SERVER_NODE) -> Iterator[None]:
    """Say who this process is to Flower, which refuses to make messages without it."""
    names = ("_task_id", "_run_id", "_node_id")
    before = [getattr(TaskIdentity, name) for name in names]
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, node_id
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(TaskIdentity, name, value)


def remade(metadata: Metadata, body: RecordDict | Error) -> Message:
    """Make a message that came from another process once more, with the metadata that it had there."""
    # Flower keeps this signature for itself: its overloads do not show it.
    if isinstance(body, Error):
        return Message(error=body, metadata=metadata)  # type: ignore[call-overload, no-any-return]
    return Message(content=body, metadata=metadata)  # type: ignore[call-overload, no-any-return]


def with_id(message: Message, message_id: str) -> Message:
    """Give the message its id, which Flower leaves to the link that carries it."""
    message.metadata.__dict__["_message_id"] = message_id
    return message


def pack_message(message: Message) -> tuple[bytes, list[bytes]]:
    """Give a message as bytes without those of its arrays, and the arrays' bytes in their order."""
    if message.has_error():
        return message_to_proto(message).SerializeToString(), []
    bodies: list[bytes] = []
    blank = RecordDict()
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            bodies += [array.data for array in record.values()]
            blank[key] = _with_bodies(record, (b"" for _ in record))
        else:
            blank[key] = record
    return message_to_proto(remade(message.metadata, blank)).SerializeToString(), bodies


def unpack_message(head: bytes, bodies: Sequence[bytes | bytearray]) -> Message:
    """Make a message of what `pack_message` gave, or of what claims to be that, without a copy. Raises WireError."""
    try:
        message = message_from_proto(ProtoMessage.FromString(head))
        records = records_of(message.content, ArrayRecord) if message.has_content() else {}
        if sum(len(record) for record in records.values()) != len(bodies):
            raise WireError(f"the message names other arrays than the {len(bodies)} that came")
        rest = iter(bodies)
        for key, record in records.items():
            message.content[key] = _with_bodies(record, rest)
    except WireError:
        raise
    except Exception as error:  # Flower's readers raise what they meet: the bytes may be anything
        raise WireError(f"not a message of Flower: {type(error).__name__}: {error}") from error
    return message


def _with_bodies(record: ArrayRecord, bodies: Iterator[bytes | bytearray]) -> ArrayRecord:
    filled = ArrayRecord()
    for (name, array), data in zip(record.items(), bodies, strict=False):
        filled[name] = Array(array.dtype, tuple(array.shape), array.stype, b"")
        filled[name].data = cast(bytes, data)  # Array itself takes bytes only; nothing that reads one minds
    return filled
