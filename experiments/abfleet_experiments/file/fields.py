"""From a node to one checked value: text, percent, number, duration, time, address. Knows no key of the file.

Each function notes what is wrong in the findings and gives None; None in gives None out, so that what was reported once
(or is absent) is not reported again.
"""

import difflib
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import percent_text
from abfleet_experiments.file import keys
from abfleet_experiments.file.document import Broken, Findings, Mapping, Node, Path, Scalar, ScalarKind
from abfleet_experiments.file.document import Sequence as SequenceNode
from abfleet_experiments.file.errors import shown

_PERCENT: Final = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?", re.ASCII)
_DECIMAL: Final = re.compile(r"[-+]?([0-9]{1,15}(\.[0-9]{0,15})?|\.[0-9]{1,15})([eE][-+]?[0-9]{1,2})?", re.ASCII)
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_HOST_AND_PORT: Final = re.compile(
    r"(?:dns:///)?(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})", re.ASCII
)
_UNIX: Final = re.compile(r"unix:(?:///)?[^\x00-\x20\x7f]{1,107}")
_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_KINDS: Final = {Mapping: "a mapping", SequenceNode: "a list"}


def kind_text(node: Node) -> str:
    """What a node is, for a message."""
    if isinstance(node, Scalar):
        return "nothing" if node.kind is ScalarKind.NULL else shown(node.text)
    return _KINDS.get(type(node), "something else")


def suggestion(word: str, known: Collection[str]) -> str:
    """`; did you mean x?` when one of the known words is close, else what the known words are."""
    if close := difflib.get_close_matches(word[:64], known, n=1, cutoff=0.6):
        return f"; did you mean `{close[0]}`?"
    names = sorted(known) if len(known) <= 20 else [*sorted(known)[:20], "…"]
    return f"; allowed: {', '.join(names)}" if names else "; there are none"


def members(findings: Findings, node: Node | None, path: Path, known: Sequence[keys.Key]) -> dict[str, Node] | None:
    """The values of a mapping by key; notes unknown keys and missing ones."""
    entries = mapping(findings, node, path)
    if node is None or entries is None:
        return None
    names = [key.name for key in known]
    for name, (key_node, _) in entries.items():
        if name not in names:
            findings.add(key_node, (*path, name), f"is not a known key{suggestion(name, names)}")
    for key in known:
        if key.required and key.name not in entries:
            findings.add(node, (*path, key.name), f"is missing: {key.doc[0].lower()}{key.doc[1:].rstrip('.')}")
    return {name: value for name, (_, value) in entries.items() if name in names}


def mapping(findings: Findings, node: Node | None, path: Path) -> dict[str, tuple[Scalar, Node]] | None:
    """The entries of a mapping by key, each with the node of its key; None if it is no mapping."""
    if isinstance(node, Mapping):
        return node.entries
    if node is not None and not isinstance(node, Broken):
        findings.add(node, path, f"must be a mapping of keys to values, not {kind_text(node)}")
    return None


def items(findings: Findings, node: Node | None, path: Path, *, most: int = 100_000) -> list[tuple[Node, Path]]:
    """The items of a list, each with its path; none if it is no list."""
    if isinstance(node, SequenceNode):
        if len(node.items) > most:
            findings.add(node, path, f"has {len(node.items)} items; at most {most} are allowed")
        return [(item, (*path, index)) for index, item in enumerate(node.items)]
    if node is not None and not isinstance(node, Broken):
        hint = "; write [] for none" if isinstance(node, Scalar) and node.kind is ScalarKind.NULL else ""
        findings.add(node, path, f"must be a list, not {kind_text(node)}{hint}")
    return []


def text(
    findings: Findings, node: Node | None, path: Path, *, pattern: str | None = None, longest: int = 128
) -> str | None:
    """Text that is not empty, without control characters, of a pattern if one is given."""
    if node is None or isinstance(node, Broken):
        return None
    if not isinstance(node, Scalar) or node.kind is ScalarKind.NULL:
        findings.add(node, path, f"must be text, not {kind_text(node)}")
        return None
    if node.kind is not ScalarKind.TEXT:
        kind = "a number" if node.kind is ScalarKind.NUMBER else "true or false"
        findings.add(
            node, path, f'{shown(node.text)} is {kind} in YAML, and text is needed; in quotes: "{node.text[:64]}"'
        )
        return None
    value = node.text
    if pattern is not None:
        if re.fullmatch(pattern, value, re.ASCII) is None:
            findings.add(node, path, f"{shown(value)} must be {_PATTERNS.get(pattern, f'of the form {pattern}')}")
            return None
    elif not 1 <= len(value) <= longest or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value if c != "\n"):
        findings.add(node, path, f"{shown(value)} must be 1 to {longest} characters, and no control characters")
        return None
    return value


