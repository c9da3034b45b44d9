"""Reads a model that is to be added, and examines its answers. Writes to a scratch folder only.

What can be computed need not be given: schema, sha256, size, and the golden answers where the metadata has none.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abfleet_models import disk
from abfleet_models.errors import IntegrityError, ManifestError
from abfleet_models.fields import read_object, shown
from abfleet_models.manifest import SCHEMA, is_name, parse_manifest
from abfleet_models.registry import METADATA_FILE, METRICS_FILE, MODEL_FILE, ModelVersion
from abfleet_models.runs import OpenedModel, latency_us
from abfleet_models.verification import compare_golden

UNKNOWN_IDS = (-1, 2**62)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be added: its files, and what it costs."""

    version: str
    files: Mapping[str, bytes]
    """By name, metadata.json completed."""
    latency_us: Mapping[str, float]
    """Microseconds a history, by batch x length."""


def examine(path: Path, scratch: Path, histories: Sequence[Sequence[int]]) -> Candidate:
    """Reads the folder `path`, completes it in the empty folder `scratch`, and checks all that a release promises.

    `histories`: int64[batch, length], whose answers become the golden ones where metadata.json has no `golden`.
    Raises ManifestError, IntegrityError or another RegistryError that names what is wrong.
    """
    if not path.is_dir():
        raise IntegrityError(f"{shown(str(path))} is not a folder with {MODEL_FILE} and {METADATA_FILE}")
    metadata, files = _read(path)
    wants_golden = "golden" not in metadata
    if wants_golden:
        metadata["golden"] = _unanswered(metadata, histories)
    # Parsed before anything is written: the version becomes the name of a folder.
    manifest = parse_manifest(metadata)
    folder = disk.prepare_folder(scratch / manifest.version, files)
    model = OpenedModel(ModelVersion(manifest.version, folder, manifest))
    golden = np.array(manifest.golden.history, dtype=np.int64)
    item_ids, scores = model.answer(golden)
    if wants_golden:
        # Nine digits are enough to give every float32 back.
        metadata["golden"] |= {
            "item_ids": item_ids.tolist(),
            "scores": [[float(f"{score:.9g}") for score in row] for row in scores],
        }
        _refuse_no_ranking(manifest.version, item_ids, scores)
        parse_manifest(metadata)
    else:
        compare_golden(model.model_version, item_ids, scores)
    check_contract(model)
    files[METADATA_FILE] = disk.to_json(metadata).encode()
    return Candidate(manifest.version, files, latency_us(model))


def check_contract(model: OpenedModel) -> None:
    """Checks on the golden histories that an answer depends on its own row alone: not on padding, nor on neighbours.

    Raises IntegrityError with the history that shows it. Also asks for an empty history and for ids that no model has.
    """
    version, golden = model.model_version.version, np.array(model.model_version.manifest.golden.history, dtype=np.int64)
    ids, scores = model.answer(golden)
    for what, history in (
        ("more padding", np.pad(golden, ((0, 0), (3, 0)))),
        ("the histories in another order", golden[::-1]),
    ):
        other_ids, other_scores = model.answer(history)
        if what != "more padding":
            other_ids, other_scores = other_ids[::-1], other_scores[::-1]
        _compare(version, what, (ids, scores), (other_ids, other_scores), model.model_version.manifest.golden.tolerance)
    for row in range(len(golden)):
        alone = model.answer(golden[row : row + 1])
        together = (ids[row : row + 1], scores[row : row + 1])
        _compare(
            version, "being asked alone", together, alone, model.model_version.manifest.golden.tolerance, first=row
        )
    _refuse_no_ranking(version, *model.answer(np.zeros((1, 1), dtype=np.int64)))
    _refuse_no_ranking(version, *model.answer(np.array([UNKNOWN_IDS], dtype=np.int64)))


def _compare(
    version: str,
    what: str,
    expected: tuple[NDArray[np.int64], NDArray[np.float32]],
    found: tuple[NDArray[np.int64], NDArray[np.float32]],
    tolerance: float,
    *,
    first: int = 0,
) -> None:
    allowed = tolerance * np.maximum(np.abs(expected[1]).max(axis=1), np.finfo(np.float32).tiny)
    for row in range(len(expected[0])):
        near = np.abs(expected[1][row] - found[1][row]) <= allowed[row]
        if not (np.array_equal(expected[0][row], found[0][row]) and near.all()):
            raise IntegrityError(f"{version}: {what} changes the answer to golden history {first + row}")


def _refuse_no_ranking(version: str, item_ids: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """Scores must be numbers and fall, ids must be there; nothing else can be sent to a user."""
    if np.isnan(scores).any() or (item_ids < 0).any():
        raise IntegrityError(f"{version}: an answer has a score that is not a number, or an item id below 0")
    if (np.diff(scores.astype(np.float64), axis=1) > 0).any():
        raise IntegrityError(f"{version}: the scores of an answer must be in descending order, the best item first")
    if not (item_ids > 0).any(axis=1).all():
        raise IntegrityError(f"{version}: an answer has no item; a history without known items must get popular ones")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """metadata.json with what can be computed, and the other files."""
    metadata = read_object(path / METADATA_FILE, METADATA_FILE)
    version = metadata.get("version")
    if not is_name(version):
        raise ManifestError(METADATA_FILE, [f"version: {shown(version)} is not a version"])
    external = metadata.get("external_data")
    names = [MODEL_FILE, *(external if isinstance(external, dict) else ())]
    files = {name: _content(path, name) for name in names}
    metadata.setdefault("schema", SCHEMA)
    metadata.setdefault("sha256", hashlib.sha256(files[MODEL_FILE]).hexdigest())
    metadata.setdefault("size_bytes", len(files[MODEL_FILE]))
    if (path / METRICS_FILE).exists():
        files[METRICS_FILE] = _content(path, METRICS_FILE)
    return metadata, files


def _content(path: Path, name: str) -> bytes:
    if PurePosixPath(name).name != name or name in {".", "..", METADATA_FILE} or "\0" in name:
        raise ManifestError(METADATA_FILE, [f"external_data: {shown(name)} is not a plain file name"])
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{name} cannot be read: {error.strerror or error}") from error


def _unanswered(metadata: Mapping[str, Any], histories: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Golden histories whose answers are still to come, so that the rest of the metadata can be checked first."""
    signature = metadata.get("signature")
    k = signature.get("k") if isinstance(signature, dict) else None
    width = k if isinstance(k, int) and 0 < k <= 10_000 else 1
    rows = len(histories)
    return {
        "history": [list(row) for row in histories],
        "item_ids": [[0] * width] * rows,
        "scores": [[0.0] * width] * rows,
    }
