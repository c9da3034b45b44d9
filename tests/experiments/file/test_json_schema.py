"""The published JSON Schema: what is committed is what the keys say, and it agrees with the reader."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from abfleet_experiments.file import keys
from abfleet_experiments.file.json_schema import json_schema, json_schema_text
from abfleet_experiments.file.key_tables import with_tables

from tests.experiments.json_schema_check import mistakes
from tests.experiments.mistakes import MISTAKES, VALID

ROOT = Path(__file__).parents[3]
# Rules between keys, rules of YAML's notation, and rules on text that a pattern would make unreadable.
BEYOND_A_SCHEMA = {
    "no model of a server",
    "model of a worker",
    "version of a worker",
    "outages of a response time",
    "window backwards",
    "window before the ramp",
    "windows that overlap",
    "autopilot steps down",
    "autopilot beyond the slice",
    "unknown default",
    "unknown model",
    "sum",
    "three decimals",
    "exponent",
    "no control",
    "same group twice",
    "url",
    "port",
    "holdout salt",
    "layer salt",
    "salt with control character",
    "override of no group",
    "override with a tab",
    "audience backwards",
    "ramp sum",
    "ramp unlike weights",
    "ramp unknown group",
    "ramp over traffic",
    "ramp backwards",
    "ramp no such day",
    "metric",
    "metric that cannot judge",
    "guardrail twice",
    "threshold",
    "points",
    "minimum",
    "metric named as built in",
    "concluded twice",
    "no such version interleaved",
    "interleaved and metrics",
    "interleaved and autopilot",
    "forced into another group than interleaved",
    "interleaved, and one logs no items",
    "shares of an interleaving",
    "shadow of no model",
    "shadow of calls of no model",
    "shadow of itself",
    "shadow twice",
    "concluded and running",
    "duplicate key",
    "duplicate user",
    "list as key",
    "merge key",
    "model as number",
    "models key as number",
    "currency of a count",
    "rate of the currency itself",
    "rates of a metric without its currency",
    "rates without a currency",
    "loud boolean",
    "override by number",
    "ramp day only",
    "ramp no zone",
    "no boolean",
}


def _values(text: str) -> Any:
    """The plain values, read as YAML 1.2 reads them as far as the schema can tell: times are text."""
    return yaml.load(text, Loader=yaml.BaseLoader if False else _Loader)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def test_committed_schema_is_current() -> None:
    """`python -m abfleet_experiments.file.json_schema` gives what experiments/recommender.schema.json holds."""
    assert (ROOT / "experiments/recommender.schema.json").read_text(encoding="utf-8") == json_schema_text()
    assert json.loads(json_schema_text()) == json_schema()


def test_the_shipped_file_names_and_matches_the_schema() -> None:
    """Editors find the schema by the first line, and it accepts the file."""
    text = (ROOT / "experiments/recommender.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=recommender.schema.json"
    assert mistakes(json_schema(), _values(text)) == []
    assert mistakes(json_schema(), _values(VALID)) == []


@pytest.mark.parametrize("name", sorted(MISTAKES.keys() - BEYOND_A_SCHEMA))
def test_the_schema_refuses_what_the_reader_refuses(name: str) -> None:
    """A mistake within one key is seen by an editor already."""
    old, new, _, _ = MISTAKES[name]
    assert mistakes(json_schema(), _values(VALID.replace(old, new.replace("§", ""), 1)))


def test_what_is_beyond_the_schema_is_known() -> None:
    """The list of exceptions names real cases only."""
    assert MISTAKES.keys() >= BEYOND_A_SCHEMA


def test_the_tables_of_keys_are_current() -> None:
    """`python -m abfleet_experiments.file.key_tables` leaves docs/configuration.md as it is, and no key is left out."""
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert with_tables(page) == page
    tables = set(re.findall(r"<!-- keys: (\w+) -->", page))
    assert tables == {one.name for one in (keys.FILE, *keys.DEFINITIONS) if one.keys}
