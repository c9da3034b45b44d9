"""Keys of a mapping, each declared once for its reader, a JSON Schema and a table in a page; lists of such mappings."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from abfleet_process.counting import counted
from abfleet_process.declarations.nodes import (
    Broken,
    Findings,
    Mapping,
    Node,
    Path,
    Scalar,
    ScalarKind,
    Sequence,
    kind_text,
    shown,
    suggestion,
    value_of,
)

Schema = dict[str, Any]
Read = Callable[[Findings, Node, Path], Any]
"""The value of a node; None if it is wrong, which is noted."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be.

    Attributes:
        schema: In JSON Schema (draft 2020-12).
        words, many: One such value and several, for a table of keys: `duration`, `durations`.
        written: Gives a value as a file has it.
        form: What a node of this kind is, whatever is in it.
        name, definition: Of a kind that `schema` only refers to.
        keys: Those of a `section`.
    """

    read_node: Read
    schema: Schema
    words: str
    many: str = ""
    written: Callable[[Any], Any] = lambda value: value
    form: type[Node] = Scalar
    name: str = ""
    definition: Schema = field(default_factory=dict)
    keys: tuple["Key", ...] = ()

    def read(self, findings: Findings, node: Node, path: Path) -> Any:
        """The value; None if it is wrong, which is noted unless it was before."""
        return None if isinstance(node, Broken) else self.read_node(findings, node, path)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping.

    Attributes:
        kind: What it holds.
        doc: What it is for, in a sentence or more.
        default: The value where it is not given, as the kind reads it; None for "nothing".
        without: What holds where it is not given, in words, if no one value says it.
    """

    name: str
    kind: Kind
    doc: str
    required: bool = False
    default: Any = None
    without: str = ""

    @property
    def schema(self) -> Schema:
        """Its JSON Schema with description and default."""
        schema = {**self.kind.schema, "description": self.doc + (f" Default: {self.without}." if self.without else "")}
        return schema if self.default is None else {**schema, "default": self.kind.written(self.default)}

    def row(self, place: str = "") -> str:
        """Its row in a table: key, holds, default, meaning. `place`: in front of the name, as `plan.`."""
        default = self.without or ("as below" if self.kind.keys else "none")
        if self.default or self.default in (0, False):
            written = self.kind.written(self.default)
            default = f"`{written if isinstance(written, str) else json.dumps(written)}`"
        return f"| `{place}{self.name}` | {self.kind.words} | {'required' if self.required else default} | {self.doc} |"


def table(place: str, keys: Iterable[Key]) -> str:
    """A Markdown table of keys; `place` is in front of each name, as `plan.`."""
    return "\n".join(
        ["| key | holds | default | meaning |", "|---|---|---|---|", *(key.row(place) for key in keys), ""]
    )


def read_object(
    findings: Findings, node: Node, path: Path, keys: Iterable[Key], others: Kind | None = None
) -> dict[str, Any] | None:
    """The value of each key by its name; None for one that is wrong, and if the node is no mapping at all.

    A key that is not given has its default. Unknown keys are noted, missing ones that are required, and wrong values.
    With `others` unknown keys are values of that kind instead.
    """
    if not isinstance(node, Mapping):
        findings.add(path, f"must be a mapping of keys to values, not {kind_text(node)}", node)
        return None
    known = {key.name: key for key in keys}
    values = {key.name: key.default for key in known.values()}
    for name, (key_node, value) in node.entries.items():
        kind = known[name].kind if name in known else others
        if kind is None:
            findings.add((*path, name), f"is not a known key{suggestion(name, known)}", key_node)
        else:
            values[name] = kind.read(findings, value, (*path, name))
    for key in known.values():
        if key.required and key.name not in node.entries:
            message = f"is missing: {key.doc[0].lower()}{key.doc[1:].rstrip('.')}"
            findings.add((*path, key.name), message, node)
    return values


def section(
    name: str,
    words: str,
    *keys: Key,
    others: Kind | None = None,
    empty: str = "",
    remark: str = "",
    one_of: tuple[str, ...] = (),
) -> Kind:
    """A mapping with declared keys.

    Args:
        name: Of its definition in a schema.
        words: What a table of keys says of it, with a link to its own table.
        others: What further keys hold; None if there are none.
        empty: What is wrong with one without keys, where one is needed.
        remark: Its description in a schema, beside other kinds.
        one_of: Names of keys of which exactly one is given.
    """

    def read(findings: Findings, node: Node, path: Path) -> dict[str, Any] | None:
        if empty and isinstance(node, Mapping) and not node.entries:
            findings.add(path, empty, node)
        values = read_object(findings, node, path, keys, others)
        if one_of and isinstance(node, Mapping):
            given = [key for key in one_of if key in node.entries]
            if not given:
                findings.add((*path, one_of[0]), f"is missing; give {' or '.join(f'`{key}`' for key in one_of)}", node)
            for key in given[1:]:
                message = f"is not allowed beside `{given[0]}`; give one of the two"
                findings.add((*path, key), message, node.entries[key][0])
        return values

    required = [key.name for key in keys if key.required]
    definition = {
        "type": "object",
        "properties": {key.name: key.schema for key in keys},
        "additionalProperties": False if others is None else others.schema,
        **({"required": required} if required else {}),
        **({"minProperties": 1} if empty else {}),
        **({"oneOf": [{"required": [key]} for key in one_of]} if one_of else {}),
    }
    schema = {"$ref": f"#/$defs/{name}", **({"description": remark} if remark else {})}
    return Kind(read, schema, words, words, form=Mapping, name=name, definition=definition, keys=keys)


