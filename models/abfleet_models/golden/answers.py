"""The `golden` of a metadata.json: values and their reading. Runs no model and knows no arrays."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from abfleet_process.declarations.keys import ANYTHING, Key, Kind, list_of, map_of, read_object, section
from abfleet_process.declarations.kinds import number, whole
from abfleet_process.declarations.nodes import Findings, Node, Path, node_of, shown, value_of
from abfleet_process.declarations.nodes import Sequence as JsonList

from abfleet_models.graph.tensors import FREE, TensorSpec
from abfleet_models.signature import MAX_RANK, RECOMMENDER, TENSORS, Signature

DEFAULT_TOLERANCE = 1e-5
MOST_CASES = 64
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""How JSON, which has no such numbers, has them here."""


def _wrong_cell(table: object, *, whole: bool) -> tuple[Path, str] | None:
    """Where something is no rectangular list of lists of numbers, and what is wrong there."""
    if not isinstance(table, list) or not table:
        return (), f"{shown(table)} is not a list of equally long lists of numbers"
    kind, what = (_is_int64, "an int64 integer") if whole else (_is_number, "a finite number")
    for place, row in enumerate(table):
        if not isinstance(row, list):
            return (place,), f"{shown(row)} is not a list of numbers"
        if len(row) != len(table[0]):
            return (place,), f"has {len(row)} numbers, the first row has {len(table[0])}"
        for column, cell in enumerate(row):
            if not kind(cell):
                return (place, column), f"{shown(cell)} is not {what}"
    return None


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_int64(value: object) -> bool:
    return _is_int(value) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_int(value) and abs(value) < 2**1000  # larger ones do not fit a float


def _table(*, whole: bool) -> Kind:
    """A rectangular list of lists of numbers (`whole`: of int64)."""

    def read(findings: Findings, node: Node, path: Path) -> tuple[tuple[Any, ...], ...] | None:
        value = value_of(node)
        wrong = _wrong_cell(value, whole=whole)
        if wrong is not None:
            findings.add((*path, *wrong[0]), wrong[1])
            return None
        return tuple(tuple(row) for row in value)

    return Kind(read, {"type": "array"}, "table of numbers", form=JsonList)


_TOLERANCE = Key(
    "tolerance",
    number("a number", 0, 0.1, ends=True),
    "Tolerance within which numbers are equal.",
    default=DEFAULT_TOLERANCE,
)
_TENSOR = section(
    "golden tensor",
    "",
    Key("shape", list_of(whole(0, 2**31 - 1), most=MAX_RANK), "Its sizes.", required=True),
    Key("data", ANYTHING, "Its elements row by row.", required=True),
)
_CASE = section(
    "case",
    "",
    Key("inputs", map_of(ANYTHING, ANYTHING), "The request, by the tensors' names.", required=True),
    Key("outputs", map_of(ANYTHING, ANYTHING), "The answer, by the tensors' names.", required=True),
)
_CASES = list_of(_CASE, most=MOST_CASES, empty="has no case; at least one is needed")
GOLDEN: Mapping[str, Kind] = {
    RECOMMENDER: section(
        "golden",
        "",
        Key("history", _table(whole=True), "Item ids, padded on the left with 0.", required=True),
        Key("item_ids", _table(whole=True), "The items of each answer.", required=True),
        Key("scores", _table(whole=False), "Their scores.", required=True),
        _TOLERANCE,
    ),
    TENSORS: section(
        "golden",
        "",
        Key("cases", _CASES, "Requests with their answers.", required=True),
        _TOLERANCE,
    ),
}
"""How the `golden` of a metadata.json is read, by the kind of its signature."""


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


def golden_of(findings: Findings, values: Mapping[str, Any], signature: Signature) -> Golden | GoldenCases:
    """The golden answers of what was read by its keys; notes what does not fit the signature. Its path is `golden`."""
    if signature.kind == TENSORS:
        return _cases(findings, values, signature)
    golden = Golden(*(values[key] for key in ("history", "item_ids", "scores", "tolerance")))
    for key, rows in (("item_ids", golden.item_ids), ("scores", golden.scores)):
        if len(rows) != len(golden):
            findings.add(("golden", key), f"has {len(rows)} rows, the history has {len(golden)}")
        if len(rows[0]) != signature.k:
            findings.add(("golden", key), f"has rows of {len(rows[0])}, signature.k is {signature.k}")
    return golden


def _cases(findings: Findings, values: Mapping[str, Any], signature: Signature) -> GoldenCases:
    if findings:  # in the signature, and a case cannot be held against a wrong one
        return GoldenCases((), DEFAULT_TOLERANCE)
    path: Path = ("golden", "cases")
    cases = tuple(
        GoldenCase(
            _tensors(findings, (*path, place, "inputs"), case["inputs"], signature.inputs, complete=True),
            _tensors(findings, (*path, place, "outputs"), case["outputs"], signature.outputs, complete=False),
        )
        for place, case in enumerate(values["cases"])
    )
    return GoldenCases(cases, values["tolerance"])


def _tensors(
    findings: Findings, path: Path, given: Mapping[str, Any], specs: Sequence[TensorSpec], *, complete: bool
) -> tuple[tuple[str, GoldenTensor], ...]:
    """`complete`: every tensor of `specs` must be there, as a model must be asked with all of its inputs."""
    keys = [Key(spec.name, _TENSOR, "A tensor of the signature.", required=complete) for spec in specs]
    values = read_object(findings, node_of(dict(given)), path, keys) or {}
    found = []
    for spec in specs:
        tensor = values[spec.name]
        if tensor is None:
            continue
        shape, data = tensor["shape"], tensor["data"]
        problem = None if shape is None else _problem(spec, tuple(shape), data)
        if problem is not None:
            findings.add((*path, spec.name, *problem[0]), problem[1])
        elif shape is not None:
            found.append((spec.name, GoldenTensor(tuple(shape), tuple(data))))
    return tuple(found)


def _problem(spec: TensorSpec, shape: tuple[int, ...], data: object) -> tuple[Path, str] | None:
    """What of a golden tensor does not fit its description: the key, and why."""
    fits = len(shape) == len(spec.sizes) and all(
        wanted in (FREE, size) for size, wanted in zip(shape, spec.sizes, strict=True)
    )
    if not fits:
        return ("shape",), f"{shown(list(shape))} is not of the signature's shape {list(spec.sizes)}"
    count = math.prod(shape)
    if not isinstance(data, list) or len(data) > count or (count and not data):
        return ("data",), f"{shown(data)} is not a list of 1 to {count} elements"
    wrong = next((place for place, value in enumerate(data) if not _is_element(value, spec.dtype)), None)
    if wrong is None:
        return None
    return ("data", wrong), f"{shown(data[wrong])} is not an element of {spec.datatype}"


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
