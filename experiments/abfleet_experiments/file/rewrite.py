"""Writes a change into the text of an experiments file, and leaves every other character as it is.

Knows positions in the text and the few differences that `change` makes: the default, an experiment gone or ended, one
switched on or off, its shares, its traffic, ramp rows added or given up. Comments, order and notation stay, which a
dump of parsed values would not do. The result is read again and must mean exactly what was asked, else it is not given
out.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from abfleet_process.declarations.nodes import Findings, Mapping, Node, Scalar, Sequence

from abfleet_experiments.config import (
    Config,
    EndedExperiment,
    Experiment,
    RampRow,
    effective,
    percent_text,
    time_text,
)
from abfleet_experiments.file.document import parse
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load_text

_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))
_BOM = "\ufeff"


class RewriteError(ValueError):
    """The text is written in a way that cannot be changed safely; the message says what to do by hand."""


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def rewrite(text: str, new: Config) -> str:
    """The text of a valid experiments file, changed so that it means `new`. Raises RewriteError."""
    bare = text.removeprefix(_BOM)
    root = parse(bare, Findings())
    if not isinstance(root, Mapping):
        raise RewriteError("the file is not a mapping")
    changed = bare
    for edit in sorted(_edits(bare, root, load_text(bare), new), reverse=True):
        changed = changed[: edit.start] + edit.text + changed[edit.end :]
    try:
        right = effective(load_text(changed)) == effective(new)
    except ConfigErrors:
        right = False
    if not right:
        raise RewriteError("the file is written in a way that cannot be changed safely; please make the change by hand")
    return (_BOM if text.startswith(_BOM) else "") + changed


def _edits(text: str, root: Mapping, old: Config, new: Config) -> Iterator[_Edit]:
    if old.default != new.default:
        yield _replaced(_value(root, "default"), _word(new.default))
    yield from _concluded(text, root, new.concluded[len(old.concluded) :])
    node = root.entries["experiments"][1] if "experiments" in root.entries else None
    items = node.items if isinstance(node, Sequence) else []
    if isinstance(node, Sequence) and old.experiments and not new.experiments:
        yield _emptied(text, root, node)
        if node.flow:
            return
    for item, was in zip(items, old.experiments, strict=True):
        if all(was.name != experiment.name for experiment in new.experiments):
            assert isinstance(node, Sequence)
            yield _removed(text, node, item)
        elif isinstance(item, Mapping):
            yield from _experiment_edits(text, item, was, new.experiment(was.name))


def _concluded(text: str, root: Mapping, added: Iterable[EndedExperiment]) -> Iterator[_Edit]:
    """Experiments that have ended, after those that are in the file already, in the notation that it has."""
    rows = [
        f"{{experiment: {_word(one.experiment)}, winner: {_word(one.winner)}, at: {time_text(one.at)}}}"
        for one in added
    ]
    if not rows:
        return
    if "concluded" not in root.entries:
        yield _key_after(text, root, "concluded", rows)
        return
    node = root.entries["concluded"][1]
    if not isinstance(node, Sequence):
        raise RewriteError("`concluded` must be written as a list; please make the change by hand")
    yield _appended(text, node, len(node.items), rows)


def _key_after(text: str, root: Mapping, key: str, rows: list[str]) -> _Edit:
    """A new list after the file's last value."""
    end = max(_content_end(value) for _, value in root.entries.values())
    if root.flow:
        return _Edit(end, end, f", {key}: [{', '.join(rows)}]")
    column = next(iter(root.entries.values()))[0].column
    return _line_after(text, end, column, f"{key}:", *(f"  - {row}" for row in rows))


def _experiment_edits(text: str, node: Mapping, was: Experiment, now: Experiment) -> Iterator[_Edit]:
    if was.enabled is not now.enabled:
        yield _set(text, node, "enabled", "true" if now.enabled else "false")
    if was.traffic_bp != now.traffic_bp:
        yield _set(text, node, "traffic", percent_text(now.traffic_bp))
    groups = node.entries["groups" if was.interleave is None else "interleave"][1]
    for item, before, after in zip(_items(groups), was.groups, now.groups, strict=was.interleave is None):
        if before.weight_bp != after.weight_bp:
            yield _replaced(_value(item, "weight"), percent_text(after.weight_bp))
    kept = sum(1 for before, after in zip(was.ramp, now.ramp, strict=False) if before == after)
    rows = [_row(now, row) for row in now.ramp[kept:]]
    ramp = node.entries["ramp"][1] if "ramp" in node.entries else None
    if isinstance(ramp, Sequence):
        for item in ramp.items[kept:]:
            yield _removed(text, ramp, item)
        if rows:
            yield _appended(text, ramp, kept, rows)
    elif rows:
        yield _ramp_begun(text, node, groups, rows)


