"""Reads what is given of a model that is to be added: a file, or a folder with metadata.json. Runs nothing."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from abfleet_models.errors import IntegrityError, ManifestError, shown
from abfleet_models.item_names import ITEMS_FILE, read_names
from abfleet_models.json_files import read_json
from abfleet_models.manifest import NAME_RULE, is_file_name, is_name
from abfleet_models.registry import METADATA_FILE, METRICS_FILE, MODEL_FILE

Given = tuple[dict[str, Any], dict[str, bytes], Path]
"""metadata.json as far as it is given, the files by their names in the registry, and the folder that they are in."""


def read_given(path: Path, version: str | None) -> Given:
    """What is at `path`; `version` is its name where no metadata.json has one. Raises RegistryError."""
    if path.is_dir():
        folder, name = path, MODEL_FILE
        wanted = (path / METADATA_FILE).exists() or version is None
        metadata = read_json(path / METADATA_FILE, METADATA_FILE) if wanted else {}
    elif path.is_file():
        folder, name, metadata = path.parent, path.name, {}
    else:
        raise IntegrityError(f"{shown(str(path))} does not exist; allowed: a model file, or a folder with {MODEL_FILE}")
    _name(metadata, version)
    files = {MODEL_FILE: read_plain(folder, name)}
    if folder == path and (path / METRICS_FILE).exists():
        files[METRICS_FILE] = read_plain(path, METRICS_FILE)
    if (folder / ITEMS_FILE).exists():
        files[ITEMS_FILE] = read_plain(folder, ITEMS_FILE)
        read_names(files[ITEMS_FILE])
        metadata.setdefault("items_sha256", hashlib.sha256(files[ITEMS_FILE]).hexdigest())
    return metadata, files, folder


def _name(metadata: dict[str, Any], version: str | None) -> None:
    found = metadata.setdefault("version", version)
    if found is None:
        raise IntegrityError(f"--version: is missing; a model file without metadata needs it; allowed: {NAME_RULE}")
    if not is_name(found):
        raise ManifestError(METADATA_FILE, [f"version: {shown(found)} is not a version; allowed: {NAME_RULE}"])
    if version not in (None, found):
        raise IntegrityError(
            f"--version: {shown(version)} differs from {shown(found)} in {METADATA_FILE}; leave it out, or change "
            "the file"
        )


def add_weights(metadata: dict[str, Any], files: dict[str, bytes], folder: Path, locations: Iterable[str]) -> None:
    """Takes along the files with weights that metadata name, or where they name none those that the graph asks for."""
    external = metadata.get("external_data")
    if external is None and (asked := sorted(locations)):
        external = metadata["external_data"] = {
            name: hashlib.sha256(read_plain(folder, name)).hexdigest() for name in asked
        }
    for name in external if isinstance(external, dict) else ():
        files[name] = read_plain(folder, name)


def read_plain(folder: Path, name: str) -> bytes:
    """The content of a file in this folder itself. Raises RegistryError."""
    if not is_file_name(name) or name == METADATA_FILE:
        raise ManifestError(METADATA_FILE, [f"external_data: {shown(name)} is not a plain file name"])
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{name} cannot be read: {error.strerror or error}") from error
