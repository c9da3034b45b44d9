"""Reads a model that is to be added, and examines its answers. Writes to a scratch folder only.

What can be computed need not be given: schema, sha256, size, the signature, the golden answers, and for a model file
all of its metadata.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from abfleet_models import disk
from abfleet_models.adding.drafting import (
    AddOptions,
    draft,
    faces,
    recommender_problem,
    refuse_unserved,
    rewritten,
    suggested_renames,
)
from abfleet_models.adding.drawn_cases import SEED
from abfleet_models.adding.given_files import add_weights, read_given
from abfleet_models.adding.golden_drafts import golden_cases, golden_rankings, histories_of_named, lacks_answers
from abfleet_models.adding.recommender_checks import check_contract, refuse_nameless
from abfleet_models.errors import IntegrityError
from abfleet_models.golden.answers import cases_of
from abfleet_models.golden.arrays import Array, feeds
from abfleet_models.golden.joining import crowd_difference, unjoinable
from abfleet_models.golden.verification import compare_golden
from abfleet_models.graph.reading import CATALOGUE, GraphFile, NotOnnxError, read_int64
from abfleet_models.item_names import ITEMS_FILE, read_names
from abfleet_models.manifest import SCHEMA, parse_manifest, parse_signature
from abfleet_models.registry import METADATA_FILE, MODEL_FILE, ModelVersion
from abfleet_models.runs import OpenedGraph, OpenedModel, latency_us
from abfleet_models.signature import RECOMMENDER, TENSORS, Kind, Signature, as_json, differences

NOT_GIVEN = "not given"
KEYS = ("schema", "version", "sha256", "size_bytes", "model", "signature", "training", "code", "seed", "golden")
"""The order in which metadata.json is written."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be added: its files, what it costs, and what was found in it."""

    version: str
    files: Mapping[str, bytes]
    """By name, metadata.json completed."""
    latency_us: Mapping[str, float]
    """Microseconds a request, by the shape of the run."""
    found: Sequence[str]
    """What the model is and what was done to it, a line each."""


def examine(
    path: Path, scratch: Path, histories: Sequence[Sequence[int]], options: AddOptions | None = None
) -> Candidate:
    """Reads a folder or a model file, completes it in the empty folder `scratch`, and checks what a release promises.

    `histories`: int64[batch, length], whose answers become the golden ones of a recommender that brings none; where
    its items have names, histories of its own first and last ones do.
    Raises ManifestError, IntegrityError or another RegistryError that names what is wrong.
    """
    options = options or AddOptions()
    metadata, files, source = read_given(path, options.version)
    version: str = metadata["version"]
    given_kind = _given_kind(metadata)
    if None not in (given_kind, options.kind) and given_kind != options.kind:
        raise IntegrityError(f"--kind: is {options.kind}, and the signature of {METADATA_FILE} is that of {given_kind}")
    try:
        content, graph, kind, changes = rewritten(files[MODEL_FILE], options, given_kind)
    except NotOnnxError as error:
        raise IntegrityError(f"{version}: {MODEL_FILE} {error}") from error
    refuse_unserved(version, graph)
    _describe(metadata, files[MODEL_FILE], content, graph)
    files[MODEL_FILE] = content
    add_weights(metadata, files, source, graph.external)
    folder = disk.prepare_folder(scratch / version, files)
    names = len(read_names(files[ITEMS_FILE])) if ITEMS_FILE in files else 0
    if "signature" not in metadata or "golden" not in metadata or lacks_answers(metadata["golden"]):
        asked = histories_of_named(names) if names else histories
        _complete(metadata, graph, kind, OpenedGraph(version, content, folder), asked, options)
    model = OpenedModel(ModelVersion(version, folder, parse_manifest(metadata)))
    compare_golden(model)
    _refuse_chance(model)
    said = [
        f"{version} is {'a recommender' if kind == RECOMMENDER else 'a model of tensors'}: it {faces(graph)}",
        *changes,
    ]
    if kind == RECOMMENDER:
        check_contract(model)
        if names:
            refuse_nameless(model, read_int64(content, CATALOGUE), names)
    else:
        reason = _batching(model, options)
        metadata["signature"]["batch"] = reason is None
        model = OpenedModel(ModelVersion(version, folder, parse_manifest(metadata)))
        said += [_batching_line(reason), *_recommender_hint(graph)]
    if names:
        said.append(f"{ITEMS_FILE} names {names:,} items{'; callers give and get names' * (kind == RECOMMENDER)}")
    ordered = sorted(metadata.items(), key=lambda item: KEYS.index(item[0]) if item[0] in KEYS else len(KEYS))
    files[METADATA_FILE] = disk.to_json(dict(ordered)).encode()
    return Candidate(version, files, latency_us(model), said)


