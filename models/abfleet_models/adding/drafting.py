"""The signature of a model that is to be added, as its graph has it; and what a graph lacks to be a recommender.

Runs the model only to learn what the graph leaves open.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from abfleet_models.errors import IntegrityError, ReleaseError, shown
from abfleet_models.golden.arrays import Array
from abfleet_models.graph import rewriting
from abfleet_models.graph.reading import GraphFile, describe, parse_model
from abfleet_models.graph.tensors import BY_DTYPE, ELEMENT_TYPES, FREE, TensorSpec
from abfleet_models.registry import refuse_custom
from abfleet_models.runs import OpenedGraph
from abfleet_models.signature import RECOMMENDER, TENSORS, Kind, Signature, contract

HISTORY, ITEM_IDS, SCORES = "history", "item_ids", "scores"
FACES = {HISTORY: "int64", ITEM_IDS: "int64", SCORES: "float32"}
"""A recommender's tensors and their types."""
CASTABLE = {
    HISTORY: {"int8", "int16", "int32"},
    ITEM_IDS: {"int8", "int16", "int32", "uint8", "uint16", "uint32"},
    SCORES: {"float16", "float64"},
}
DEFAULT_MAX_HISTORY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOptions:
    """What whoever adds a model may say of it."""

    version: str | None = None
    """Its name, where no metadata.json has one."""
    kind: Kind | None = None
    """None: what the names of its tensors say."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Old name to new, of inputs and outputs."""
    cast: bool = False
    """Whether a recommender's tensors of other types are cast inside the graph."""
    batch: bool = True
    """False: requests are not joined, whatever a check would say."""
    max_history: int = DEFAULT_MAX_HISTORY


def rewritten(content: bytes, options: AddOptions, kind: Kind | None) -> tuple[bytes, GraphFile, Kind, list[str]]:
    """The model's bytes with what the options change, what they say, its kind, and a line for each change.

    `kind`: what metadata say, None where they say nothing. Raises ReleaseError, and NotOnnxError where it is no model.
    """
    model, done = parse_model(content), []
    if options.renames:
        rewriting.rename(model, options.renames)
        done += [f"renamed {old} to {new}" for old, new in options.renames.items()]
    graph = describe(model)
    kind = options.kind or kind or (RECOMMENDER if _is_recommender(graph) else TENSORS)
    if options.cast:
        if kind != RECOMMENDER:
            raise ReleaseError(f"--cast: only tensors of a recommender can be cast; this model {faces(graph)}")
        wanted = {name: FACES[name] for name in _castable(graph)}
        done += [f"cast {line}" for line in rewriting.cast(model, wanted)]
        graph = describe(model)
    return (model.SerializeToString() if done else content), graph, kind, done


def draft(version: str, graph: GraphFile, kind: Kind, opened: OpenedGraph, options: AddOptions) -> Signature:
    """The signature that the graph has. Raises IntegrityError: what of it cannot be served, and the way out."""
    if kind == TENSORS:
        for spec in graph.inputs:
            if not spec.has_shape:
                raise IntegrityError(
                    f"{version}: input {spec.name} has no shape in the graph; export the model with one"
                )
        return Signature(graph.inputs, graph.outputs, TENSORS, batch=False)
    problem = recommender_problem(graph)
    if problem is not None:
        raise IntegrityError(f"{version}: {problem}")
    return contract(_k(version, graph, opened), options.max_history)


def settled(signature: Signature, answer: Mapping[str, Array]) -> Signature:
    """A signature of tensors in which outputs without a shape have as many free dimensions as in this answer."""
    outputs = tuple(
        spec if spec.has_shape else replace(spec, shape=("?",) * answer[spec.name].ndim, has_shape=True)
        for spec in signature.outputs
    )
    return replace(signature, outputs=outputs)


def refuse_unserved(version: str, graph: GraphFile) -> None:
    """Raises IntegrityError where an input or output is no tensor of a served type, or an operator is custom."""
    refuse_custom(version, graph)
    for what, specs in (("input", graph.inputs), ("output", graph.outputs)):
        for spec in specs:
            if spec.dtype in BY_DTYPE:
                continue
            if spec.name in graph.zipmaps:
                remedy = "export it from skl2onnx with options={id(model): {'zipmap': False}}, which gives a tensor"
            elif spec.dtype in {"sequence", "map", "optional", "sparse tensor", "none"}:
                remedy = "only tensors are served"
            else:
                remedy = f"allowed: {', '.join(one.dtype for one in ELEMENT_TYPES)}"
            raise IntegrityError(f"{version}: {what} {_quoted(spec.name)} is a {spec.dtype}; {remedy}")


