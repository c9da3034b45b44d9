"""Kinds of values of one piece: text, words, numbers, durations, times. They know no key and no file."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from abfleet_process.declarations.keys import Kind, Schema
from abfleet_process.declarations.nodes import Findings, Node, Path, Scalar, ScalarKind, kind_text, shown, suggestion

_DECIMAL: Final = re.compile(r"[-+]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][-+]?[0-9]{1,3})?", re.ASCII)
_WHOLE: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_TIME_FORM: Final = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_TIME_RULE: Final = "a time with its zone, such as `2026-11-08T00:00:00Z` or `2026-11-08T01:00:00+01:00`"
_UNITS: Final = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "w": timedelta(weeks=1),
}


def scalar(
    parse: Callable[[Node], Any],
    schema: Schema,
    words: str,
    many: str = "",
    written: Callable[[Any], Any] = lambda value: value,
) -> Kind:
    """A kind by the function that gives a node's value, or raises ValueError with what is there and what is allowed."""

    def read(findings: Findings, node: Node, path: Path) -> Any:
        try:
            return parse(node)
        except ValueError as error:
            findings.add(path, str(error), node)
            return None

    return Kind(read, schema, words, many or words, written)


def plain_text(node: Node) -> str:
    """A text scalar's own text; ValueError for anything else."""
    if isinstance(node, Scalar) and node.kind is ScalarKind.TEXT:
        return node.text
    if not isinstance(node, Scalar) or node.kind is ScalarKind.NULL:
        raise ValueError(f"must be text, not {kind_text(node)}")
    kind = "a number" if node.kind is ScalarKind.NUMBER else "true or false"
    raise ValueError(f'{shown(node.text)} is {kind}, and text is needed; in quotes: "{node.text[:64]}"')


def bounded_text(node: Node, longest: int) -> str:
    """Text that is not empty, without control characters other than line feeds; ValueError for anything else."""
    value = plain_text(node)
    if not 1 <= len(value) <= longest or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value if c != "\n"):
        raise ValueError(f"{shown(value)} must be 1 to {longest} characters, and no control characters")
    return value


def free_text(least: int, longest: int) -> Kind:
    """Any text of such a length."""

    def parse(node: Node) -> str:
        value = plain_text(node)
        if not least <= len(value) <= longest:
            raise ValueError(f"{shown(value)} must be {least} to {longest} characters")
        return value

    schema = {"type": "string", "minLength": least, "maxLength": longest}
    return scalar(parse, schema, f"text, {least} to {longest} characters", "texts")


def text(longest: int = 128, many: str = "texts") -> Kind:
    """Text that is not empty, without control characters other than line feeds."""
    schema = {"type": "string", "minLength": 1, "maxLength": longest}
    return scalar(lambda node: bounded_text(node, longest), schema, f"text, 1 to {longest} characters", many)


def pattern(
    form: str,
    rule: str,
    words: str,
    many: str,
    *,
    value: Callable[[str], Any] = str,
    written: Callable[[Any], Any] = str,
) -> Kind:
    """Text of a form, which `rule` says in words. `value` makes something of it, or raises ValueError."""

    fits = re.compile(form, re.ASCII).fullmatch

    def parse(node: Node) -> Any:
        found = plain_text(node)
        if fits(found) is None:
            raise ValueError(f"{shown(found)} must be {rule}")
        return value(found)

    return scalar(parse, {"type": "string", "pattern": f"^{form}$"}, words, many, written)


def but_not(refused: Sequence[str], kind: Kind, why: str) -> Kind:
    """What a kind takes, but for a few words; `why` says what is wrong with them."""

    def read(findings: Findings, node: Node, path: Path) -> Any:
        value = kind.read(findings, node, path)
        if value in refused:
            findings.add(path, f"{shown(value)} {why}", node)
        return value

    schema = {"allOf": [kind.schema, {"not": {"enum": list(refused)}}]}
    return Kind(read, schema, f"{kind.words}, not {' or '.join(f'`{one}`' for one in refused)}")


