"""The contents of metadata.json, metrics.json and registry.json, checked and frozen."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from abfleet_process.declarations.keys import ANYTHING, Key, list_of, map_of, section
from abfleet_process.declarations.kinds import exactly, free_text, number, pattern, plain_text, scalar, whole
from abfleet_process.declarations.nodes import Findings, Node, shown

from abfleet_models.golden.answers import GOLDEN, Golden, GoldenCases, golden_of
from abfleet_models.json_files import SHA256, read_keys, refuse
from abfleet_models.signature import SIGNATURES, Signature, kind_of, signature_of

SCHEMA = 1
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
NAME_RULE = "1 to 64 of A-Z a-z 0-9 . _ + -, the first a letter or a digit"


def is_name(value: object) -> bool:
    """Whether `value` may name a version or an alias: one path component that can only lead into the registry."""
    return isinstance(value, str) and re.fullmatch(_NAME, value) is not None


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a model was trained on."""

    name: str
    licence: str
    citation: str
    counts: tuple[tuple[str, int], ...]
    """Name to number: ratings, users, items."""
    files: tuple[tuple[str, str], ...]
    """File name to sha256."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of one version's metadata.json, checked; docs/models.md describes each field."""

    version: str
    sha256: str
    """Of model.onnx."""
    size_bytes: int
    algorithm: str
    description: str
    signature: Signature
    golden: Golden | GoldenCases
    training: TrainingData
    code_version: str
    seed: int
    external_data: tuple[tuple[str, str], ...]
    """Weights kept beside model.onnx, as file name to sha256; empty for a model in one file."""
    items_sha256: str = ""
    """Of items.txt, whose line n is the name of item n; empty where there is none."""

    @property
    def k(self) -> int:
        """The number of items in an answer, from the signature."""
        return self.signature.k

    @property
    def max_history(self) -> int:
        """Known items that count; keep the newest so many."""
        return self.signature.max_history

    @property
    def golden_history(self) -> list[list[int]]:
        """[batch, length] item ids, padded on the left with 0; none of a model that is no recommender."""
        return [list(row) for row in self.golden.history] if isinstance(self.golden, Golden) else []


@dataclass(frozen=True, slots=True)
class Metrics:
    """metrics.json of one version: offline metrics of the model and of the baseline, name to value."""

    version: str
    values: tuple[tuple[str, float], ...]
    baseline: tuple[tuple[str, float], ...]

    def get(self, name: str) -> float | None:
        """The model's metric, None where it was not measured."""
        return dict(self.values).get(name)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What registry.json says of one version."""

    version: str
    sha256: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class Index:
    """registry.json: the versions that were released into this registry, wherever they now are."""

    models: tuple[IndexEntry, ...]


def is_file_name(value: object) -> bool:
    """Whether `value` names a file in a folder itself, and nothing outside of it."""
    return (
        isinstance(value, str)
        and PurePosixPath(value).name == value
        and value not in {".", "..", ""}
        and "\0" not in value
    )


def _file_name(node: Node) -> str:
    value = plain_text(node)
    if not is_file_name(value):
        raise ValueError(f"{shown(value)} must be a plain file name")
    return value


_VERSION = pattern(_NAME, f"a version: {NAME_RULE}", "version", "versions")
_DIGESTS = map_of(scalar(_file_name, {"type": "string"}, "file name", "file names"), SHA256)
_NUMBERS = map_of(ANYTHING, number("a number", -(10**18), 10**18, ends=True))
_OBJECT = map_of(ANYTHING, ANYTHING)
_FORM = Key("schema", exactly(SCHEMA), "The form of this file.", required=True)
_MODEL = section(
    "model",
    "",
    Key("algorithm", free_text(1, 64), "What kind of model it is.", required=True),
    Key("description", free_text(0, 2_000), "More of it.", default=""),
    Key("parameters", _OBJECT, "What it was trained with."),
)
_TRAINING = section(
    "training",
    "",
    Key("name", free_text(1, 200), "The data that it was trained on.", required=True),
    Key("licence", free_text(0, 2_000), "Their licence.", default=""),
    Key("citation", free_text(0, 2_000), "How they are cited.", default=""),
    Key("counts", map_of(ANYTHING, whole(0, 2**63 - 1)), "How many ratings, users and items.", default={}),
    Key("files", _DIGESTS, "The sha256 of each file.", default={}),
    Key("split", free_text(0, 2_000), "What was held out."),
)
_CODE = section(
    "code",
    "",
    Key("version", free_text(1, 64), "The version of the code that trained it.", required=True),
    Key("package", free_text(0, 64), "The package of that code."),
)
_METADATA = (
    _FORM,
    Key("version", _VERSION, "The version's name, and its folder's.", required=True),
    Key("sha256", SHA256, "The sha256 of model.onnx.", required=True),
    Key("size_bytes", whole(1, 2**40), "The size of model.onnx.", required=True),
    Key("model", _MODEL, "What it is.", required=True),
    Key("training", _TRAINING, "What it was trained on.", required=True),
    Key("code", _CODE, "The code that trained it.", required=True),
    Key("seed", whole(0, 2**63 - 1), "The seed of all that was random.", required=True),
    Key("external_data", _DIGESTS, "The sha256 of each file with weights.", default={}),
    Key("items_sha256", SHA256, "The sha256 of items.txt.", default=""),
)
METADATA_KEYS = {
    kind: (
        *_METADATA,
        Key("signature", SIGNATURES[kind], "What it takes and gives.", required=True),
        Key("golden", GOLDEN.get(kind, _OBJECT), "Requests and the answers that it gave to them.", required=True),
    )
    for kind in SIGNATURES
}
"""By the kind of the signature; \"\" is one that is none."""
METRICS_KEYS = (
    _FORM,
    Key("version", _VERSION, "The version that was measured.", required=True),
    Key("metrics", _NUMBERS, "The model's offline metrics.", required=True),
    Key("baseline", _NUMBERS, "Those of the baseline.", default={}),
    Key("split", _OBJECT, "What was held out."),
)
_ENTRY = section(
    "entry",
    "",
    Key("version", _VERSION, "The version's name.", required=True),
    Key("sha256", SHA256, "The sha256 of its model.onnx.", required=True),
    Key("algorithm", free_text(1, 64), "What kind of model it is.", required=True),
    others=ANYTHING,  # an entry may carry more for people: metrics, when it was added
)
INDEX_KEYS = (
    _FORM,
    Key("models", list_of(_ENTRY), "The versions that were released.", required=True),
    Key("log", list_of(_OBJECT), "What was done to the registry."),
)


