"""Kinds of values that only the experiments file has: names, percents, addresses, user ids, request attributes."""

import json
import re
from typing import Final

from abfleet_process.declarations.kinds import bounded_text, but_not, pattern, plain_text, scalar
from abfleet_process.declarations.nodes import Node, Scalar, ScalarKind, kind_text, shown

from abfleet_experiments.bucketing import BUCKETS, user_id_problem
from abfleet_experiments.config import percent_text

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
VERSION: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
_NAME_RULE: Final = "1 to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit"
_VERSION_RULE: Final = "1 to 64 letters, digits, `.`, `_`, `+` or `-`, beginning with a letter or digit"
_PERCENT: Final = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?", re.ASCII)
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_HOST_AND_PORT: Final = re.compile(
    r"(?:dns:///)?(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})", re.ASCII
)
_UNIX: Final = re.compile(r"unix:(?:///)?[^\x00-\x20\x7f]{1,107}")


def _percent(node: Node) -> int:
    """In basis points, so that nothing is rounded."""
    if isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and (match := _PERCENT.fullmatch(node.text)):
        basis_points = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
        if basis_points <= BUCKETS:
            return basis_points
    raise ValueError(f"must be a number from 0 to 100 with at most two decimal places, not {kind_text(node)}")


def _address(node: Node) -> str:
    value = bounded_text(node, 512)
    match = _HOST_AND_PORT.fullmatch(value)
    if (match and 1 <= int(match[1]) <= 65535) or (value.startswith("unix:") and _UNIX.fullmatch(value)):
        return value
    raise ValueError(f"{shown(value)} must be `dns:///host:port`, `host:port` (port 1 to 65535) or `unix:path`")


def _user_id(node: Node) -> str:
    value = plain_text(node)
    if (problem := user_id_problem(value)) is not None:
        raise ValueError(f"the user id {problem}")
    return value


def _attribute_name(node: Node) -> None:
    if not isinstance(node, Scalar) or not 1 <= len(node.text.encode(errors="replace")) <= 256:
        raise ValueError("the name of an attribute must be 1 to 256 bytes")


def _attribute_value(node: Node) -> str:
    """Text, or a whole number or boolean as it is written."""
    if isinstance(node, Scalar) and (node.kind is ScalarKind.BOOLEAN or _INTEGER.fullmatch(node.text)):
        return node.text
    return bounded_text(node, 256)


def _name_or_number(node: Node) -> str:
    """Text, or a whole number as it is written."""
    if isinstance(node, Scalar) and _INTEGER.fullmatch(node.text):
        return node.text
    return bounded_text(node, 256)


_ID: Final = {"minLength": 1, "maxLength": 256}
_WHOLE: Final = {"minimum": 1 - 10**18, "maximum": 10**18 - 1}

NAME: Final = pattern(NAME_PATTERN, _NAME_RULE, "name", "names")
GROUP_NAME: Final = pattern(NAME_PATTERN, _NAME_RULE, "name", "groups")
METRIC_NAME: Final = pattern(NAME_PATTERN, _NAME_RULE, "name", "metrics")
NEW_GROUP_NAME: Final = but_not(("at", "traffic"), NAME, "is a key of ramp rows; choose another name")
VERSION_NAME: Final = pattern(VERSION, _VERSION_RULE, "version", "versions")
CURRENCY: Final = pattern(
    r"[A-Z]{3}", "an ISO 4217 code such as `EUR`", "three capital letters (ISO 4217)", "currencies"
)
PERCENT: Final = scalar(
    _percent,
    {"type": "number", "minimum": 0, "maximum": 100},
    "0 to 100 percent, two decimal places",
    "percentages from 0 to 100, two decimal places",
    written=lambda value: json.loads(percent_text(value)),
)
NAME_OR_NUMBER: Final = scalar(
    _name_or_number, {"type": ["string", "integer"], **_ID, **_WHOLE}, "text or a whole number", "texts"
)
ADDRESS: Final = scalar(_address, {"type": "string", "minLength": 1, "maxLength": 512}, "address", "addresses")
USER_ID: Final = scalar(_user_id, _ID, "user id", "user ids")
ATTRIBUTE_NAME: Final = scalar(_attribute_name, _ID, "attribute", "attributes")
ATTRIBUTE_VALUE: Final = scalar(
    _attribute_value, {"type": ["string", "integer", "boolean"], **_ID, **_WHOLE}, "text", "texts"
)
