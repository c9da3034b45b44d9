"""Changes a registry on disk, one atomic rename at a time. Knows its shape, and nothing of training and serving (IO).

Readers never see half a change: a folder, a link and registry.json each appear whole or not at all. Links say what is
released; registry.json says what was released and when. Promotion, rollback and archiving belong here.
"""

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from abfleet_models.errors import UnknownVersionError
from abfleet_models.fields import read_object, shown
from abfleet_models.manifest import SCHEMA, parse_index, parse_manifest
from abfleet_models.registry import ARCHIVE, INDEX_FILE, METADATA_FILE, METRICS_FILE, MODEL_FILE

Json = Mapping[str, Any]


def install(root: Path, *, model: bytes, metadata: Json, metrics: Json, archived: bool, now: datetime) -> str:
    """Puts a version into the registry, and says what that was: "new", "rebuilt" or "unchanged".

    A version that is there with the same files stays as it is. With other files it is replaced; for the instant between
    two renames its folder is then missing, so replace a version that nothing serves, or give it another name.
    Raises ManifestError when the metadata breaks the schema, and writes nothing then.
    """
    manifest = parse_manifest(metadata)
    parent = root / ARCHIVE if archived else root
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / manifest.version
    files = {
        MODEL_FILE: model,
        METADATA_FILE: to_json(metadata).encode(),
        METRICS_FILE: to_json(metrics).encode(),
    }
    outcome = "new"
    if os.path.lexists(folder):
        outcome = "unchanged" if _same(folder, files) else "rebuilt"
    if outcome != "unchanged":
        _swap_folder(folder, files)
    values = {key: round(value, 4) for key, value in metrics["metrics"].items()}
    entry = {"version": manifest.version, "algorithm": manifest.algorithm, "sha256": manifest.sha256, "metrics": values}
    _register(root, entry, outcome=outcome, now=now)
    return outcome


def point(root: Path, alias: str, version: str) -> None:
    """Lets an alias lead to a version, by renaming a new link over the old one: readers see the one or the other."""
    if not (root / version / METADATA_FILE).is_file():
        raise UnknownVersionError(f"model {shown(version)} is not in the registry, so {alias} cannot lead to it")
    fresh = root / f".{alias}.{os.getpid()}.tmp"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(version)
    fresh.replace(root / alias)


def to_json(value: Json) -> str:
    """JSON for people and for diffs: one key a line, lists of plain values on one line."""
    return _lines(value, "") + "\n"


def _register(root: Path, entry: Json, *, outcome: str, now: datetime) -> None:
    """Lists a version in registry.json, and logs what happened to it, if anything did."""
    path = root / INDEX_FILE
    index: dict[str, Any] = {"schema": SCHEMA, "models": [], "log": []}
    if path.exists():
        index |= read_object(path, INDEX_FILE)
        parse_index(index)
    before = [item for item in index["models"] if item["version"] == entry["version"]]
    if outcome == "unchanged" and before == [entry]:
        return
    others = [item for item in index["models"] if item["version"] != entry["version"]]
    index["models"] = sorted([*others, dict(entry)], key=lambda item: str(item["version"]))
    event = {
        "at": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "event": "rebuilt" if before else "added",
        "version": entry["version"],
        "sha256": entry["sha256"],
    }
    index["log"] = [*index["log"], event]
    _swap_file(path, to_json(index).encode())


def _same(folder: Path, files: Mapping[str, bytes]) -> bool:
    return not folder.is_symlink() and all(
        (folder / name).is_file() and (folder / name).read_bytes() == content for name, content in files.items()
    )


def _swap_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    fresh, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("tmp", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    for name, content in files.items():
        _write(fresh / name, content)
    if os.path.lexists(folder):
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _swap_file(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _write(fresh, content)
    fresh.replace(path)


def _write(path: Path, content: bytes) -> None:
    """Writes and waits for the disk, so that a rename never uncovers an empty file after a power cut."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _lines(value: object, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        rows = (f"{deeper}{json.dumps(key)}: {_lines(item, deeper)}" for key, item in value.items())
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        return "[\n" + ",\n".join(f"{deeper}{_lines(item, deeper)}" for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
