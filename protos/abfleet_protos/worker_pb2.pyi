from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecommendBatchRequest(_message.Message):
    __slots__ = ("requests", "timeout_ms", "traceparents")
    class TraceparentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedScalarFieldContainer[bytes]
    timeout_ms: _containers.RepeatedScalarFieldContainer[int]
    traceparents: _containers.ScalarMap[int, str]
    def __init__(self, requests: _Optional[_Iterable[bytes]] = ..., timeout_ms: _Optional[_Iterable[int]] = ..., traceparents: _Optional[_Mapping[int, str]] = ...) -> None: ...

class RecommendBatchResponse(_message.Message):
    __slots__ = ("model_version", "responses", "failures", "elapsed_us", "alias")
    class FailuresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: Failure
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_US_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    responses: _containers.RepeatedScalarFieldContainer[bytes]
    failures: _containers.MessageMap[int, Failure]
    elapsed_us: int
    alias: str
    def __init__(self, model_version: _Optional[str] = ..., responses: _Optional[_Iterable[bytes]] = ..., failures: _Optional[_Mapping[int, Failure]] = ..., elapsed_us: _Optional[int] = ..., alias: _Optional[str] = ...) -> None: ...

class InferBatchRequest(_message.Message):
    __slots__ = ("requests", "timeout_ms", "traceparents")
    class TraceparentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedScalarFieldContainer[bytes]
    timeout_ms: _containers.RepeatedScalarFieldContainer[int]
    traceparents: _containers.ScalarMap[int, str]
    def __init__(self, requests: _Optional[_Iterable[bytes]] = ..., timeout_ms: _Optional[_Iterable[int]] = ..., traceparents: _Optional[_Mapping[int, str]] = ...) -> None: ...

class InferBatchResponse(_message.Message):
    __slots__ = ("model_version", "responses", "failures", "elapsed_us", "alias")
    class FailuresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: Failure
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_US_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    responses: _containers.RepeatedScalarFieldContainer[bytes]
    failures: _containers.MessageMap[int, Failure]
    elapsed_us: int
    alias: str
    def __init__(self, model_version: _Optional[str] = ..., responses: _Optional[_Iterable[bytes]] = ..., failures: _Optional[_Mapping[int, Failure]] = ..., elapsed_us: _Optional[int] = ..., alias: _Optional[str] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...
