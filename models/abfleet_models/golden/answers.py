"""The `golden` of a metadata.json: values and their reading. Runs no model and knows no arrays."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abfleet_models.fields import Fields, shown
from abfleet_models.graph.tensors import FREE, TensorSpec
from abfleet_models.signature import TENSORS, Signature

DEFAULT_TOLERANCE = 1e-5
MOST_CASES = 64
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""How JSON, which has no such numbers, has them here."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Histories and the answers a recommender gave to them when it was exported."""

    history: tuple[tuple[int, ...], ...]
    """[batch, length], padded on the left with 0; can be fed to the model as it is."""
    item_ids: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    tolerance: float
    """Largest difference of a score, relative to the largest score of its row."""

    def __len__(self) -> int:
        return len(self.history)


@dataclass(frozen=True, slots=True)
class GoldenTensor:
    """The elements of a tensor row by row. Fewer of them than the shape has are, of an input, repeated as often as it
    takes; of an output they are its first ones."""

    shape: tuple[int, ...]
    data: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One request of a model of tensors, and its answer, by the tensors' names."""

    inputs: tuple[tuple[str, GoldenTensor], ...]
    outputs: tuple[tuple[str, GoldenTensor], ...]


@dataclass(frozen=True, slots=True)
class GoldenCases:
    """Requests and the answers a model of tensors gave to them when it was added."""

    cases: tuple[GoldenCase, ...]
    tolerance: float
    """Largest difference of a real number, relative to the largest of its tensor. Other elements must be equal."""

    def __len__(self) -> int:
        return len(self.cases)


def parse_golden(fields: Fields, signature: Signature) -> Golden | GoldenCases:
    """Reads the `golden` of a metadata.json."""
    golden = _cases(fields, signature) if signature.kind == TENSORS else _rankings(fields, signature)
    fields.no_others()
    return golden


def _rankings(fields: Fields, signature: Signature) -> Golden:
    history = fields.table("history", whole=True)
    golden = Golden(
        history=history,
        item_ids=fields.table("item_ids", rows=len(history), whole=True),
        scores=fields.table("scores", rows=len(history), whole=False),
        tolerance=fields.number("tolerance", low=0.0, high=0.1, default=DEFAULT_TOLERANCE),
    )
    for key, rows in (("item_ids", golden.item_ids), ("scores", golden.scores)):
        if rows and signature.k and len(rows[0]) != signature.k:
            fields.problem(key, f"has rows of {len(rows[0])}, signature.k is {signature.k}")
    return golden


def _cases(fields: Fields, signature: Signature) -> GoldenCases:
    if fields.problems:  # perhaps in the signature, and a case cannot be held against a wrong one
        fields.keys()
        return GoldenCases((), DEFAULT_TOLERANCE)
    cases = []
    given = fields.objects("cases")
    if len(given) > MOST_CASES:
        fields.problem("cases", f"has {len(given)} cases; allowed are 1 to {MOST_CASES}")
    for case in given[:MOST_CASES]:
        inputs, outputs = (
            _tensors(case.nested(key), specs, complete=key == "inputs")
            for key, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
        )
        case.no_others()
        cases.append(GoldenCase(inputs, outputs))
    if not cases and not fields.problems:
        fields.problem("cases", "has no case; there must be one at least")
    return GoldenCases(tuple(cases), fields.number("tolerance", low=0.0, high=0.1, default=DEFAULT_TOLERANCE))


def _tensors(fields: Fields, specs: tuple[TensorSpec, ...], *, complete: bool) -> tuple[tuple[str, GoldenTensor], ...]:
    """`complete`: every tensor of `specs` must be there, as a model must be asked with all of its inputs."""
    found = []
    for spec in specs:
        if not complete and spec.name not in fields.keys():  # noqa: SIM118 - not a mapping
            continue
        tensor = fields.nested(spec.name)
        shape = tensor.integers("shape", low=0, high=2**31 - 1, most=len(spec.shape))
        data = tensor.value("data")
        tensor.no_others()
        problem = _problem(spec, shape, data)
        if problem is not None:
            tensor.problem(*problem)
        else:
            found.append((spec.name, GoldenTensor(shape, tuple(data))))
    fields.no_others()
    return tuple(found)


def _problem(spec: TensorSpec, shape: tuple[int, ...], data: object) -> tuple[str, str] | None:
    """What of a golden tensor does not fit its description: the key, and why."""
    fits = len(shape) == len(spec.sizes) and all(
        wanted in (FREE, size) for size, wanted in zip(shape, spec.sizes, strict=True)
    )
    if not fits:
        return "shape", f"{list(shape)} is not of the signature's shape {list(spec.sizes)}"
    count = math.prod(shape)
    if not isinstance(data, list) or len(data) > count or (count and not data):
        return "data", f"{shown(data)} is not a list of 1 to {count} elements"
    wrong = next((place for place, value in enumerate(data) if not _is_element(value, spec.dtype)), None)
    return None if wrong is None else (f"data[{wrong}]", f"{shown(data[wrong])} is not an element of {spec.datatype}")


def _is_element(value: object, dtype: str) -> bool:
    if dtype == "string":
        return isinstance(value, str)
    if dtype == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if dtype.startswith("float"):
        return isinstance(value, int | float) or (isinstance(value, str) and value in NOT_FINITE)
    if not isinstance(value, int):
        return False
    bits = int(dtype.lstrip("uint"))
    low, high = (0, 2**bits) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return bool(low <= value < high)


def cases_of(golden: Golden | GoldenCases) -> Iterator[Mapping[str, GoldenTensor]]:
    """The inputs of each case; none of a recommender's."""
    if isinstance(golden, GoldenCases):
        for case in golden.cases:
            yield dict(case.inputs)
