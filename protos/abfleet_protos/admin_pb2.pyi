import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ("without_json",)
    WITHOUT_JSON_FIELD_NUMBER: _ClassVar[int]
    without_json: bool
    def __init__(self, without_json: _Optional[bool] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("json", "router", "log_level", "serving", "uptime_s", "tasks", "config", "groups", "pools", "waiting", "shed", "rejected", "retries", "decision_log", "build")
    JSON_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    LOG_LEVEL_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    SHED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    DECISION_LOG_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    json: str
    router: str
    log_level: str
    serving: bool
    uptime_s: float
    tasks: int
    config: ConfigurationStatus
    groups: _containers.RepeatedCompositeFieldContainer[GroupStatus]
    pools: _containers.RepeatedCompositeFieldContainer[PoolStatus]
    waiting: WaitingStatus
    shed: int
    rejected: int
    retries: int
    decision_log: DecisionLogStatus
    build: Build
    def __init__(self, json: _Optional[str] = ..., router: _Optional[str] = ..., log_level: _Optional[str] = ..., serving: _Optional[bool] = ..., uptime_s: _Optional[float] = ..., tasks: _Optional[int] = ..., config: _Optional[_Union[ConfigurationStatus, _Mapping]] = ..., groups: _Optional[_Iterable[_Union[GroupStatus, _Mapping]]] = ..., pools: _Optional[_Iterable[_Union[PoolStatus, _Mapping]]] = ..., waiting: _Optional[_Union[WaitingStatus, _Mapping]] = ..., shed: _Optional[int] = ..., rejected: _Optional[int] = ..., retries: _Optional[int] = ..., decision_log: _Optional[_Union[DecisionLogStatus, _Mapping]] = ..., build: _Optional[_Union[Build, _Mapping]] = ...) -> None: ...

class Build(_message.Message):
    __slots__ = ("version", "revision", "python", "grpcio", "form")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    GRPCIO_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    version: str
    revision: str
    python: str
    grpcio: str
    form: str
    def __init__(self, version: _Optional[str] = ..., revision: _Optional[str] = ..., python: _Optional[str] = ..., grpcio: _Optional[str] = ..., form: _Optional[str] = ...) -> None: ...

class ConfigurationStatus(_message.Message):
    __slots__ = ("revision", "generation", "activated", "seen_revision", "errors", "default")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    SEEN_REVISION_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    revision: str
    generation: int
    activated: _timestamp_pb2.Timestamp
    seen_revision: str
    errors: _containers.RepeatedScalarFieldContainer[str]
    default: str
    def __init__(self, revision: _Optional[str] = ..., generation: _Optional[int] = ..., activated: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., seen_revision: _Optional[str] = ..., errors: _Optional[_Iterable[str]] = ..., default: _Optional[str] = ...) -> None: ...

class GroupStatus(_message.Message):
    __slots__ = ("experiment", "group", "model_version", "calls", "errors", "fallbacks", "latency")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    group: str
    model_version: str
    calls: int
    errors: int
    fallbacks: int
    latency: LatencyHistogram
    def __init__(self, experiment: _Optional[str] = ..., group: _Optional[str] = ..., model_version: _Optional[str] = ..., calls: _Optional[int] = ..., errors: _Optional[int] = ..., fallbacks: _Optional[int] = ..., latency: _Optional[_Union[LatencyHistogram, _Mapping]] = ...) -> None: ...

class LatencyHistogram(_message.Message):
    __slots__ = ("bounds_s", "counts", "total_s")
    BOUNDS_S_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    bounds_s: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    total_s: float
    def __init__(self, bounds_s: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., total_s: _Optional[float] = ...) -> None: ...

class PoolStatus(_message.Message):
    __slots__ = ("version", "available", "replicas", "ejections")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    EJECTIONS_FIELD_NUMBER: _ClassVar[int]
    version: str
    available: int
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaStatus]
    ejections: int
    def __init__(self, version: _Optional[str] = ..., available: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[ReplicaStatus, _Mapping]]] = ..., ejections: _Optional[int] = ...) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("address", "health", "gets_calls", "load")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    GETS_CALLS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    address: str
    health: str
    gets_calls: bool
    load: int
    def __init__(self, address: _Optional[str] = ..., health: _Optional[str] = ..., gets_calls: _Optional[bool] = ..., load: _Optional[int] = ...) -> None: ...

class WaitingStatus(_message.Message):
    __slots__ = ("calls", "bytes")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    calls: int
    bytes: int
    def __init__(self, calls: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class DecisionLogStatus(_message.Message):
    __slots__ = ("path", "failing", "lines", "lost", "buffered")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FAILING_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    BUFFERED_FIELD_NUMBER: _ClassVar[int]
    path: str
    failing: bool
    lines: int
    lost: int
    buffered: int
    def __init__(self, path: _Optional[str] = ..., failing: _Optional[bool] = ..., lines: _Optional[int] = ..., lost: _Optional[int] = ..., buffered: _Optional[int] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("active", "config_revision", "errors")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_REVISION_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    active: bool
    config_revision: str
    errors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, active: _Optional[bool] = ..., config_revision: _Optional[str] = ..., errors: _Optional[_Iterable[str]] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: str
    def __init__(self, level: _Optional[str] = ...) -> None: ...

class SetLogLevelResponse(_message.Message):
    __slots__ = ("was", "level")
    WAS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    was: str
    level: str
    def __init__(self, was: _Optional[str] = ..., level: _Optional[str] = ...) -> None: ...
