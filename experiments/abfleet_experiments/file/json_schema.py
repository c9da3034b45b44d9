"""The JSON Schema of the experiments file, by which editors complete and check it. Made from the keys alone.

`python -m abfleet_experiments.file.json_schema > experiments/recommender.schema.json` writes it anew. Rules between
keys, such as weights that sum to 100, are beyond it; `abfleet validate` knows them.
"""

import json

from abfleet_experiments.file import keys


def json_schema() -> dict[str, object]:
    """The schema (draft 2020-12) as plain JSON values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "abfleet experiments file",
        **keys.FILE.definition,
        "$defs": {one.name: one.definition for one in keys.DEFINITIONS},
    }


def json_schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(json_schema_text(), end="")
