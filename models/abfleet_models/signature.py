"""What a model takes and gives: tensors by name, type and shape. Values and their reading from metadata.json."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from abfleet_process.declarations.keys import ANYTHING, Key, list_of, section
from abfleet_process.declarations.keys import Kind as KeyKind
from abfleet_process.declarations.kinds import FLAG, free_text, whole, word
from abfleet_process.declarations.nodes import Findings, Path
from abfleet_process.declarations.nodes import shown as plain

from abfleet_models.errors import shown
from abfleet_models.graph.tensors import BY_DATATYPE, FREE, TensorSpec

MAX_K = 100
"""The most items a request may ask for, and so the most that a model has to give."""
MAX_HISTORY = 10_000
MAX_TENSORS, MAX_RANK, MAX_TENSOR_NAME = 256, 16, 256
"""Far above what models have; they keep a hostile file from filling memory."""

Kind = Literal["recommender", "tensors"]
RECOMMENDER: Final[Kind] = "recommender"
TENSORS: Final[Kind] = "tensors"


_GIVEN: Final = section(
    "tensor",
    "",
    Key("name", ANYTHING, "The tensor's name in the graph.", required=True),
    Key("dtype", ANYTHING, "The type of its elements.", required=True),
    Key("shape", ANYTHING, "Its sizes.", required=True),
)
_TENSOR: Final = section(
    "tensor",
    "",
    Key("name", free_text(1, MAX_TENSOR_NAME), "The tensor's name in the graph.", required=True),
    Key(
        "datatype",
        word(*BY_DATATYPE),
        "The type of its elements, in the Open Inference Protocol.",
        required=True,
    ),
    Key("shape", list_of(whole(FREE, 2**31 - 1), most=MAX_RANK), "Its sizes, -1 for one that may vary.", required=True),
)
_TENSOR_LIST: Final = list_of(_TENSOR, most=MAX_TENSORS, empty=f"has 0 tensors; allowed: 1 to {MAX_TENSORS}")
SIGNATURES: Final[Mapping[str, KeyKind]] = {
    RECOMMENDER: section(
        "signature",
        "",
        Key("kind", word(RECOMMENDER), "What it is."),
        Key("inputs", list_of(_GIVEN), "What it takes.", required=True),
        Key("outputs", list_of(_GIVEN), "What it gives.", required=True),
        Key("k", whole(1, MAX_K), "Items in an answer.", required=True),
        Key("max_history", whole(1, MAX_HISTORY), "Known items that count.", required=True),
    ),
    TENSORS: section(
        "signature",
        "",
        Key("kind", word(TENSORS), "What it is.", required=True),
        Key("inputs", _TENSOR_LIST, "What it takes.", required=True),
        Key("outputs", _TENSOR_LIST, "What it gives.", required=True),
        Key("batch", FLAG, "Whether several requests may be one run.", default=False),
    ),
    "": section("signature", "", Key("kind", word(RECOMMENDER, TENSORS), "What it is."), others=ANYTHING),
}
"""How the `signature` of a metadata.json is read, by its kind; \"\" is one that is none."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    kind: Kind = RECOMMENDER
    k: int = 0
    """Items in an answer of a recommender."""
    max_history: int = 0
    """Known items that count; whoever calls a recommender keeps the newest so many of a longer history."""
    batch: bool = True
    """Whether several requests may be one run: each answer is the same, bit for bit, as that of the request alone."""


def contract(k: int, max_history: int) -> Signature:
    """A recommender's signature: history int64[batch, length] to item_ids, scores [batch, k]."""
    return Signature(
        inputs=(TensorSpec("history", "int64", ("batch", "length")),),
        outputs=(TensorSpec("item_ids", "int64", ("batch", k)), TensorSpec("scores", "float32", ("batch", k))),
        k=k,
        max_history=max_history,
    )


def kind_of(signature: object) -> str:
    """The kind that the `signature` of a metadata.json says it is; "" where it is none."""
    if not isinstance(signature, dict) or "kind" not in signature:
        return RECOMMENDER
    return TENSORS if signature["kind"] == TENSORS else RECOMMENDER if signature["kind"] == RECOMMENDER else ""


