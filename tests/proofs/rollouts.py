"""The examples for Argo Rollouts and Flagger in docs/autopilot.md against those projects' own schemas.

`./run prove rollouts CRD…`, where each CRD is a file of definitions, as these projects publish them:
`manifests/crds/analysis-template-crd.yaml` of argoproj/argo-rollouts and `charts/flagger/crds/crd.yaml` of
fluxcd/flagger. Unknown keys are errors. Ends with 1 where an example is wrong, or no schema given knows its kind. That
this check finds mistakes is shown too: each example with a key or a value changed must fail.
"""

import argparse
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.structural_schema import mistakes, objects_in, schemas_in

PAGE = Path(__file__).resolve().parents[2] / "docs" / "autopilot.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 where every example is right."""
    parser = argparse.ArgumentParser(prog="./run prove rollouts", description=__doc__)
    parser.add_argument("definitions", nargs="+", type=Path)
    schemas: dict[tuple[str, str], dict[str, Any]] = {}
    for path in parser.parse_args(arguments).definitions:
        schemas |= schemas_in(path)
    wrong = 0
    examples = objects_in(PAGE)
    for example in examples:
        name = f"{example['apiVersion']} {example['kind']}"
        schema = schemas.get((example["apiVersion"], example["kind"]))
        if schema is None:
            print(f"{name}: no schema given knows it")
            wrong += 1
            continue
        found = list(mistakes(example, schema))
        unseen = [what for what, changed in spoilt(example) if not list(mistakes(changed, schema))]
        for text in (*found, *(f"a mistake that is not found: {what}" for what in unseen)):
            print(f"{name}: {text}")
        wrong += bool(found or unseen)
        print(f"{name}: {'wrong' if found else 'valid'}; {len(list(spoilt(example)))} made mistakes were tried")
    return 1 if wrong or not examples else 0


def spoilt(example: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The example with one mistake each: a key of `spec` that is misspelt, however deep."""
    for path in _paths(example["spec"]):
        changed = copy.deepcopy(example)
        place: Any = changed["spec"]
        for step in path[:-1]:
            place = place[step]
        place[f"{path[-1]}X"] = place.pop(path[-1])
        yield ".".join(map(str, path)), changed


def _paths(value: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        if isinstance(name, str):
            yield (*before, name)
        yield from _paths(one, (*before, name))


if __name__ == "__main__":
    raise SystemExit(main())