def parse_signature(data: Mapping[str, Any], source: str = "metadata.json") -> Signature:
    """The signature of a metadata.json, alone; raises ManifestError with every mistake."""
    kind, findings = kind_of(data.get("signature")), Findings()
    keys = (Key("signature", SIGNATURES[kind], "What it takes and gives.", required=True),)
    signature = signature_of(findings, read_keys({"signature": data["signature"]}, source, keys)["signature"])
    refuse(findings, source)
    return signature


def parse_golden(data: Mapping[str, Any], signature: Signature, source: str = "metadata.json") -> Golden | GoldenCases:
    """The golden answers of a metadata.json, alone; raises ManifestError with every mistake."""
    findings, keys = Findings(), (Key("golden", GOLDEN[signature.kind], "Requests and answers."),)
    golden = golden_of(findings, read_keys({"golden": data}, source, keys)["golden"], signature)
    refuse(findings, source)
    return golden


def parse_manifest(data: Mapping[str, Any], source: str = "metadata.json") -> Manifest:
    """Checks the content of a metadata.json; raises ManifestError with every mistake."""
    kind = kind_of(data.get("signature"))
    values, findings = read_keys(data, source, METADATA_KEYS[kind]), Findings()
    signature = signature_of(findings, values["signature"])
    golden = golden_of(findings, values["golden"], signature)
    refuse(findings, source)
    training = values["training"]
    return Manifest(
        version=values["version"],
        sha256=values["sha256"],
        size_bytes=values["size_bytes"],
        algorithm=values["model"]["algorithm"],
        description=values["model"]["description"],
        signature=signature,
        golden=golden,
        training=TrainingData(
            training["name"],
            training["licence"],
            training["citation"],
            tuple(training["counts"].items()),
            tuple(training["files"].items()),
        ),
        code_version=values["code"]["version"],
        seed=values["seed"],
        external_data=tuple(values["external_data"].items()),
        items_sha256=values["items_sha256"],
    )


def parse_metrics(data: Mapping[str, Any], source: str = "metrics.json") -> Metrics:
    """Checks the content of a metrics.json; raises ManifestError with every mistake."""
    values = read_keys(data, source, METRICS_KEYS)
    return Metrics(values["version"], tuple(values["metrics"].items()), tuple(values["baseline"].items()))


def parse_index(data: Mapping[str, Any], source: str = "registry.json") -> Index:
    """Checks the content of a registry.json; raises ManifestError with every mistake."""
    models = read_keys(data, source, INDEX_KEYS)["models"]
    findings, versions = Findings(), [entry["version"] for entry in models]
    for version in sorted({version for version in versions if versions.count(version) > 1}):
        findings.add(("models",), f"{shown(version)} is given twice")
    refuse(findings, source)
    return Index(tuple(IndexEntry(entry["version"], entry["sha256"], entry["algorithm"]) for entry in models))