def _row(experiment: Experiment, row: RampRow) -> str:
    """A ramp row in braces; groups without a share are left out, as is the one group of an interleaving."""
    shares = zip(experiment.groups, row.weights_bp, strict=True)
    weights = [f"{_word(group.name)}: {percent_text(bp)}" for group, bp in shares if bp]
    if experiment.interleave is not None:
        weights = []
    return "{" + ", ".join([f"at: {time_text(row.at)}", f"traffic: {percent_text(row.traffic_bp)}", *weights]) + "}"


def _word(text: str) -> str:
    """A name as YAML text; in quotes where a reader of any YAML version might take it for something else."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9._+-]*", text) is not None and text.lower() not in _WORDS
    return text if plain else json.dumps(text)


def _items(node: Node) -> list[Node]:
    return node.items if isinstance(node, Sequence) else []


def _value(node: Node, key: str) -> Scalar:
    value = node.entries[key][1] if isinstance(node, Mapping) else None
    if not isinstance(value, Scalar):
        raise RewriteError(f"`{key}` must be written as one value; please make the change by hand")
    return value


def _replaced(node: Scalar, text: str) -> _Edit:
    return _Edit(node.start, node.end, text)


def _set(text: str, node: Mapping, key: str, value: str) -> _Edit:
    """Gives a key of an experiment a value; a new key goes after the name."""
    if key in node.entries:
        return _replaced(_value(node, key), value)
    name_key, name = node.entries["name"]
    if node.flow:
        return _Edit(name.end, name.end, f", {key}: {value}")
    return _line_after(text, name.end, name_key.column, f"{key}: {value}")


def _appended(text: str, ramp: Sequence, kept: int, rows: list[str]) -> _Edit:
    """Rows after those that are kept, in the notation of the ramp."""
    if not ramp.items:
        return _Edit(ramp.start, ramp.end, f"[{', '.join(rows)}]")
    if not kept:
        raise RewriteError("no row of the ramp would be kept; please edit the ramp by hand")
    end = _content_end(ramp.items[kept - 1])
    if ramp.flow:
        return _Edit(end, end, "".join(f", {row}" for row in rows))
    return _line_after(text, end, ramp.column, *(f"- {row}" for row in rows))


def _ramp_begun(text: str, node: Mapping, groups: Node, rows: list[str]) -> _Edit:
    """A first ramp, after the groups, or after the versions that are interleaved."""
    end = _content_end(groups)
    if node.flow:
        return _Edit(end, end, f", ramp: [{', '.join(rows)}]")
    column = next(iter(node.entries.values()))[0].column
    return _line_after(text, end, column, "ramp:", *(f"  - {row}" for row in rows))


def _emptied(text: str, root: Mapping, experiments: Sequence) -> _Edit:
    """An empty list in the place of the experiments, whose own lines `_removed` takes away if they are a block."""
    if experiments.flow:
        return _Edit(experiments.start, experiments.end, "[]")
    colon = text.index(":", root.entries["experiments"][0].end)
    return _Edit(colon + 1, colon + 1, " []")


def _removed(text: str, items: Sequence, item: Node) -> _Edit:
    """An item's own lines, those of an experiment or of a ramp row; comments above it stay."""
    if items.flow:
        index = items.items.index(item)
        if index:
            return _Edit(_content_end(items.items[index - 1]), _content_end(item), "")
        return _Edit(item.start, items.items[1].start, "")
    dash = text.rfind("-", 0, item.start)
    if text[dash + 1 : item.start].strip():
        raise RewriteError("a comment stands between a dash and the first key after it; please remove the item by hand")
    start = text.rfind("\n", 0, dash) + 1
    return _Edit(start, _line_end(text, _content_end(item)), "")


def _content_end(node: Node) -> int:
    """Where the last character of a value is; the end of a block would be where the next one begins."""
    if isinstance(node, Mapping) and not node.flow and node.entries:
        return max(_content_end(value) for _, value in node.entries.values())
    if isinstance(node, Sequence) and not node.flow and node.items:
        return max(_content_end(item) for item in node.items)
    return node.end


def _line_end(text: str, position: int) -> int:
    """The position after the line feed that follows `position`; the text's length on the last line."""
    if position and text[position - 1] == "\n":
        return position
    newline = text.find("\n", position)
    return len(text) if newline < 0 else newline + 1


def _line_after(text: str, position: int, column: int, *lines: str) -> _Edit:
    """New lines, indented to a column that counts from 1, below the line of a position."""
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _line_end(text, position)
    before = "" if text[:at].endswith("\n") else newline
    return _Edit(at, at, before + "".join(" " * (column - 1) + line + newline for line in lines))
