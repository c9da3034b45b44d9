"""What a model takes and gives: tensors by name, type and shape. Values and their reading from metadata.json."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from abfleet_models.fields import Fields, shown
from abfleet_models.graph.tensors import BY_DATATYPE, FREE, TensorSpec

MAX_K = 100
"""The most items a request may ask for, and so the most that a model has to give."""
MAX_HISTORY = 10_000
MAX_TENSORS, MAX_RANK, MAX_TENSOR_NAME = 256, 16, 256
"""Far above what models have; they keep a hostile file from filling memory."""

Kind = Literal["recommender", "tensors"]
RECOMMENDER: Final[Kind] = "recommender"
TENSORS: Final[Kind] = "tensors"


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


def parse_signature(fields: Fields) -> Signature:
    """Reads the `signature` of a metadata.json; without `kind` it is a recommender's."""
    before = len(fields.problems)
    kind = fields.one_of("kind", (RECOMMENDER, TENSORS), optional=True)
    if len(fields.problems) > before:  # nothing else can be held against a kind that is none
        fields.keys()
        return Signature((), (), TENSORS)
    signature = _tensors(fields) if kind == TENSORS else _recommender(fields)
    fields.no_others()
    return signature


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


def _recommender(fields: Fields) -> Signature:
    k = fields.integer("k", low=1, high=MAX_K)
    max_history = fields.integer("max_history", low=1, high=MAX_HISTORY)
    expected = contract(k, max_history)
    for key, specs in (("inputs", expected.inputs), ("outputs", expected.outputs)):
        given = fields.objects(key)
        if len(given) != len(specs) and given:
            names = " and ".join(spec.name for spec in specs)
            fields.problem(key, f"has {len(given)} tensors; a recommender has {len(specs)}: {names}")
            continue
        for item, spec in zip(given, specs, strict=False):
            item.one_of("name", [spec.name])
            item.one_of("dtype", [spec.dtype])
            shape = list(spec.shape)
            if k in shape and not 1 <= k <= MAX_K:  # a k that was refused is one mistake, not two
                item.value("shape")
            else:
                item.one_of("shape", [shape])
            item.no_others()
    return expected


def _tensors(fields: Fields) -> Signature:
    inputs, outputs = (_specs(fields, key) for key in ("inputs", "outputs"))
    return Signature(inputs, outputs, TENSORS, batch=fields.switch("batch", default=False))


def _specs(fields: Fields, key: str) -> tuple[TensorSpec, ...]:
    given = fields.objects(key)
    if not 1 <= len(given) <= MAX_TENSORS and not fields.problems:
        fields.problem(key, f"has {len(given)} tensors; allowed are 1 to {MAX_TENSORS}")
    specs = []
    for item in given[:MAX_TENSORS]:
        name = item.text("name", max_length=MAX_TENSOR_NAME)
        datatype = item.one_of("datatype", tuple(BY_DATATYPE))
        shape = item.integers("shape", low=FREE, high=2**31 - 1, most=MAX_RANK)
        item.no_others()
        dtype = BY_DATATYPE[datatype].dtype if datatype in BY_DATATYPE else "none"
        specs.append(TensorSpec(name, dtype, tuple("?" if size == FREE else size for size in shape)))
    names = [spec.name for spec in specs]
    for name in sorted({name for name in names if names.count(name) > 1 and name}):
        fields.problem(key, f"{shown(name)} is given twice")
    return tuple(specs)
