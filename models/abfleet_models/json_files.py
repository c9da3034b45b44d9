"""JSON files of a registry, read by declared keys. Every mistake names its field, the value and what is allowed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from abfleet_process.declarations import keys as declared
from abfleet_process.declarations.keys import Key
from abfleet_process.declarations.kinds import pattern
from abfleet_process.declarations.nodes import Findings, node_of

from abfleet_models.errors import ManifestError, shown

MAX_JSON_BYTES: Final = 4 * 1024 * 1024
"""Far above any real metadata (a few kilobytes with its golden answer); keeps a hostile file from filling memory."""
SHA256: Final = pattern("[0-9a-f]{64}", "a sha256 of 64 lower-case hex digits", "sha256", "sha256s")
_TOO_DEEP: Final = "is nested too deeply"


def read_json(path: Path, source: str) -> dict[str, Any]:
    """The JSON object in a file. Raises ManifestError when it cannot be read or is not one object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ManifestError(source, [f"is larger than {MAX_JSON_BYTES} bytes"])
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(source, [f"cannot be read: {error.strerror or error}"]) from error
    return parse_json(content, source)


def parse_json(content: bytes, source: str) -> dict[str, Any]:
    """The JSON object in these bytes. Raises ManifestError when it is not one object."""
    try:
        data = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ManifestError(source, [_TOO_DEEP]) from error
    except ValueError as error:  # bad UTF-8 and bad JSON alike
        raise ManifestError(source, [f"is not JSON: {error}"]) from error
    if not isinstance(data, dict):
        raise ManifestError(source, [f"{shown(data)} is not an object"])
    return data


def read_keys(data: Mapping[str, Any], source: str, keys: Iterable[Key]) -> dict[str, Any]:
    """The value of each declared key of an object. Raises ManifestError with every mistake."""
    findings = Findings()
    try:
        values = declared.read_object(findings, node_of(dict(data)), (), keys)
    except RecursionError as error:
        raise ManifestError(source, [_TOO_DEEP]) from error
    refuse(findings, source)
    assert values is not None, "an object has values, or a mistake"
    return values


def refuse(findings: Findings, source: str) -> None:
    """Raises ManifestError where mistakes were found."""
    if findings:
        raise ManifestError(source, [f"{one.key_path}: {one.message}" for one in findings.in_order()])
