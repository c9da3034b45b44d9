"""Keys declared for a file of any kind: one declaration reads, describes and documents them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from abfleet_process.declarations import nodes
from abfleet_process.declarations.keys import ANYTHING, Key, either, list_of, map_of, read_object, section, table
from abfleet_process.declarations.kinds import (
    DURATION,
    FLAG,
    TIME,
    exactly,
    free_text,
    number,
    parse_time,
    pattern,
    text,
    whole,
    word,
)
from abfleet_process.declarations.nodes import Findings, Mapping, Node, Scalar, ScalarKind, Sequence

PART = section(
    "part",
    "mapping, below",
    Key("name", text(8), "The name."),
    Key("share", number("a share", 0, 1, ends=True), "How much of it.", required=True),
)
KEYS = (
    Key("version", exactly(1), "Version.", required=True),
    Key("digest", pattern("[0-9a-f]{4}", "4 hex digits", "digest", "digests"), "Of the file."),
    Key("every", DURATION, "How often.", default=timedelta(hours=36)),
    Key("since", TIME, "From when on.", without="the first one"),
    Key("kind", word("small", "large"), "Which.", default="small"),
    Key("parts", list_of(either(text(8), PART), most=2, empty="is empty"), "What it is made of."),
    Key("counts", map_of(text(4), number("a number")), "How many of each.", default={}),
    Key("whole", FLAG, "Whether it is whole.", default=False),
)


def node_of(value: Any, line: int = 1) -> Node:
    """A plain value as a node, whose items stand on a line each."""
    if isinstance(value, dict):
        entries = {
            name: (Scalar(name, ScalarKind.TEXT, line + n, 1, 0, 0), node_of(one, line + n))
            for n, (name, one) in enumerate(value.items())
        }
        return Mapping(entries, line, 1, 0, 0, flow=False)
    if isinstance(value, list):
        return Sequence([node_of(one, line + n) for n, one in enumerate(value)], line, 1, 0, 0, flow=False)
    if isinstance(value, bool):
        return Scalar(str(value).lower(), ScalarKind.BOOLEAN, line, 9, 0, 0)
    return Scalar(str(value), ScalarKind.TEXT if isinstance(value, str) else ScalarKind.NUMBER, line, 9, 0, 0)


def read(value: Any) -> tuple[dict[str, Any] | None, list[str]]:
    findings = Findings()
    findings.root = node_of(value)
    values = read_object(findings, findings.root, (), KEYS)
    return values, [f"{one.line}: {one.key_path}: {one.message}" for one in findings.in_order()]


def test_values_and_defaults() -> None:
    """What is there is read, and the rest has its default."""
    given = {"version": 1, "since": "2026-11-08T01:00:00+01:00", "parts": ["a", {"share": 1}], "counts": {"b": 2.5}}
    values, mistakes = read(given)
    assert mistakes == []
    assert values == {
        "version": 1,
        "digest": None,
        "every": timedelta(hours=36),
        "since": datetime(2026, 11, 8, tzinfo=UTC),
        "kind": "small",
        "parts": ["a", {"name": None, "share": 1.0}],
        "counts": {"b": 2.5},
        "whole": False,
    }


def test_every_mistake_is_named_at_once() -> None:
    """Unknown, missing and wrong keys are noted with line, key, what is there and what is allowed."""
    wrong = {"digset": "00ff", "digest": "00fg", "kind": "smal", "parts": [7, {"share": 1.5}], "whole": 1}
    values, mistakes = read(wrong)
    assert mistakes == [
        "1: digset: is not a known key; did you mean `digest`?",
        "1: version: is missing: version",
        "2: digest: `00fg` must be 4 hex digits",
        "3: kind: `smal` is not allowed; did you mean `small`?",
        '4: parts[0]: `7` is a number, and text is needed; in quotes: "7"',
        "5: parts[1].share: must be a share from 0 to 1, not `1.5`",
        "5: whole: must be true or false, not `1`",
    ]
    assert values is not None
    assert values["parts"] == [None, {"name": None, "share": None}]
    assert read([])[1] == ["1: : must be a mapping of keys to values, not a list"]


def test_schema_and_table_say_the_same() -> None:
    """Defaults are written as a file has them, in both."""
    assert KEYS[2].schema == {
        "type": "string",
        "pattern": "^[1-9][0-9]{0,5}(s|m|h|d|w)$",
        "description": "How often.",
        "default": "36h",
    }
    assert KEYS[3].schema["description"] == "From when on. Default: the first one."
    assert PART.definition["properties"]["share"]["maximum"] == 1
    assert table("it.", (KEYS[2], KEYS[3], KEYS[5], KEYS[7])).splitlines()[2:] == [
        "| `it.every` | duration | `36h` | How often. |",
        "| `it.since` | time with its zone | the first one | From when on. |",
        "| `it.parts` | list of 1 to 2 texts or mapping, below | none | What it is made of. |",
        "| `it.whole` | `true` or `false` | `false` | Whether it is whole. |",
    ]


@pytest.mark.parametrize("value", ["2026-02-30T00:00:00Z", "0001-01-01T00:00:00+01:00", "2026-11-08", "now"])
def test_a_time_that_is_none_is_a_value_error(value: str) -> None:
    """One error whatever is wrong: the form, the day, or an instant before the year 1."""
    with pytest.raises(ValueError, match=r"must be a time with its zone|is not a date and time that exists"):
        parse_time(value)


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**63), 1.5e-300, 10**30, "", "a\n", [], [1, [2]], {}, {"a": {"": None}, "b": ["c"]}]
)
def test_a_json_value_is_a_node_and_back(value: Any) -> None:
    """With its type: 1 is no true, and "1" no 1."""
    again = nodes.value_of(nodes.node_of(value))
    assert repr(again) == repr(value)
    assert read_object(Findings(), nodes.node_of({"it": value}), (), [Key("it", ANYTHING, "It.")]) == {"it": value}


@pytest.mark.parametrize(
    ("kind", "good", "wrong"),
    [
        (whole(-1, 20), [-1, 0, 20], [-2, 21, 1.0, "1", True, None, [], 10**30]),
        (free_text(0, 3), ["", "a\tb"], ["abcd", 1, None, {}]),
        (free_text(1, 3), ["a"], [""]),
        (number("a number"), [1.5e-300, 10**17, -2], ["1", float("inf"), float("nan"), True]),
    ],
)
def test_values_of_json(kind: Any, good: list[Any], wrong: list[Any]) -> None:
    """What a kind takes comes as it is, and what it refuses is noted once, with what is allowed."""
    for value in good:
        findings = Findings()
        assert kind.read(findings, nodes.node_of(value), ("it",)) == value
        assert not findings
    for value in wrong:
        findings = Findings()
        assert kind.read(findings, nodes.node_of(value), ("it",)) is None
        assert len(findings.in_order()) == 1
