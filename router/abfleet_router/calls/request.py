"""Reads Recommend requests and checks them against the limits. Knows the message, nothing of routing."""

import re
from collections.abc import Iterator, Mapping

from abfleet_protos.recommender_pb2 import RecommendRequest
from google.protobuf.message import DecodeError

from abfleet_router.errors import LIMITS, InvalidRequest

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
USER_ID_ALLOWED = f"1 to {LIMITS.user_id_bytes} bytes of UTF-8 without control characters, or none"
STRING_FIELDS = {2: "user_id", 4: "request_id", 5: "attributes", 6: "items"}


def parse(payload: bytes) -> RecommendRequest:
    """The message, with limits checked. Raises InvalidRequest."""
    try:
        request = RecommendRequest.FromString(payload)
    except DecodeError:
        raise explain(payload) from None
    if not 0 <= request.limit <= LIMITS.limit:
        raise InvalidRequest(
            "limit", request.limit, f"1 to {LIMITS.limit}, or 0 for the default of {LIMITS.default_limit}"
        )
    request_id = request.request_id
    if request_id and longer(request_id, LIMITS.request_id_bytes):
        raise InvalidRequest("request_id", request.request_id, f"at most {LIMITS.request_id_bytes} bytes")
    return request


def request_id_of(payload: bytes) -> str | None:
    """The caller's request id, where a refused request has a valid one."""
    try:
        request_id: str = RecommendRequest.FromString(payload).request_id
    except DecodeError:
        return None
    return request_id if request_id and not longer(request_id, LIMITS.request_id_bytes) else None


def check_user_id(user_id: str, field: str = "user_id") -> str:
    """The user id itself, when it is allowed. Raises InvalidRequest."""
    if longer(user_id, LIMITS.user_id_bytes) or CONTROL.search(user_id):
        raise InvalidRequest(field, user_id, USER_ID_ALLOWED)
    return user_id


def check_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes as a plain dictionary. Raises InvalidRequest."""
    if len(attributes) > LIMITS.attributes:
        raise InvalidRequest("attributes", len(attributes), f"at most {LIMITS.attributes} entries")
    for key, value in attributes.items():
        for text in (key, value):
            if longer(text, LIMITS.attribute_bytes):
                raise InvalidRequest(f"attributes[{key[:32]!r}]", text, f"at most {LIMITS.attribute_bytes} bytes each")
    return dict(attributes)


def user_id_from_metadata(metadata: Mapping[str, str | bytes]) -> str:
    """The user id that came as `x-user-id-bin` or `x-user-id`, or "". Raises InvalidRequest."""
    raw = metadata.get("x-user-id-bin")
    if raw:
        try:
            if isinstance(raw, bytes):
                return check_user_id(raw.decode(), "x-user-id-bin")
            raise InvalidRequest("x-user-id-bin", raw, "base64 of bytes")
        except UnicodeDecodeError:
            raise InvalidRequest("x-user-id-bin", raw, USER_ID_ALLOWED) from None
    value = metadata.get("x-user-id", "")
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isprintable()):
        raise InvalidRequest("x-user-id", text, "printable ASCII; send any other id in x-user-id-bin")
    return check_user_id(text, "x-user-id") if text else ""


def longer(text: str, limit_bytes: int) -> bool:
    """Whether the text has more bytes of UTF-8 than the limit; short ones are not encoded to find out."""
    return len(text) * 4 > limit_bytes and len(text.encode()) > limit_bytes


def explain(payload: bytes) -> InvalidRequest:
    """Why a payload is not a RecommendRequest: names the string that is not UTF-8, else the message as a whole."""
    for number, value in fields(payload):
        name = STRING_FIELDS.get(number)
        if name is None:
            continue
        # An entry of a map is a message of its own: key and value are its fields 1 and 2.
        texts = [text for _, text in fields(value)] if name == "attributes" else [value]
        for text in texts:
            try:
                text.decode()
            except UnicodeDecodeError:
                allowed = USER_ID_ALLOWED if name == "user_id" else "UTF-8"
                return InvalidRequest(name, text[:64], allowed)
    return InvalidRequest("request", payload[:32], "a serialised RecommendRequest")


def fields(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message, (number, bytes), as far as it can be read."""
    position = 0
    while position < len(payload):
        tag, position = varint(payload, position)
        kind = tag & 7
        if kind == 0:
            _, position = varint(payload, position)
        elif kind == 2:
            length, position = varint(payload, position)
            if position + length > len(payload):
                return
            yield tag >> 3, payload[position : position + length]
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            return


def varint(payload: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position after it; a cut number ends where the payload does."""
    value = shift = 0
    while position < len(payload):
        byte = payload[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            break
    return value, position
