"""YAML text to nodes with their positions, under a strict subset of YAML 1.2.

Strict means: one document; no anchors, aliases, merge keys, tags or directives (so nothing can multiply); no key twice;
no tabs as indentation; bounded size, depth and number of nodes. A plain scalar is what YAML 1.2 says, so `no`, `on` and
`yes` are text.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml
from abfleet_process.declarations.nodes import (
    Broken,
    Findings,
    Mapping,
    Node,
    Path,
    Scalar,
    ScalarKind,
    Sequence,
    shown,
)

MAX_BYTES: Final = 16 * 1024 * 1024
"""Room for 100,000 overrides of the longest ids that people use, and small enough to be read in a second or two."""
MAX_DEPTH: Final = 16
"""The deepest value of the file sits at 8."""
TOO_DEEP: Final = f"is nested deeper than {MAX_DEPTH} levels"
MAX_NODES: Final = 600_000
_NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_BOOLEAN = frozenset(("true", "True", "TRUE", "false", "False", "FALSE"))
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_OLD_BREAKS = frozenset("\x85\u2028\u2029")


class _Stop(Exception):
    """The text cannot be read on; why has been noted."""


def parse(text: str, findings: Findings) -> Node | None:
    """The document's root, or None if the text could not be read; both go to the findings. Raises nothing."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        findings.add((), f"is larger than {MAX_BYTES // 1024 // 1024} MiB")
        return None
    try:
        findings.root = _Reader(text, findings).document()
        return findings.root
    except _Stop:
        return None
    except yaml.YAMLError as error:
        _note_syntax(error, text, findings)
        return None


class _Reader:
    """Builds nodes from the parser's events, and stops at the first thing that a strict file forbids."""

    def __init__(self, text: str, findings: Findings) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text, self._restored = _without_old_breaks(text)
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self._findings = findings
        self._left = MAX_NODES

    def document(self) -> Node | None:
        next(self._events)  # the stream
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            self._findings.add((), "is empty; it needs at least `version`, `default` and `models`")
            return None
        if start.version or start.tags:
            self._stop(start, (), "has a YAML directive (%); remove it")
        root = self._node(next(self._events), ())
        next(self._events)  # the end of the document
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            self._stop(after, (), "holds a second YAML document; put everything in the first")
        return root

    def _node(self, event: Any, path: Path) -> Node:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        start, end = event.start_mark.index, event.end_mark.index
        self._left -= 1
        if self._left < 0:
            self._stop(event, (), f"holds more than {MAX_NODES} values")
        if isinstance(event, yaml.AliasEvent):
            self._findings.add(path, "is an alias (*); write the value out", _place(event))
            return _place(event)
        if event.anchor is not None:
            self._findings.add(path, "has an anchor (&); write the value out each time", _place(event))
        if event.tag is not None:
            self._findings.add(path, f"has a tag {shown(event.tag)}; remove it", _place(event))
        if isinstance(event, yaml.ScalarEvent):
            text = event.value.translate(self._restored) if self._restored else event.value
            return Scalar(text, _kind(event), line, column, start, end)
        if len(path) >= MAX_DEPTH:
            self._stop(event, path, TOO_DEEP)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, path)
        return self._mapping(event, path)

    def _sequence(self, opening: Any, path: Path) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return Sequence(items, *_span(opening, event), flow=bool(opening.flow_style))

    def _mapping(self, opening: Any, path: Path) -> Mapping:
        entries: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, path if isinstance(event, yaml.ScalarEvent) else (*path, "?"))
            if not isinstance(key, Scalar):
                if not isinstance(key, Broken):
                    self._findings.add(path, "has a list or mapping as a key; keys are text", key)
                self._node(next(self._events), path)
                continue
            value = self._node(next(self._events), (*path, key.text))
            if key.text in entries:
                first = entries[key.text][0].line
                self._findings.add((*path, key.text), f"is given twice; the first one is in line {first}", key)
            else:
                entries[key.text] = (key, value)
        return Mapping(entries, *_span(opening, event), flow=bool(opening.flow_style))

    def _stop(self, event: Any, path: Path, message: str) -> None:
        self._findings.add(path, message, _place(event))
        raise _Stop


def _without_old_breaks(text: str) -> tuple[str, dict[int, int]]:
    """The text with what ended a line in YAML 1.1 alone put into characters that it does not have, and the way back.

    In YAML 1.2 NEL and the line and paragraph separators of Unicode are ordinary characters, of a comment too, but the
    parser knows 1.1. Marks stay where they are, because one character takes the place of one.
    """
    if not (found := _OLD_BREAKS.intersection(text)):
        return text, {}
    free = (code for code in range(0xE000, 0xF900) if chr(code) not in text)  # for private use
    there = dict(zip(map(ord, sorted(found)), free, strict=False))
    return text.translate(there), {stand_in: code for code, stand_in in there.items()}


def _place(event: Any) -> Broken:
    mark = event.start_mark
    return Broken(mark.line + 1, mark.column + 1, mark.index, event.end_mark.index)


def _span(opening: Any, closing: Any) -> tuple[int, int, int, int]:
    """Line, column, start and end of a list or mapping."""
    mark = opening.start_mark
    return mark.line + 1, mark.column + 1, mark.index, closing.end_mark.index


def _kind(event: Any) -> ScalarKind:
    """What YAML 1.2 makes of a scalar; one in quotes or in a block is text."""
    if not event.implicit[0]:
        return ScalarKind.TEXT
    text = event.value
    if text in _BOOLEAN:
        return ScalarKind.BOOLEAN
    if text in _NULL:
        return ScalarKind.NULL
    return ScalarKind.NUMBER if _NUMBER.fullmatch(text) else ScalarKind.TEXT


def _note_syntax(error: yaml.YAMLError, text: str, findings: Findings) -> None:
    """Says in one line what the parser says in several."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        place = Broken(mark.line + 1, mark.column + 1, mark.index, mark.index)
        message = f"is not YAML: {error.problem or error.context}"
        if text[mark.index : mark.index + 1] == "\t" or "'\\t'" in message:
            message = "is not YAML: a tab; indent with spaces"
        if "nesting depth" in message:  # newer parsers give up by themselves where it is very deep
            message = TOO_DEEP
        findings.add((), message, place)
        return
    position = int(getattr(error, "position", 0) or 0)
    reason = str(getattr(error, "reason", "") or error).splitlines()[0]
    before = text[:position]
    line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
    findings.add((), f"holds a character that YAML forbids: {reason}", Broken(line, column, position, position))
