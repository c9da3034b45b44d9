"""Holds an object against a schema as a CustomResourceDefinition has it: unknown keys are errors; oneOf is not seen."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_FENCE: Final = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def objects_in(page: Path) -> list[dict[str, Any]]:
    """The Kubernetes objects in the YAML blocks of a page."""
    blocks = (yaml.safe_load(block) for block in _FENCE.findall(page.read_text(encoding="utf-8")))
    return [block for block in blocks if isinstance(block, dict) and "apiVersion" in block]


def schemas_in(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By (apiVersion, kind) the schema of each definition in a file."""
    found = {}
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if isinstance(document, dict) and document.get("kind") == "CustomResourceDefinition":
            spec = document["spec"]
            for version in spec["versions"]:
                key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                found[key] = version["schema"]["openAPIV3Schema"]
    return found


def mistakes(value: Any, schema: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """What a schema does not allow, with where it stands."""
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{where}: {value!r} is neither a whole number nor text"
        return
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{where}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value!r} does not match {schema['pattern']}"
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{where}: {value!r} is out of range"
    if isinstance(value, dict):
        yield from _members(value, schema, where)
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from mistakes(one, schema.get("items", {}), f"{where}[{number}]")


def _members(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    known, more = schema.get("properties"), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}: has no {name}"
    for name, one in value.items():
        inside = f"{where}.{name}".lstrip(".")
        if known is not None and name in known:
            yield from mistakes(one, known[name], inside)
        elif isinstance(more, dict):
            yield from mistakes(one, more, inside)
        elif known is not None and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{inside}: is not known"