def one_of(findings: Findings, node: Node | None, path: Path, allowed: Collection[str]) -> str | None:
    """Text that is one of a few words."""
    value = text(findings, node, path)
    if value is None or value in allowed:
        return value
    findings.add(node, path, f"{shown(value)} is not allowed{suggestion(value, allowed)}")
    return None


def boolean(findings: Findings, node: Node | None, path: Path) -> bool | None:
    """`true` or `false`, in that spelling."""
    if node is None or isinstance(node, Broken):
        return None
    if isinstance(node, Scalar) and node.kind is ScalarKind.BOOLEAN and node.text in ("true", "false"):
        return node.text == "true"
    findings.add(node, path, f"must be true or false, not {kind_text(node)}")
    return None


def percent(findings: Findings, node: Node | None, path: Path) -> int | None:
    """A percentage from 0 to 100 with at most two decimal places, in basis points."""
    if node is None or isinstance(node, Broken):
        return None
    if isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and (match := _PERCENT.fullmatch(node.text)):
        basis_points = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
        if basis_points <= BUCKETS:
            return basis_points
    findings.add(node, path, f"must be a number from 0 to 100 with at most two decimal places, not {kind_text(node)}")
    return None


def number(
    findings: Findings,
    node: Node | None,
    path: Path,
    *,
    low: float = float("-inf"),
    high: float = float("inf"),
    rule: str,
) -> float | None:
    """A finite number between two bounds, both excluded; `rule` says so in words."""
    if node is None or isinstance(node, Broken):
        return None
    if isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and _DECIMAL.fullmatch(node.text):
        value = float(node.text)
        if low < value < high:
            return value
    findings.add(node, path, f"must be {rule}, not {kind_text(node)}")
    return None


def duration(findings: Findings, node: Node | None, path: Path) -> timedelta | None:
    """A duration such as `28d`: seconds, minutes, hours, days or weeks."""
    value = text(findings, node, path, pattern=keys.DURATION)
    return None if value is None else int(value[:-1]) * _UNITS[value[-1]]


def instant(findings: Findings, node: Node | None, path: Path) -> datetime | None:
    """A time with a zone, in UTC."""
    value = text(findings, node, path, pattern=keys.TIME)
    if value is None or node is None:
        return None
    try:
        return parse_time(value)
    except (ValueError, OverflowError):
        findings.add(node, path, f"{shown(value)} is not a date and time that exists")
        return None


def parse_time(value: str) -> datetime:
    """The instant that a text such as `2026-11-08T00:00:00Z` stands for, in UTC; ValueError if none."""
    if re.fullmatch(keys.TIME, value, re.ASCII) is None:
        raise ValueError(f"{shown(value)} must be {_PATTERNS[keys.TIME]}")
    return datetime.fromisoformat(value.upper()).astimezone(UTC)


def attribute_value(findings: Findings, node: Node, path: Path) -> str | None:
    """What a request attribute may equal: text, or a whole number or boolean as it is written."""
    if isinstance(node, Scalar) and (node.kind is ScalarKind.BOOLEAN or _INTEGER.fullmatch(node.text)):
        return node.text
    return text(findings, node, path, longest=256)


def target(findings: Findings, node: Node, path: Path) -> str | None:
    """A worker address: `dns:///host:port`, `host:port` with port 1 to 65535, or `unix:path`."""
    value = text(findings, node, path, longest=512)
    if value is None:
        return None
    match = _HOST_AND_PORT.fullmatch(value)
    if (match and 1 <= int(match[1]) <= 65535) or (value.startswith("unix:") and _UNIX.fullmatch(value)):
        return value
    findings.add(node, path, f"{shown(value)} must be `dns:///host:port`, `host:port` (port 1 to 65535) or `unix:path`")
    return None


def shares(weights: Sequence[tuple[str, int]]) -> str:
    """Group shares for a message, and what they sum to."""
    listed = ", ".join(f"{name} {percent_text(weight)}" for name, weight in weights[:10])
    more = ", …" if len(weights) > 10 else ""
    return f"{listed}{more}, which is {percent_text(sum(weight for _, weight in weights))} together"


_PATTERNS: Final = {
    keys.NAME: "1 to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit",
    keys.VERSION: "1 to 64 letters, digits, `.`, `_`, `+` or `-`, beginning with a letter or digit",
    keys.CURRENCY: "an ISO 4217 code such as `EUR`",
    keys.DURATION: "a duration in seconds, minutes, hours, days or weeks, such as `30s`, `90m`, `12h`, `28d` or `4w`",
    keys.TIME: "a time with its zone, such as `2026-11-08T00:00:00Z` or `2026-11-08T01:00:00+01:00`",
}
