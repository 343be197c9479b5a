from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("oldest", "newest", "name", "release", "held")
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    oldest: int
    newest: int
    name: str
    release: str
    held: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, oldest: _Optional[int] = ..., newest: _Optional[int] = ..., name: _Optional[str] = ..., release: _Optional[str] = ..., held: _Optional[_Iterable[str]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "config", "number", "heartbeat", "chunk", "largest", "compress", "run", "classes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    COMPRESS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    version: int
    config: str
    number: int
    heartbeat: float
    chunk: int
    largest: int
    compress: bool
    run: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[int] = ..., config: _Optional[str] = ..., number: _Optional[int] = ..., heartbeat: _Optional[float] = ..., chunk: _Optional[int] = ..., largest: _Optional[int] = ..., compress: bool = ..., run: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "final")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    final: bool
    def __init__(self, reason: _Optional[str] = ..., final: bool = ...) -> None: ...

class Holding(_message.Message):
    __slots__ = ("labelled", "unlabelled", "test", "classes")
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    UNLABELLED_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    labelled: int
    unlabelled: int
    test: int
    classes: int
    def __init__(self, labelled: _Optional[int] = ..., unlabelled: _Optional[int] = ..., test: _Optional[int] = ..., classes: _Optional[int] = ...) -> None: ...

class Body(_message.Message):
    __slots__ = ("task", "head", "sizes", "seconds")
    TASK_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    task: str
    head: bytes
    sizes: _containers.RepeatedScalarFieldContainer[int]
    seconds: float
    def __init__(self, task: _Optional[str] = ..., head: _Optional[bytes] = ..., sizes: _Optional[_Iterable[int]] = ..., seconds: _Optional[float] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data", "packed")
    DATA_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    packed: bool
    def __init__(self, data: _Optional[bytes] = ..., packed: bool = ...) -> None: ...

class Note(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: str
    def __init__(self, task: _Optional[str] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("task", "size")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    task: str
    size: int
    def __init__(self, task: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Bye(_message.Message):
    __slots__ = ("reason", "over")
    REASON_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    reason: str
    over: bool
    def __init__(self, reason: _Optional[str] = ..., over: bool = ...) -> None: ...

class ClientFrame(_message.Message):
    __slots__ = ("hello", "holding", "offer", "reply", "chunk", "pong", "bye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    holding: Holding
    offer: Offer
    reply: Body
    chunk: Chunk
    pong: Beat
    bye: Bye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., holding: _Optional[_Union[Holding, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., reply: _Optional[_Union[Body, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., pong: _Optional[_Union[Beat, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("welcome", "refusal", "task", "chunk", "grant", "settled", "ping", "bye")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    refusal: Refusal
    task: Body
    chunk: Chunk
    grant: Note
    settled: Note
    ping: Beat
    bye: Bye
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., task: _Optional[_Union[Body, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., grant: _Optional[_Union[Note, _Mapping]] = ..., settled: _Optional[_Union[Note, _Mapping]] = ..., ping: _Optional[_Union[Beat, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...
