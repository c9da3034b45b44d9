"""The JSON Schema of the experiments file, by which editors complete and check it. Made from the keys alone.

`python -m abfleet_experiments.file.json_schema > experiments/recommender.schema.json` writes it anew. Rules between
keys, such as weights that sum to 100, are beyond it; `abfleet validate` knows them.
"""

import json
from collections.abc import Sequence

from abfleet_experiments.file import keys


def json_schema() -> dict[str, object]:
    """The schema (draft 2020-12) as plain JSON values."""
    definitions = {name: _object(members) for name, members in keys.OBJECTS.items()}
    # A ramp row has the groups' names as keys, which only the file knows.
    definitions["ramp_row"]["additionalProperties"] = {"type": "number", "minimum": 0, "maximum": 100}
    definitions["condition"] = dict(keys.CONDITION)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "abfleet experiments file",
        **_object(keys.FILE),
        "$defs": definitions,
    }


def json_schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _object(members: Sequence[keys.Key]) -> dict[str, object]:
    properties: dict[str, object] = {}
    for key in members:
        shown: dict[str, object] = {**key.schema, "description": key.doc}
        if key.default is not None:
            shown["default"] = key.default
        properties[key.name] = shown
    required = [key.name for key in members if key.required]
    schema: dict[str, object] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


if __name__ == "__main__":
    print(json_schema_text(), end="")