def _refuse_chance(model: OpenedModel) -> None:
    """A model that draws random numbers can neither be verified nor compared."""
    try:
        compare_golden(model)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; the model gave another answer to the same request") from error


def _given_kind(metadata: Mapping[str, Any]) -> Kind | None:
    """What metadata say of the kind: a signature without one is a recommender's."""
    signature = metadata.get("signature")
    if not isinstance(signature, dict):
        return None
    return TENSORS if signature.get("kind") == TENSORS else RECOMMENDER


def _describe(metadata: dict[str, Any], given: bytes, content: bytes, graph: GraphFile) -> None:
    """Fills in what needs no run of the model. `given` is the file that came, `content` what was made of it."""
    computed = {"sha256": hashlib.sha256(given).hexdigest(), "size_bytes": len(given)}
    for key, value in computed.items():
        if metadata.setdefault(key, value) == value:  # else it is refused with the rest, and shows what it was
            metadata[key] = hashlib.sha256(content).hexdigest() if key == "sha256" else len(content)
    metadata.setdefault("schema", SCHEMA)
    metadata.setdefault("model", {"algorithm": graph.producer[:64] or NOT_GIVEN})
    metadata.setdefault("training", {"name": NOT_GIVEN})
    metadata.setdefault("code", {"version": NOT_GIVEN})
    metadata.setdefault("seed", SEED)


def _complete(
    metadata: dict[str, Any],
    graph: GraphFile,
    kind: Kind,
    opened: OpenedGraph,
    histories: Sequence[Sequence[int]],
    options: AddOptions,
) -> None:
    """Fills in `signature` and `golden` where they are missing, from the graph and from the model's answers."""
    version = metadata["version"]
    if "signature" in metadata:
        signature = parse_signature(metadata)
        _refuse_other(version, graph, signature)
    else:
        signature = draft(version, graph, kind, opened, options)
    given = metadata.get("golden")
    if kind == TENSORS:
        metadata["golden"], signature = golden_cases(given if isinstance(given, dict) else None, signature, opened)
    elif given is None:
        metadata["golden"] = golden_rankings(version, histories, signature, opened)
    metadata.setdefault("signature", as_json(signature))


def _refuse_other(version: str, graph: GraphFile, signature: Signature) -> None:
    """Says where the graph is not what metadata promise, and for a recommender what would make it one."""
    differing = [
        *differences(graph.inputs, signature.inputs, "input"),
        *differences(graph.outputs, signature.outputs, "output"),
    ]
    if differing:
        way_out = recommender_problem(graph) if signature.kind == RECOMMENDER else None
        raise IntegrityError(f"{version}: {way_out or '; '.join(differing)}")


def _batching(model: OpenedModel, options: AddOptions) -> str | None:
    """Why requests of a model of tensors are not joined into one run; None where they are."""
    signature, golden = model.model_version.manifest.signature, model.model_version.manifest.golden
    if not options.batch:
        return "--no-batch"
    reason = unjoinable(signature.inputs)
    if reason is not None:
        return reason
    cases = [feeds(case, signature.inputs) for case in cases_of(golden)]
    try:
        return crowd_difference(partial(_in_order, model, [spec.name for spec in signature.outputs]), cases)
    except IntegrityError as error:
        return f"it cannot answer golden cases in one batch: {error}"


def _in_order(model: OpenedModel, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
    found = model.run(inputs)
    return [found[name] for name in names]


def _batching_line(reason: str | None) -> str:
    if reason is None:
        return "requests are joined into one run: golden cases have bit for bit the same answers in a batch and alone"
    return f"requests are not joined into one run: {reason}"


def _recommender_hint(graph: GraphFile) -> list[str]:
    renames = suggested_renames(graph)
    return [f"if it is a recommender with other names, add it with {renames}"] if renames else []
