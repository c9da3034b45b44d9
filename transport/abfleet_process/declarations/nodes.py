"""A document as nodes that know where they stand, and what is wrong in it. Knows no notation and no key."""

import difflib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
SHOWN_CHARACTERS = 64


class ScalarKind(Enum):
    """What a scalar is."""

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


def node_of(value: Any) -> Node:
    """A JSON value as a node: that of a document whose places nobody knows."""
    if isinstance(value, dict):
        return Mapping({key: (_text_node(key), node_of(one)) for key, one in value.items()}, 1, 1, 0, 0, flow=True)
    if isinstance(value, list):
        return Sequence([node_of(one) for one in value], 1, 1, 0, 0, flow=True)
    if isinstance(value, str):
        return _text_node(value)
    if value is None or isinstance(value, bool):
        return Scalar(json.dumps(value), ScalarKind.NULL if value is None else ScalarKind.BOOLEAN, 1, 1, 0, 0)
    return Scalar(repr(value), ScalarKind.NUMBER, 1, 1, 0, 0)


def _text_node(text: str) -> Scalar:
    return Scalar(text, ScalarKind.TEXT, 1, 1, 0, 0)


def value_of(node: Node) -> Any:
    """The JSON value that a node was made of."""
    if isinstance(node, Mapping):
        return {key: value_of(one) for key, (_, one) in node.entries.items()}
    if isinstance(node, Sequence):
        return [value_of(one) for one in node.items]
    if not isinstance(node, Scalar) or node.kind is ScalarKind.NULL:
        return None
    if node.kind is ScalarKind.NUMBER:
        return int(node.text) if node.text.removeprefix("-").isdecimal() else float(node.text)
    return node.text if node.kind is ScalarKind.TEXT else node.text == "true"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: where, counted from 1; which key, as `path_text` writes it; what is there and what is allowed."""

    line: int
    column: int
    key_path: str
    message: str


class Findings:
    """The mistakes found so far in one document; grows only by `add`.

    Attributes:
        root: The document, from when it has been read; set only by its reader. By it a path is enough to say where.
    """

    def __init__(self) -> None:
        self.root: Node | None = None
        self._found: list[Mistake] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, message: str, place: Node | None = None) -> None:
        """Notes a mistake of a key: at a node, else at its value, or where it would stand."""
        place = place or self._nearest(path)[0]
        line, column = (place.line, place.column) if place else (1, 1)
        self._found.append(Mistake(line, column, path_text(path), message))

    def given(self, path: Path) -> bool:
        """Whether the document has this key, whatever its value."""
        return self._nearest(path)[1]

    def node(self, path: Path) -> Node | None:
        """The value of a key; if there is none, that of the nearest key around it."""
        return self._nearest(path)[0]

    def key_node(self, path: Path) -> Node | None:
        """A mapping's key itself."""
        around = self.node(path[:-1])
        return around.entries[str(path[-1])][0] if isinstance(around, Mapping) else None

    def in_order(self) -> list[Mistake]:
        """The mistakes in the order of the document."""
        return sorted(self._found, key=lambda mistake: (mistake.line, mistake.column))

    def _nearest(self, path: Path) -> tuple[Node | None, bool]:
        node = self.root
        for step in path:
            if isinstance(node, Mapping) and step in node.entries:
                node = node.entries[str(step)][1]
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            else:
                return node, False
        return node, True


def path_text(path: Path) -> str:
    """A key path as people write it: `experiments[0].groups[1].weight`, `models["v1.2.3"].target`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step) and len(step) <= SHOWN_CHARACTERS:
            text += f".{step}" if text else step
        else:
            cut = step if len(step) <= SHOWN_CHARACTERS else f"{step[:SHOWN_CHARACTERS]}…"
            text += '["' + "".join(c if c.isprintable() else "�" for c in cut) + '"]'
    return text


def shown(value: object) -> str:
    """A value for a message: in backticks, on one line, cut to 64 characters."""
    text = "".join(character if character.isprintable() else "�" for character in str(value)[: SHOWN_CHARACTERS + 1])
    return f"`{text[:SHOWN_CHARACTERS]}…`" if len(text) > SHOWN_CHARACTERS else f"`{text}`"


def kind_text(node: Node) -> str:
    """What a node is, for a message."""
    if isinstance(node, Scalar):
        return "nothing" if node.kind is ScalarKind.NULL else shown(node.text)
    return "a mapping" if isinstance(node, Mapping) else "a list"


def suggestion(word: str, known: Collection[str]) -> str:
    """`; did you mean x?` when one of the known words is close, else what the known words are."""
    if close := difflib.get_close_matches(word[:64], known, n=1, cutoff=0.6):
        return f"; did you mean `{close[0]}`?"
    names = sorted(known) if len(known) <= 20 else [*sorted(known)[:20], "…"]
    return f"; allowed: {', '.join(names)}" if names else "; there are none"