def recommender_problem(graph: GraphFile) -> str | None:
    """Why a graph is no recommender, with the options that make it one where that is all it takes; None where it is."""
    if not _is_recommender(graph):
        wanted = f"a recommender takes {HISTORY} and gives {ITEM_IDS} and {SCORES}; this model {faces(graph)}"
        renames = suggested_renames(graph)
        return f"{wanted}. Add it with {renames}" if renames else f"{wanted}. Add it as --kind tensors"
    specs = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
    wrong = [
        f"{name} is {spec.dtype}, a recommender's is {FACES[name]}"
        for name, spec in specs.items()
        if spec.dtype != FACES[name]
    ]
    if wrong:
        castable = all(specs[name].dtype in {FACES[name], *CASTABLE[name]} for name in specs)
        remedy = "Add it with --cast" if castable else "Add it as --kind tensors"
        return f"{'; '.join(wrong)}. {remedy}"
    for name, spec in specs.items():
        free = spec.sizes if name == HISTORY else spec.sizes[:1]
        if spec.has_shape and (len(spec.sizes) != 2 or any(size != FREE for size in free)):
            rule = "two free dimensions" if name == HISTORY else "two dimensions, the first of them free"
            return f"{name} has the shape {list(spec.sizes)}; a recommender's has {rule}: export it with dynamic axes"
    return None


def suggested_renames(graph: GraphFile) -> str:
    """The options that would make a recommender of a graph that is one but for its names; empty where it is not."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 2:
        return ""
    whole = [spec for spec in graph.outputs if "int" in spec.dtype]
    real = [spec for spec in graph.outputs if spec.dtype.startswith("float")]
    (asked,) = graph.inputs
    if not ("int" in asked.dtype and len(whole) == len(real) == 1):
        return ""
    if any(len(spec.shape) != 2 or spec.sizes[0] != FREE for spec in (asked, *whole, *real)):
        return ""
    pairs = ((asked, HISTORY), (whole[0], ITEM_IDS), (real[0], SCORES))
    words = [f"--rename {_quoted(spec.name)}={name}" for spec, name in pairs if spec.name != name]
    if not words:
        return ""
    return " ".join([*words, *(["--cast"] if any(spec.dtype != FACES[name] for spec, name in pairs) else [])])


def _is_recommender(graph: GraphFile) -> bool:
    return [spec.name for spec in graph.inputs] == [HISTORY] and {spec.name for spec in graph.outputs} == {
        ITEM_IDS,
        SCORES,
    }


def _castable(graph: GraphFile) -> list[str]:
    return [spec.name for spec in (*graph.inputs, *graph.outputs) if spec.dtype in CASTABLE.get(spec.name, ())]


def _k(version: str, graph: GraphFile, opened: OpenedGraph) -> int:
    """Items in an answer: what the graph says, or else what it answers to an empty history."""
    (item_ids,) = (spec for spec in graph.outputs if spec.name == ITEM_IDS)
    if item_ids.has_shape and item_ids.sizes[1] != FREE:
        return item_ids.sizes[1]
    found = opened.run({HISTORY: np.zeros((1, 1), dtype=np.int64)}, [ITEM_IDS])[0]
    if found.ndim != 2:
        raise IntegrityError(f"{version}: item_ids has the shape {list(found.shape)}; a recommender's is [batch, k]")
    return int(found.shape[1])


def faces(graph: GraphFile) -> str:
    """What a graph takes and gives, for people."""
    takes, gives = (", ".join(map(_described, specs)) for specs in (graph.inputs, graph.outputs))
    return f"takes {takes} and gives {gives}"


def _described(spec: TensorSpec) -> str:
    """A tensor for people: `features FP32[-1, 4]`."""
    kind = spec.datatype if spec.dtype in BY_DTYPE else spec.dtype
    return f"{_quoted(spec.name)} {kind}{list(spec.sizes) if spec.has_shape else ''}"


def _quoted(name: str) -> str:
    """A name of a graph in a message: as it is where it is plain."""
    return name if name.isprintable() and len(name) <= 64 and " " not in name else shown(name)