def or_zero(kind: Kind) -> Kind:
    """What a kind of durations takes, or the number 0, which is no time at all."""

    def read(findings: Findings, node: Node, path: Path) -> Any:
        if isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and node.text == "0":
            return timedelta()
        return kind.read(findings, node, path)

    def written(value: timedelta) -> Any:
        return kind.written(value) if value else 0

    return Kind(read, {"oneOf": [{"const": 0}, kind.schema]}, f"{kind.words}, or `0`", written=written)


def word(*allowed: str) -> Kind:
    """One of a few words."""

    def parse(node: Node) -> str:
        value = bounded_text(node, 128)
        if value not in allowed:
            raise ValueError(f"{shown(value)} is not allowed{suggestion(value, allowed)}")
        return value

    return scalar(parse, {"enum": list(allowed)}, ", ".join(f"`{one}`" for one in allowed))


def exactly(number: int) -> Kind:
    """One number and no other."""

    def parse(node: Node) -> int:
        if isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and node.text == str(number):
            return number
        raise ValueError(f"must be {number}, not {kind_text(node)}")

    return scalar(parse, {"const": number}, f"`{number}`")


def number(what: str, low: float = -math.inf, high: float = math.inf, *, ends: bool = False, remark: str = "") -> Kind:
    """A finite number between two bounds, or any; the bounds are excluded unless `ends` are in.

    Args:
        what: What it counts, before the bounds: `a probability`.
        remark: What else there is to say, after them.
    """
    words = many = what
    schema: Schema = {"type": "number"}
    if math.isfinite(low):
        between = f"from {low:,} to {high:,}" if ends else f"above {low:,} and below {high:,}"
        words, many = f"{what} {between}{remark}", f"numbers {between}"
        names = ("minimum", "maximum") if ends else ("exclusiveMinimum", "exclusiveMaximum")
        schema = {"type": "number", names[0]: low, names[1]: high}

    def parse(node: Node) -> float:
        if isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and _DECIMAL.fullmatch(node.text):
            value = float(node.text)
            if low < value < high or (ends and value in (low, high)):
                return value
        raise ValueError(f"must be {words}, not {kind_text(node)}")

    return scalar(parse, schema, words.removeprefix("a "), many)


def whole(low: int, high: int) -> Kind:
    """A whole number from one bound to another."""
    between = f"from {low:,} to {high:,}"

    def parse(node: Node) -> int:
        if isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and _WHOLE.fullmatch(node.text):
            value = int(node.text)
            if low <= value <= high:
                return value
        raise ValueError(f"must be a whole number {between}, not {kind_text(node)}")

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return scalar(parse, schema, f"whole number {between}", f"whole numbers {between}")


def _flag(node: Node) -> bool:
    if isinstance(node, Scalar) and node.kind is ScalarKind.BOOLEAN and node.text in ("true", "false"):
        return node.text == "true"
    raise ValueError(f"must be true or false, not {kind_text(node)}")


def _duration_text(value: timedelta) -> str:
    return next(f"{value // _UNITS[unit]}{unit}" for unit in "dhms" if not value % _UNITS[unit])


def parse_time(value: str) -> datetime:
    """The instant that a text such as `2026-11-08T00:00:00Z` stands for, in UTC; ValueError if none."""
    if re.fullmatch(_TIME_FORM, value, re.ASCII) is None:
        raise ValueError(f"{shown(value)} must be {_TIME_RULE}")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{shown(value)} is not a date and time that exists") from error


FLAG: Final = scalar(_flag, {"type": "boolean"}, "`true` or `false`")
"""In that spelling."""
DURATION: Final = pattern(
    r"[1-9][0-9]{0,5}(s|m|h|d|w)",
    "a duration in seconds, minutes, hours, days or weeks, such as `30s`, `90m`, `12h`, `28d` or `4w`",
    "duration",
    "durations",
    value=lambda found: int(found[:-1]) * _UNITS[found[-1]],
    written=_duration_text,
)
TIME: Final = pattern(_TIME_FORM, _TIME_RULE, "time with its zone", "times", value=parse_time)
