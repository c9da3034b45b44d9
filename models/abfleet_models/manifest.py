"""The contents of metadata.json, metrics.json and registry.json, checked and frozen."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from abfleet_models.fields import Fields, is_sha256, shown
from abfleet_models.golden.answers import Golden, GoldenCases, parse_golden
from abfleet_models.signature import Signature, parse_signature

SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
NAME_RULE = "1 to 64 of A-Z a-z 0-9 . _ + -, the first a letter or a digit"


def is_name(value: object) -> bool:
    """Whether `value` may name a version or an alias: one path component that can only lead into the registry."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


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


def parse_manifest(data: Mapping[str, Any], source: str = "metadata.json") -> Manifest:
    """Checks the content of a metadata.json; raises ManifestError with every mistake."""
    fields = Fields(data)
    fields.one_of("schema", [SCHEMA])
    signature = parse_signature(fields.nested("signature"))
    model = fields.nested("model")
    algorithm, description = model.text("algorithm", max_length=64), model.text("description", default="")
    model.nested("parameters", optional=True).keys()
    model.no_others()
    code = fields.nested("code")
    code_version = code.text("version", max_length=64)
    code.text("package", default="", max_length=64)
    code.no_others()
    manifest = Manifest(
        version=_name(fields, "version"),
        sha256=fields.digest("sha256"),
        size_bytes=fields.integer("size_bytes", low=1, high=2**40),
        algorithm=algorithm,
        description=description,
        signature=signature,
        golden=parse_golden(fields.nested("golden"), signature),
        training=_training(fields.nested("training")),
        code_version=code_version,
        seed=fields.integer("seed", low=0, high=2**63 - 1),
        external_data=_digests(fields.nested("external_data", optional=True)),
        items_sha256=fields.digest("items_sha256", optional=True),
    )
    fields.no_others()
    fields.finish(source)
    return manifest


def parse_metrics(data: Mapping[str, Any], source: str = "metrics.json") -> Metrics:
    """Checks the content of a metrics.json; raises ManifestError with every mistake."""
    fields = Fields(data)
    fields.one_of("schema", [SCHEMA])
    fields.nested("split", optional=True).keys()
    metrics = Metrics(
        version=_name(fields, "version"),
        values=_numbers(fields.nested("metrics")),
        baseline=_numbers(fields.nested("baseline", optional=True)),
    )
    fields.no_others()
    fields.finish(source)
    return metrics


def parse_index(data: Mapping[str, Any], source: str = "registry.json") -> Index:
    """Checks the content of a registry.json; raises ManifestError with every mistake."""
    fields = Fields(data)
    fields.one_of("schema", [SCHEMA])
    entries = []
    for item in fields.objects("models"):
        entries.append(IndexEntry(_name(item, "version"), item.digest("sha256"), item.text("algorithm", max_length=64)))
        item.keys()  # an entry may carry more for people: metrics, when it was added
    for event in fields.objects("log", optional=True):
        event.keys()
    versions = [entry.version for entry in entries]
    for version in sorted({version for version in versions if versions.count(version) > 1}):
        fields.problem("models", f"{shown(version)} is given twice")
    fields.no_others()
    fields.finish(source)
    return Index(tuple(entries))


def _name(fields: Fields, key: str) -> str:
    value = fields.value(key)
    if value is not None and not is_name(value):
        fields.problem(key, f"{shown(value)} is not a version; allowed are {NAME_RULE}")
    return str(value)


def _training(fields: Fields) -> TrainingData:
    counts = fields.nested("counts", optional=True)
    training = TrainingData(
        name=fields.text("name", max_length=200),
        licence=fields.text("licence", default=""),
        citation=fields.text("citation", default=""),
        counts=tuple((key, counts.integer(key, low=0, high=2**63 - 1)) for key in counts.keys()),  # noqa: SIM118
        files=_digests(fields.nested("files", optional=True)),
    )
    fields.text("split", default="")
    fields.no_others()
    return training


def _digests(fields: Fields) -> tuple[tuple[str, str], ...]:
    found = []
    for name in fields.keys():  # noqa: SIM118 - not a mapping
        value = fields.value(name)
        if PurePosixPath(name).name != name or name in {".", ".."} or "\0" in name:
            fields.problem(shown(name)[1:-1], "is not a plain file name")
        if not is_sha256(value):
            fields.problem(shown(name)[1:-1], f"{shown(value)} is not a sha256 of 64 lower-case hex digits")
        found.append((name, str(value)))
    return tuple(found)


def _numbers(fields: Fields) -> tuple[tuple[str, float], ...]:
    return tuple((key, fields.number(key, low=-1e18, high=1e18)) for key in fields.keys())  # noqa: SIM118