def list_of(
    item: Kind, *, most: int | None = None, empty: str = "", distinct: bool = False, exactly: int | None = None
) -> Kind:
    """A list; `empty` says what is wrong with one of none, where one is needed; `exactly`: how many items it has."""

    def read(findings: Findings, node: Node, path: Path) -> list[Any] | None:
        if not isinstance(node, Sequence):
            hint = "; write [] for none" if isinstance(node, Scalar) and node.kind is ScalarKind.NULL else ""
            findings.add(path, f"must be a list, not {kind_text(node)}{hint}", node)
            return None
        if empty and not node.items:
            findings.add(path, empty, node)
        if most is not None and len(node.items) > most:
            findings.add(path, f"has {len(node.items)} items; at most {most} are allowed", node)
        if exactly is not None and len(node.items) != exactly:
            findings.add(path, f"has {counted(len(node.items), 'item')}; exactly {exactly} are needed", node)
        values: list[Any] = []
        for index, one in enumerate(node.items):
            value = item.read(findings, one, (*path, index))
            if distinct and value is not None and value in values:
                findings.add((*path, index), f"{shown(value)} is given twice", one)
            values.append(value)
        return values

    schema = {
        "type": "array",
        "items": item.schema,
        **({"minItems": 1} if empty else {}),
        **({"uniqueItems": True} if distinct else {}),
        **({} if most is None else {"maxItems": most}),
        **({} if exactly is None else {"minItems": exactly, "maxItems": exactly}),
    }
    if exactly is not None:
        return Kind(read, schema, f"list of {exactly} {item.many}", form=Sequence)
    count = "" if most is None else f"{'1 to' if empty else 'up to'} {most:,} "
    return Kind(read, schema, f"list of {count}{item.many}", form=Sequence)


ANYTHING = Kind(lambda _, node, __: value_of(node), {}, "anything", "values")
"""Whatever a file has there, as plain JSON values."""


def map_of(name: Kind, value: Kind, *, most: int | None = None, empty: str = "", counted: str = "keys") -> Kind:
    """A mapping whose keys are data; `empty` says what is wrong with one of none, where one is needed."""

    def read(findings: Findings, node: Node, path: Path) -> dict[str, Any] | None:
        if isinstance(node, Mapping):
            if empty and not node.entries:
                findings.add(path, empty, node)
            if most is not None and len(node.entries) > most:
                findings.add(path, f"has {len(node.entries)} {counted}; at most {most} are allowed", node)
            for key, (key_node, _) in node.entries.items():
                name.read(findings, key_node, (*path, key))
        return read_object(findings, node, path, (), value)

    schema = {
        "type": "object",
        "propertyNames": name.schema,
        "additionalProperties": value.schema,
        **({"minProperties": 1} if empty else {}),
        **({} if most is None else {"maxProperties": most}),
    }
    words = f"mapping of {name.many} to {value.many}" + ("" if most is None else f", up to {most}")
    return Kind(read, schema, words, form=Mapping)


def either(*kinds: Kind, name: str = "", called: str = "") -> Kind:
    """One of several kinds, told apart by the form of what is there, and then by a key that one of them needs.

    Args:
        name: Of its definition in a schema; without one it has none of its own.
        called: What a table of keys says of it, in place of the kinds.
    """

    def fit(kind: Kind, node: Node) -> int:
        needed = isinstance(node, Mapping) and any(key.required and key.name in node.entries for key in kind.keys)
        return isinstance(node, kind.form) + needed

    def read(findings: Findings, node: Node, path: Path) -> Any:
        return max(kinds, key=lambda kind: fit(kind, node)).read(findings, node, path)

    definition = {"oneOf": [kind.schema for kind in kinds]}
    words, many = (
        called or " or ".join(texts) for texts in ([one.words for one in kinds], [one.many for one in kinds])
    )
    schema = {"$ref": f"#/$defs/{name}"} if name else definition
    return Kind(read, schema, words, many, name=name, definition=definition)
