"""Reads what the router needs of a ModelInferRequest: names, id and parameters. Tensors are passed over, not parsed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from abfleet_protos.inference_parts_pb2 import RequestHead
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError

from abfleet_router.calls.request import check_user_id, longer, user_id_from_metadata
from abfleet_router.calls.wire import SMALL_BYTES, WireError, fields
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.errors import LIMITS, InvalidRequest

PARAMETERS = 4
"""Field number, as the highest of those that are read."""
MOST_HEAD_BYTES = 1024 * 1024
"""Of what is read."""
USER_ID, SEQUENCE_ID = "user_id", "sequence_id"
ATTRIBUTE_KINDS = ("string_param", "bool_param", "int64_param")
SHOWN_VERSIONS = 10


class InferHead(NamedTuple):
    """A request without its tensors; its members are those of a RecommendRequest, as far as routing reads them."""

    user_id: str
    request_id: str
    attributes: Mapping[str, str]
    snapshot: Snapshot
    """The configuration that decides: where the request names a version, one that gives that version alone."""
    item_ids: tuple[int, ...] = ()
    items: tuple[str, ...] = ()


def read(payload: bytes, metadata: Mapping[str, str | bytes], snapshot: Snapshot) -> InferHead:
    """The head of a request, checked. Raises InvalidRequest."""
    message = head_of(payload)
    snapshot = model_in_force(snapshot, message.model_name, message.model_version)
    if longer(message.id, LIMITS.request_id_bytes):
        raise InvalidRequest("id", message.id, f"at most {LIMITS.request_id_bytes} bytes")
    user_id = user_id_from_metadata(metadata)
    if not message.parameters:
        return InferHead(user_id, message.id, {}, snapshot)
    refuse_sequences(message)
    return InferHead(user_id or user_id_of(message), message.id, attributes_of(payload, message), snapshot)


def model_in_force(
    snapshot: Snapshot, name: str, version: str, name_field: str = "model_name", version_field: str = "model_version"
) -> Snapshot:
    """The configuration that decides for a model of this name and version. Raises InvalidRequest."""
    if name != snapshot.config.name:
        raise InvalidRequest(name_field, name, snapshot.config.name, Code.NOT_FOUND)
    if not version:
        return snapshot
    pinned = snapshot.pinned.of(version)
    if pinned is None:
        allowed = f"{versions_text(snapshot)}, or none for the version that the experiment assigns"
        raise InvalidRequest(version_field, version, allowed, Code.NOT_FOUND)
    return pinned


def head_of(payload: bytes) -> RequestHead:
    """Names, id and parameters of a ModelInferRequest. Raises InvalidRequest."""
    try:
        if len(payload) <= SMALL_BYTES:
            return RequestHead.FromString(payload)
        head = b"".join([payload[begin:end] for number, begin, _, end in fields(payload) if number <= PARAMETERS])
        if len(head) > MOST_HEAD_BYTES:
            raise InvalidRequest("request", len(head), f"at most {MOST_HEAD_BYTES} bytes of names and parameters")
        return RequestHead.FromString(head)
    except (WireError, DecodeError):
        allowed = "a serialised inference.ModelInferRequest, its strings in UTF-8"
        raise InvalidRequest("request", payload[:32], allowed) from None


def request_id_of(payload: bytes) -> str | None:
    """The caller's id, where a refused request has a valid one."""
    try:
        request_id: str = head_of(payload).id
    except InvalidRequest:
        return None
    return request_id if request_id and not longer(request_id, LIMITS.request_id_bytes) else None


def versions_text(snapshot: Snapshot) -> str:
    """The versions of the file, for a message."""
    versions = list(snapshot.config.models)
    return ", ".join(versions[:SHOWN_VERSIONS]) + (", …" if len(versions) > SHOWN_VERSIONS else "")


def refuse_sequences(message: Any) -> None:
    """Raises InvalidRequest for a request that is part of a sequence."""
    if SEQUENCE_ID in message.parameters:
        sequence = message.parameters[SEQUENCE_ID]
        if sequence.int64_param or sequence.uint64_param or sequence.string_param:
            value = sequence.int64_param or sequence.uint64_param or sequence.string_param
            raise InvalidRequest(
                f"parameters[{SEQUENCE_ID}]", value, "none, because sequences are not supported", Code.UNIMPLEMENTED
            )


def user_id_of(message: Any) -> str:
    """The user id in the parameters, or "". Raises InvalidRequest."""
    if USER_ID not in message.parameters:
        return ""
    parameter, field = message.parameters[USER_ID], f"parameters[{USER_ID}]"
    if parameter.WhichOneof("parameter_choice") not in ("string_param", None):
        raise InvalidRequest(field, parameter.WhichOneof("parameter_choice"), "string_param")
    return check_user_id(parameter.string_param, field)


def attributes_of(payload: bytes, message: Any) -> dict[str, str]:
    """The first 32 parameters that are short texts, truth values or whole numbers, as texts; others only travel."""
    names = list(message.parameters)
    if len(names) > LIMITS.attributes:  # a map has no order of its own
        names = names_in_order(payload)
    attributes: dict[str, str] = {}
    for name in names:
        parameter = message.parameters[name]
        kind = parameter.WhichOneof("parameter_choice")
        if name in (USER_ID, SEQUENCE_ID) or kind not in ATTRIBUTE_KINDS or longer(name, LIMITS.attribute_bytes):
            continue
        value = getattr(parameter, kind)
        text = value if isinstance(value, str) else str(value).lower()
        if not longer(text, LIMITS.attribute_bytes):
            attributes[name] = text
            if len(attributes) == LIMITS.attributes:
                break
    return attributes


def names_in_order(payload: bytes) -> list[str]:
    """Names of the parameters as they were sent, each once."""
    names: dict[str, None] = {}
    for number, begin, _, end in fields(payload):
        if number == PARAMETERS:
            names.update(dict.fromkeys(RequestHead.FromString(payload[begin:end]).parameters))
    return list(names)
