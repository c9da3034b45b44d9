"""YAML text to nodes with their positions, under a strict subset of YAML 1.2.

Strict means: one document; no anchors, aliases, merge keys, tags or directives (so nothing can multiply); no key twice;
no tabs as indentation; bounded size, depth and number of nodes. A plain scalar is what YAML 1.2 says, so `no`, `on` and
`yes` are text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import yaml

from abfleet_experiments.file.errors import ConfigError, shown

MAX_BYTES: Final = 16 * 1024 * 1024
"""Room for 100,000 overrides of the longest ids that people use, and small enough to be read in a second or two."""
MAX_DEPTH: Final = 16
"""The deepest value of the file sits at 8."""
TOO_DEEP: Final = f"is nested deeper than {MAX_DEPTH} levels"
MAX_NODES: Final = 600_000
MAX_ERRORS: Final = 100
"""More would hide the first; a file of another kind altogether would give one for each line."""


class ScalarKind(Enum):
    """What a scalar is in YAML 1.2."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "true or false"
    NULL = "nothing"


@dataclass(slots=True, frozen=True)
class Scalar:
    """A value of one piece. `line` and `column` count from 1, `start` and `end` are positions in the text."""

    text: str
    kind: ScalarKind
    line: int
    column: int
    start: int
    end: int


@dataclass(slots=True, frozen=True)
class Sequence:
    """A list; `flow` when written in brackets. Without items, `end` is where the list ends, else it may be later."""

    items: list["Node"]
    line: int
    column: int
    start: int
    end: int
    flow: bool


@dataclass(slots=True, frozen=True)
class Mapping:
    """Keys and values in order; `flow` when written in braces."""

    entries: dict[str, tuple[Scalar, "Node"]]
    line: int
    column: int
    start: int
    end: int
    flow: bool


@dataclass(slots=True, frozen=True)
class Broken:
    """A node whose mistake has been reported, so that it is not reported twice."""

    line: int
    column: int
    start: int
    end: int


Node = Scalar | Sequence | Mapping | Broken
Path = tuple[str | int, ...]

_NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_BOOLEAN = frozenset(("true", "True", "TRUE", "false", "False", "FALSE"))
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


def path_text(path: Path) -> str:
    """A key path as people write it: `experiments[0].groups[1].weight`, `models["v1.2.3"].target`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step) and len(step) <= 64:
            text += f".{step}" if text else step
        else:
            cut = step if len(step) <= 64 else f"{step[:64]}…"
            text += '["' + "".join(c if c.isprintable() else "�" for c in cut) + '"]'
    return text


class Findings:
    """The mistakes found so far in one file; grows only by `add`."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[ConfigError] = []

    def add(self, node: Node | None, path: Path, message: str) -> None:
        """Notes a mistake at a node, or at the beginning of the file."""
        line, column = (node.line, node.column) if node else (1, 1)
        self.errors.append(ConfigError(self.file, line, column, path_text(path), message))

    def in_order(self) -> list[ConfigError]:
        """The mistakes in the order of the file."""
        return sorted(self.errors, key=lambda error: (error.line, error.column))


def cut_short(errors: list[ConfigError]) -> list[ConfigError]:
    """The errors, and instead of those past the hundredth one that says how many there are."""
    if len(errors) <= MAX_ERRORS:
        return errors
    last = errors[MAX_ERRORS]
    more = f"and {len(errors) - MAX_ERRORS} more mistakes"
    return [*errors[:MAX_ERRORS], ConfigError(last.file, last.line, last.column, "", more)]


_OLD_BREAKS = frozenset("\x85\u2028\u2029")


class _Stop(Exception):
    """The text cannot be read on; why has been noted."""


def parse(text: str, findings: Findings) -> Node | None:
    """The document's root, or None if the text could not be read; mistakes go to the findings. Raises nothing."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        findings.add(None, (), f"is larger than {MAX_BYTES // 1024 // 1024} MiB")
        return None
    try:
        return _Reader(text, findings).document()
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
            self._findings.add(None, (), "is empty; it needs at least `version`, `default` and `models`")
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
            self._findings.add(Broken(line, column, start, end), path, "is an alias (*); write the value out")
            return Broken(line, column, start, end)
        if event.anchor is not None:
            self._findings.add(
                Broken(line, column, start, end), path, "has an anchor (&); write the value out each time"
            )
        if event.tag is not None:
            self._findings.add(Broken(line, column, start, end), path, f"has a tag {shown(event.tag)}; remove it")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value.translate(self._restored), _kind(event), line, column, start, end)
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
                    self._findings.add(key, path, "has a list or mapping as a key; keys are text")
                self._node(next(self._events), path)
                continue
            value = self._node(next(self._events), (*path, key.text))
            if key.text in entries:
                first = entries[key.text][0].line
                self._findings.add(key, (*path, key.text), f"is given twice; the first one is in line {first}")
            else:
                entries[key.text] = (key, value)
        return Mapping(entries, *_span(opening, event), flow=bool(opening.flow_style))

    def _stop(self, event: Any, path: Path, message: str) -> None:
        mark = event.start_mark
        self._findings.add(Broken(mark.line + 1, mark.column + 1, mark.index, mark.index), path, message)
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
        findings.add(place, (), message)
        return
    position = int(getattr(error, "position", 0) or 0)
    reason = str(getattr(error, "reason", "") or error).splitlines()[0]
    before = text[:position]
    line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
    findings.add(Broken(line, column, position, position), (), f"holds a character that YAML forbids: {reason}")
