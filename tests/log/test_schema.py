"""The decision log's schema: a right line passes, and each wrong one is told by field."""

import json
import math
from typing import Any

import pytest
from abfleet_experiments import assign
from abfleet_log import schema
from abfleet_log.schema import EVENTS, problems

from tests.experiments.json_schema_check import mistakes

LINE: dict[str, Any] = {
    "schema": 1,
    "event": "exposure",
    "ts": "2026-11-08T12:00:00.123456Z",
    "request_id": "r",
    "user_id": "u",
    "layer": "default",
    "experiment": "e",
    "group": "control",
    "bucket": 4690,
    "reason": "allocated",
    "allocation": "5b1ae4db5200",
    "propensity": 0.7,
    "model_version": "v1",
    "served_version": "v1",
    "fallback": None,
    "attempts": 1,
    "status": "OK",
    "latency_ms": 3.25,
    "items": [101, 102],
    "history_length": 5,
    "attributes": {"country": "DE"},
    "config_revision": "e890b5a7d8e4",
    "synthetic": False,
    "trace_id": None,
    "client": None,
    "router": "router-1",
}


def test_every_field_of_an_exposure() -> None:
    """The line has the fields that the log promises, and no field is named twice."""
    assert problems(LINE) == []
    assert mistakes(schema.json_schema(), LINE) == []
    for event in EVENTS.values():
        names = [field.name for field in event.fields]
        assert len(names) == len(set(names))
    assert set(EVENTS) == {"exposure", "outcome", "allocation", "reload", "conclusion", "rejected", "shadow"}


@pytest.mark.parametrize("field", [f for f in schema.EXPOSURE.fields if not f.optional], ids=lambda f: f.name)
def test_a_missing_field_is_told(field: schema.Field) -> None:
    """Without any one field the line is wrong, and the field is named; null is right only where it may be."""
    line = {name: value for name, value in LINE.items() if name != field.name}
    assert problems(line) == [f"{field.name}: is missing"]
    assert mistakes(schema.json_schema(), line)
    never_null = not field.nullable or field.name == "model_version"  # which is null where two versions are interleaved
    assert problems({**LINE, field.name: None}) == ([f"{field.name}: is null"] if never_null else [])
    assert bool(mistakes(schema.json_schema(), {**LINE, field.name: None})) is not field.nullable


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ts", "2026-11-08T12:00:00Z"),
        ("ts", 5),
        ("bucket", 1.5),
        ("bucket", True),
        ("bucket", "1"),
        ("reason", "luck"),
        ("propensity", "0.7"),
        ("fallback", "sad"),
        ("status", "ok"),
        ("items", [1, "2"]),
        ("items", 1),
        ("synthetic", 0),
        ("attributes", {"a": 1}),
        ("attributes", []),
        ("config_revision", "E890B5A7D8E4"),
        ("latency_ms", True),
        ("user_id", 42),
    ],
)
def test_a_wrong_value_is_told(field: str, value: object) -> None:
    """Each type is checked, by the function and by the published schema alike."""
    (problem,) = problems({**LINE, field: value})
    assert problem.startswith(f"{field}: is ")
    assert mistakes(schema.json_schema(), {**LINE, field: value})


@pytest.mark.parametrize("value", [1e19, -1.1e15, math.nan, math.inf, 10**19])
def test_a_value_that_no_sum_could_take_is_told(value: float) -> None:
    """An outcome's value is a finite number of a size that can be added up; nan is no number of JSON at all."""
    (outcome,) = (event for event in EVENTS.values() if event.name == "outcome")
    words: dict[str, Any] = {"schema": 1, "event": "outcome", "type": "purchase", "outcome_id": "o", "value": value}
    times = dict.fromkeys(("ts", "received_ts"), LINE["ts"])
    line = dict.fromkeys(field.name for field in outcome.fields if field.nullable) | times | words
    (problem,) = problems(line)
    assert problem.startswith("value: is ")
    assert math.isnan(value) or mistakes(schema.json_schema(), line)
    for allowed in (1e15, -1e15, 0, None):
        assert problems({**line, "value": allowed}) == []
        assert mistakes(schema.json_schema(), {**line, "value": allowed}) == []


def test_other_lines() -> None:
    """Another schema and an unknown event are told; a further field is let pass, so that newer lines can be read."""
    assert problems({**LINE, "schema": 2}) == ["schema: is 2, and must be 1"]
    assert problems({**LINE, "event": "x"}) == [
        "event: is 'x', and must be one of exposure, outcome, allocation, reload, conclusion, rejected, shadow"
    ]
    assert problems({**LINE, "new": 1}) == []


INTERLEAVED = {
    **LINE,
    "group": "interleaved",
    "model_version": None,
    "served_version": None,
    "versions": ["v1", "v2"],
    "items": [5, 3, 9],
    "teams": "=AB",
}


def test_a_list_out_of_two_has_both_versions_and_teams() -> None:
    """No version is assigned alone; each item has a letter, and a list that one version gave alone has none."""
    alone = {name: value for name, value in INTERLEAVED.items() if name != "teams"} | {
        "served_version": "v1",
        "fallback": "timeout",
    }
    names = {**INTERLEAVED, "items": None, "item_names": ["a", "b", "c"]}
    for line in (INTERLEAVED, alone, names, {**INTERLEAVED, "items": [], "teams": ""}):
        assert problems(line) == []
        assert mistakes(schema.json_schema(), line) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"teams": "=AC"}, "teams: is '=AC', and must be: letters A, B and ="),
        ({"teams": "=A"}, "teams: must be as long as the list of items, of two versions"),
        ({"items": None}, "teams: must be as long as the list of items, of two versions"),
        ({"versions": ["v1"]}, "versions: has 1 items, and must have 2"),
        ({"model_version": "v1"}, "model_version: must be null where there are versions"),
    ],
)
def test_what_does_not_fit_together_is_told(changes: dict[str, Any], problem: str) -> None:
    """Letters for items that are not there, one version, or one that is assigned beside the two."""
    assert problems({**INTERLEAVED, **changes}) == [problem]


def test_reasons_are_those_of_assignment() -> None:
    """Every reason that assignment gives may be logged."""
    given = {value for name, value in vars(assign).items() if name.isupper() and isinstance(value, str)}
    assert given == set(schema.REASONS)


def test_schema_is_json() -> None:
    """The schema can be published as it is."""
    assert json.loads(json.dumps(schema.json_schema())) == schema.json_schema()