def signature_of(findings: Findings, values: Mapping[str, Any]) -> Signature:
    """The signature of what was read by its keys; notes what its keys do not say. Its path is `signature`."""
    if values.get("kind") == TENSORS:
        inputs, outputs = (_specs(findings, key, values[key]) for key in ("inputs", "outputs"))
        return Signature(inputs, outputs, TENSORS, batch=values["batch"])
    expected = contract(values["k"], values["max_history"])
    for key, wanted in as_json(expected).items():
        if key in ("inputs", "outputs"):
            _compare(findings, ("signature", key), values[key], wanted)
    return expected


def as_json(signature: Signature) -> dict[str, Any]:
    """The signature as metadata.json has it."""
    if signature.kind == TENSORS:
        inputs, outputs = (
            [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.sizes)} for spec in specs]
            for specs in (signature.inputs, signature.outputs)
        )
        return {"kind": TENSORS, "inputs": inputs, "outputs": outputs, "batch": signature.batch}
    tensors = {
        key: [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]
        for key, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
    return {**tensors, "k": signature.k, "max_history": signature.max_history}


def differences(found: Sequence[TensorSpec], wanted: Sequence[TensorSpec], what: str) -> list[str]:
    """Where tensors of a graph are not those of a signature, a line each. `what` is `input` or `output`.

    A size that may vary in the signature may be anything in an output of the graph that varies too, whatever its name.
    """
    there = {spec.name: spec for spec in found}
    lines = [
        f"{what} {_plain(spec.name)} is missing from the graph, which has {_names(found)}"
        for spec in wanted
        if spec.name not in there
    ]
    named = {spec.name for spec in wanted}
    lines += [
        f"{what} {_plain(spec.name)} of the graph is not in the signature" for spec in found if spec.name not in named
    ]
    for spec in wanted:
        one = there.get(spec.name)
        if one is None:
            continue
        label = f"{what} {_plain(spec.name)}"
        if one.dtype != spec.dtype:
            lines.append(f"{label}: the graph's type is {one.dtype}, the signature's is {spec.dtype}")
        elif one.has_shape and not _fits(one.sizes, spec.sizes, loosely=what == "output"):
            lines.append(f"{label}: the graph's shape is {list(one.sizes)}, the signature's is {list(spec.sizes)}")
    return lines


def _fits(found: Sequence[int], wanted: Sequence[int], *, loosely: bool) -> bool:
    """An output whose size the graph leaves open may have one in the signature, which a run then has to show."""
    return len(found) == len(wanted) and all(
        one == other or (loosely and one == FREE) for one, other in zip(found, wanted, strict=True)
    )


def _names(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(_plain(spec.name) for spec in specs) or "none"


def _plain(name: str) -> str:
    """A name of a graph in an error; a hostile one may have line feeds, or be long."""
    return name if name.isprintable() and len(name) <= 64 else shown(name)


def _compare(findings: Findings, path: Path, given: Sequence[Mapping[str, Any]], wanted: Sequence[Any]) -> None:
    """Notes where the tensors of a recommender are not those that it must have."""
    if len(given) != len(wanted):
        names = " and ".join(one["name"] for one in wanted)
        findings.add(path, f"has {len(given)} tensors; a recommender has {len(wanted)}: {names}")
        return
    for place, (one, needed) in enumerate(zip(given, wanted, strict=True)):
        for key, value in needed.items():
            if repr(one[key]) != repr(value):
                findings.add((*path, place, key), f"must be {plain(value)}, not {plain(one[key])}")


def _specs(findings: Findings, key: str, given: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    names = [one["name"] for one in given]
    for name in sorted({name for name in names if names.count(name) > 1}):
        findings.add(("signature", key), f"{plain(name)} is given twice")
    return tuple(
        TensorSpec(
            one["name"],
            BY_DATATYPE[one["datatype"]].dtype,
            tuple("?" if size == FREE else size for size in one["shape"]),
        )
        for one in given
    )
