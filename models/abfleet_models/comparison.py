"""How two versions differ: metadata, offline metrics, size, time, and what they answer to the same histories.

Runs both models. Which one users like better is a question for an experiment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from abfleet_models.errors import RegistryError
from abfleet_models.golden.answers import cases_of
from abfleet_models.golden.arrays import feeds, first_difference, in_full
from abfleet_models.json_files import read_json
from abfleet_models.registry import METADATA_FILE, ModelVersion
from abfleet_models.runs import OpenedModel, latency_us
from abfleet_models.signature import RECOMMENDER

TOP = 10
UNKNOWN = -1
"""A number that no item has."""
Item = int | str
"""By its number, or by its name where it has one."""
LEFT_OUT = frozenset({"golden", "schema"})
"""Of metadata.json: the golden answers are compared by running the models."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field of metadata.json that differs; None where it is missing."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class MetricChange:
    """An offline metric of either version; None where it was not measured."""

    metric: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """b less a; None where either was not measured."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True)
class AnswerChange:
    """The first items that both versions give to one golden history."""

    of: str
    """The version whose golden history it is."""
    history: tuple[Item, ...]
    """Without padding."""
    a: tuple[Item, ...]
    b: tuple[Item, ...]

    @property
    def overlap(self) -> float:
        """Share of the first items that both give, whatever their order; 1 where both give none."""
        most = max(len(self.a), len(self.b))
        return len({*self.a} & {*self.b}) / most if most else 1.0


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """Everything that differs between version a and version b."""

    a: str
    b: str
    metadata: tuple[FieldChange, ...]
    metrics: tuple[MetricChange, ...]
    size_bytes: tuple[int, int]
    latency_us: tuple[Mapping[str, float], Mapping[str, float]]
    """Microseconds a history by batch x length, measured now and on this machine."""
    answers: tuple[AnswerChange, ...]
    """Of two recommenders, unless the items of one have names and those of the other numbers."""
    cases_alike: tuple[int, int] | None = None
    """Of two models that take the same tensors: golden cases to which both answer alike, and how many there are."""

    @property
    def overlap(self) -> float:
        """Mean overlap of the first ten items; these shares are 0 where there are no answers."""
        return sum(one.overlap for one in self.answers) / max(1, len(self.answers))

    @property
    def same_first(self) -> float:
        """Share of histories to which both recommend the same item first."""
        return sum(one.a[:1] == one.b[:1] for one in self.answers) / max(1, len(self.answers))

    @property
    def same_list(self) -> float:
        """Share of histories to which both give the same first ten items in the same order."""
        return sum(one.a == one.b for one in self.answers) / max(1, len(self.answers))


def compare(a: ModelVersion, b: ModelVersion) -> VersionComparison:
    """Opens and asks both versions. Raises RegistryError where one is not intact or does not run."""
    opened = OpenedModel(a), OpenedModel(b)
    recommenders = a.manifest.signature.kind == b.manifest.signature.kind == RECOMMENDER
    of_one_kind = bool(a.manifest.items_sha256) == bool(b.manifest.items_sha256)
    return VersionComparison(
        a=a.version,
        b=b.version,
        metadata=tuple(_fields(a, b)),
        metrics=tuple(_metrics(a, b)),
        size_bytes=(a.manifest.size_bytes, b.manifest.size_bytes),
        latency_us=(latency_us(opened[0]), latency_us(opened[1])),
        answers=tuple(_answers(*opened)) if recommenders and of_one_kind else (),
        cases_alike=None if recommenders else _cases_alike(*opened),
    )


def _fields(a: ModelVersion, b: ModelVersion) -> Iterator[FieldChange]:
    left, right = (dict(_flat(_metadata(one), "")) for one in (a, b))
    for field in [*left, *(name for name in right if name not in left)]:
        if left.get(field) != right.get(field):
            yield FieldChange(field, left.get(field), right.get(field))


def _metadata(found: ModelVersion) -> Mapping[str, Any]:
    data = read_json(found.path / METADATA_FILE, f"{found.version}/{METADATA_FILE}")
    return {key: value for key, value in data.items() if key not in LEFT_OUT}


def _flat(data: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _metrics(a: ModelVersion, b: ModelVersion) -> Iterator[MetricChange]:
    left, right = ({} if found is None else dict(found.values) for found in (a.metrics(), b.metrics()))
    for name in [*left, *(name for name in right if name not in left)]:
        yield MetricChange(name, left.get(name), right.get(name))


def _answers(a: OpenedModel, b: OpenedModel) -> Iterator[AnswerChange]:
    """On the golden histories of both, each once."""
    seen = set()
    both = _Asked(a), _Asked(b)
    for owner in both:
        for row in owner.model.model_version.manifest.golden_history:
            history = owner.items([item for item in row if item])
            if history in seen:
                continue
            seen.add(history)
            first, second = (one.top(history) for one in both)
            yield AnswerChange(owner.model.model_version.version, history, first, second)
    if not seen:
        raise RegistryError(
            f"{a.model_version.version} and {b.model_version.version} have no golden histories, "
            "so there is nothing to compare"
        )


def _cases_alike(a: OpenedModel, b: OpenedModel) -> tuple[int, int] | None:
    """On the golden cases of both. None where one does not take what the other takes."""
    (takes, gives), others = (
        ({spec.name: (spec.dtype, spec.sizes) for spec in specs} for specs in (one.inputs, one.outputs))
        for one in (a.model_version.manifest.signature, b.model_version.manifest.signature)
    )
    if [takes, gives] != [*others]:
        return None
    alike = asked = 0
    for owner in (a, b):
        manifest = owner.model_version.manifest
        for case in cases_of(manifest.golden):
            asked += 1
            inputs = feeds(case, manifest.signature.inputs)
            first, second = a.run(inputs), b.run(inputs)
            alike += all(
                first_difference(second[name], in_full(array), gives[name][0], manifest.golden.tolerance) is None
                for name, array in first.items()
            )
    return alike, asked


class _Asked:
    """A recommender, asked as its callers do: by name where items have names, as the numbers of two versions differ."""

    def __init__(self, model: OpenedModel) -> None:
        self.model = model
        self._names = model.model_version.item_names()
        self._numbers: dict[Item, int] = {name: number for number, name in enumerate(self._names or (), start=1)}

    def items(self, numbers: Sequence[int]) -> tuple[Item, ...]:
        """Of numbers above 0; one that has no name stays a number, which is unknown."""
        names = self._names
        if names is None:
            return tuple(numbers)
        return tuple(names[number - 1] if 0 < number <= len(names) else number for number in numbers)

    def top(self, history: Sequence[Item]) -> tuple[Item, ...]:
        """The first items that a user would get."""
        longest = self.model.model_version.manifest.max_history
        named = self._names is not None
        asked = [self._numbers.get(item, UNKNOWN) if named else int(item) for item in history] or [0]
        item_ids, scores = self.model.answer(np.array([asked[-longest:]], dtype=np.int64))
        ids, values = item_ids[0, :TOP].tolist(), scores[0, :TOP]
        ended = [place for place, item in enumerate(ids) if item == 0 or np.isneginf(values[place])]
        return self.items(ids[: ended[0] if ended else len(ids)])
