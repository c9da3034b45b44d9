"""Checks a value against a JSON Schema of the few keywords that ours use; an unknown keyword is an error."""

import math
import re
from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_REMARKS = frozenset(("$schema", "$defs", "title", "description", "default"))


def mistakes(schema: Mapping[str, Any], value: object, root: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a value; empty if nothing."""
    root = schema if root is None else root
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword not in _REMARKS and not _holds(keyword, rule, value, schema=schema, root=root):
            found.append(f"{keyword} {rule!r:.80}: {value!r:.80}")
    return found


def _holds(keyword: str, rule: Any, value: Any, *, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    def fits(part: Mapping[str, Any], what: object) -> bool:
        return not mistakes(part, what, root)

    if (length := _size(keyword, rule, value)) is not None:
        return length
    match keyword:
        case "type":
            return any(_is(name, value) for name in ([rule] if isinstance(rule, str) else rule))
        case "const" | "enum":
            return any(type(value) is type(one) and value == one for one in (rule if keyword == "enum" else [rule]))
        case "pattern":
            return not isinstance(value, str) or re.search(rule, value) is not None
        case "$ref":
            return fits(root["$defs"][rule.removeprefix("#/$defs/")], value)
        case "oneOf":
            return sum(fits(part, value) for part in rule) == 1
        case "anyOf" | "allOf":
            return (any if keyword == "anyOf" else all)(fits(part, value) for part in rule)
        case "not":
            return not fits(rule, value)
        case "items":
            return not isinstance(value, list) or all(fits(rule, item) for item in value)
        case "uniqueItems":
            return not isinstance(value, list) or len({repr(item) for item in value}) == len(value)
        case "required":
            return not isinstance(value, dict) or all(name in value for name in rule)
        case "properties":
            return not isinstance(value, dict) or all(fits(rule[k], v) for k, v in value.items() if k in rule)
        case "propertyNames":
            return not isinstance(value, dict) or all(fits(rule, name) for name in value)
        case "additionalProperties":
            others = (
                [v for k, v in value.items() if k not in schema.get("properties", {})]
                if isinstance(value, dict)
                else []
            )
            return not others if rule is False else all(fits(rule, other) for other in others)
    raise AssertionError(f"the check does not know the keyword {keyword}")


def _size(keyword: str, rule: Any, value: Any) -> bool | None:
    """Bounds; None if the keyword is not one."""
    bounds = {
        "minimum": lambda v: v >= rule,
        "maximum": lambda v: v <= rule,
        "exclusiveMinimum": lambda v: v > rule,
        "exclusiveMaximum": lambda v: v < rule,
        "minLength": lambda v: len(v) >= rule,
        "maxLength": lambda v: len(v) <= rule,
        "minItems": lambda v: len(v) >= rule,
        "maxItems": lambda v: len(v) <= rule,
        "minProperties": lambda v: len(v) >= rule,
        "maxProperties": lambda v: len(v) <= rule,
    }
    if keyword not in bounds:
        return None
    kind = (
        "string"
        if "Length" in keyword
        else "array"
        if "Items" in keyword
        else "object"
        if "Prop" in keyword
        else "number"
    )
    return not _is(kind, value) or bool(bounds[keyword](value))


def _is(name: str, value: object) -> bool:
    """JSON has no number that is infinite or none."""
    if name == "number" and isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
