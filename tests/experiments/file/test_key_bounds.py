"""Reader and JSON Schema agree on every key: at its bounds, next to them, and for values of every other type."""

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from abfleet_experiments.file import keys
from abfleet_experiments.file.errors import ConfigError, ConfigErrors
from abfleet_experiments.file.json_schema import json_schema
from abfleet_experiments.file.load import load_text
from abfleet_process.declarations.nodes import Path, path_text

from tests.experiments.json_schema_check import mistakes

TIME = "2026-11-08T00:00:00Z"
GOOD: dict[str, Any] = {
    "version": 1,
    "default": "v1",
    "models": {
        "v1": {
            "target": "h:1",
            "protocol": "oip",
            "model": "m",
            "version": "3",
            "log": {"items": "i", "outputs": ["o"]},
        }
    },
    "name": "ranker",
    "log": {"items": "i", "outputs": ["o"]},
    "holdout": {"percent": 1, "salt": "h"},
    "currency": "EUR",
    "rates": {"USD": 0.9},
    "log_attributes": ["a"],
    "concluded": [{"experiment": "old", "winner": "one", "at": TIME}],
    "metrics": {
        "m": {
            "type": "mean",
            "outcome": "x",
            "window": "7d",
            "winsorise": 0.9,
            "direction": "up",
            "margin": 0.1,
            "currency": "EUR",
            "rates": {"USD": 1},
        },
        "r": {"type": "ratio", "outcome": "x", "over": "y"},
    },
    "shadow": [{"model": "v1", "percent": 10, "of": ["v2"]}],
    "experiments": [
        {
            "name": "e",
            "owner": "o",
            "hypothesis": "h",
            "enabled": True,
            "salt": "s",
            "layer": "l",
            "traffic": 100,
            "audience": {"a": {"min": 1, "max": 2}, "b": {"present": True}, "c": "x"},
            "overrides": {"u": "control"},
            "groups": [{"name": "control", "model": "v1", "weight": 100, "control": True}],
            "ramp": [{"at": TIME, "traffic": 100, "control": 100}],
            "metrics": {
                "primary": "ctr",
                "guardrails": [
                    {"name": "error_rate", "margin": 0.1, "points": 0.1, "outages_per_day": 2},
                    {"name": "response_time_p95", "threshold_ms": 5},
                ],
                "secondary": ["ctr"],
            },
            "plan": {"effect": 0.1, "power": 0.8, "horizon": "28d", "look": "1d", "minimum": "7d"},
            "exclude": [{"from": TIME, "to": "2026-11-09T00:00:00Z", "why": "w"}],
            "autopilot": {
                "halt": ["harm"],
                "absent": "10m",
                "ramp": {"traffic": [50], "hold": "1d", "users": 10, "detect": 3},
                "conclude": "ship",
            },
        },
        {"name": "i", "layer": "m", "interleave": ["v1", "v2"]},
    ],
}
EXPERIMENT: Path = ("experiments", 0)
PLACES: dict[str, Path] = {
    "file": (),
    "model": ("models", "v1"),
    "logged": ("log",),
    "holdout": ("holdout",),
    "experiment": EXPERIMENT,
    "group": (*EXPERIMENT, "groups", 0),
    "ramp_row": (*EXPERIMENT, "ramp", 0),
    "excluded": (*EXPERIMENT, "exclude", 0),
    "autopilot": (*EXPERIMENT, "autopilot"),
    "autopilot_ramp": (*EXPERIMENT, "autopilot", "ramp"),
    "metrics_plan": (*EXPERIMENT, "metrics"),
    "guardrail": (*EXPERIMENT, "metrics", "guardrails", 0),
    "plan": (*EXPERIMENT, "plan"),
    "metric": ("metrics", "m"),
    "shadow": ("shadow", 0),
    "conclusion": ("concluded", 0),
    "range": (*EXPERIMENT, "audience", "a"),
    "presence": (*EXPERIMENT, "audience", "b"),
    "guardrail.threshold_ms": (*EXPERIMENT, "metrics", "guardrails", 1),
    "metric.over": ("metrics", "r"),
    "experiment.interleave": ("experiments", 1),
}
# Rules between keys are the reader's alone: where, and what they say.
BETWEEN_KEYS = (
    ("", "is not one of the models"),
    ("", "is not a metric"),
    ("", "is not a group of the experiment"),
    ("", "is allowed for"),
    ("", "is allowed with"),
    ("", "the protocol `oip` needs"),
    ("", "is longer than the `horizon`"),
    ("", "is already the name"),
    ("", "exactly one group"),
    ("", "must sum to 100"),
    ("", "weights must be equal"),
    ("", "is more than"),
    ("", "is a built-in metric"),
    ("", "must differ from"),
    ("", "is the `currency` itself"),
    ("", "later than the time of the row above"),
    ("", "is also the name"),
    ("", "is also the salt"),
    ("", "overlaps another window"),
    ("", "must be before `to`"),
    ("", "is above `max`"),
    ("autopilot", "needs a treatment"),
    ("autopilot", "must be above"),
    (".ramp", "is not a known key"),
    (".guardrails", "is given twice"),
    ("concluded", "is given twice"),
    ("].model", "is given twice"),
    ("", "is the `model` itself"),
    ("", "has no output with items"),
)
TYPES = (None, True, False, 0, 1, -1, 0.5, 2.5, "", "x", "0.8", "true", [], [1], [[]], {}, {"x": 1})
NO_NUMBERS = (math.nan, math.inf, -math.inf)
TEXTS = ("a" * 64, "a" * 65, "-a", "a\tb", "0d", "1d", "999999s", "1000000s", "1y", "EU", "EUR", "EURO", TIME, "2026")
SCHEMA: dict[str, Any] = json_schema()
DEFINITIONS: dict[str, Any] = SCHEMA["$defs"]


def number_bounds(schema: dict[str, Any]) -> Iterator[float]:
    """Each bound, what stands next to it on both sides, and one more and one less."""
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if name in schema:
            bound = schema[name]
            yield from (bound, bound - 1, bound + 1)
            if abs(bound) < 2**53:
                yield from (math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf))
    if "const" in schema:
        yield from (schema["const"], schema["const"] - 1, schema["const"] + 1)


def around(schema: dict[str, Any], good: Any) -> Iterator[Any]:
    """Values at and next to every bound that a schema states, in it and in what it holds."""
    yield from number_bounds(schema)
    for word in schema.get("enum", ()):
        yield from (word, f"{word}x", word.upper())
    for name in ("minLength", "maxLength"):
        for size in (schema[name] - 1, schema[name], schema[name] + 1) if name in schema else ():
            yield "a" * size
    for part in (*schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from around(part, good)
    if schema.get("type") == "array":
        item = good[0] if isinstance(good, list) else good
        if isinstance(item, dict) and "$ref" in schema["items"]:  # the required keys are enough, and quicker
            needed = DEFINITIONS[schema["items"]["$ref"].removeprefix("#/$defs/")]["required"]
            item = {name: item[name] for name in needed}
        for name in ("minItems", "maxItems"):
            for size in (schema[name] - 1, schema[name], schema[name] + 1) if name in schema else ():
                yield [item.replace(item[0], f"{item[0]}{n}") if isinstance(item, str) else item for n in range(size)]
        if isinstance(item, str):
            yield [item, item]
        yield from ([value] for value in (*TYPES, *TEXTS, *around(schema["items"], item)))
    if "propertyNames" in schema:
        held = next(iter(good.values()))
        yield from ({name: held} for name in (*TEXTS, *around(schema["propertyNames"], "")))
        value = schema["additionalProperties"]
        name = next(iter(good))
        yield from ({name: one} for one in (*TYPES, *TEXTS, *around(value, held)))
        for size in (1, 2, 31, 32, 33):
            yield {f"{name}{n}": held for n in range(size)}


def at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


def refused(document: dict[str, Any], key_path: str) -> list[ConfigError]:
    """The reader's errors in a key by itself."""
    text = json.dumps(document).replace("NaN", ".nan").replace("Infinity", ".inf")
    try:
        load_text(text)
    except ConfigErrors as errors:
        return [
            error
            for error in errors.errors
            if error.key_path.startswith(key_path)
            and not any(place in error.key_path and rule in error.message for place, rule in BETWEEN_KEYS)
        ]
    return []


def beyond_a_schema(errors: list[ConfigError]) -> bool:
    """Whether what the reader minds is how a value is written, which a schema cannot see."""
    return all(
        "with at most two decimal places" in error.message  # the third one
        or "`dns:///host:port`" in error.message
        or "no control characters" in error.message
        for error in errors
    )


def all_keys() -> list[tuple[str, str]]:
    sections = [one for one in (keys.FILE, *keys.DEFINITIONS) if one.keys]
    return [(section.name, key.name) for section in sections for key in section.keys]


@pytest.mark.parametrize(("section", "name"), all_keys())
def test_reader_and_schema_agree(section: str, name: str) -> None:
    """For each value: the reader refuses it exactly if the schema does, but for how it is written."""
    path: Path = (*PLACES.get(f"{section}.{name}", PLACES[section]), name)
    schema = (SCHEMA if section == "file" else DEFINITIONS[section])["properties"][name]
    good = at(GOOD, path)
    assert mistakes(SCHEMA, GOOD) == []
    tried = accepted = 0
    for value in (*TYPES, *NO_NUMBERS, *TEXTS, *around(schema, good), good):
        document = deepcopy(GOOD)
        at(document, path[:-1])[name] = value
        errors = refused(document, path_text(path))
        wrong = mistakes(SCHEMA, document)
        tried, accepted = tried + 1, accepted + (not wrong)
        if wrong:
            assert errors, f"{section}.{name}: the reader takes {value!r:.100}, the schema does not: {wrong[0]}"
        else:
            assert beyond_a_schema(errors), f"{section}.{name}: {value!r:.100}: {errors[0]}"
    assert 0 < accepted < tried
