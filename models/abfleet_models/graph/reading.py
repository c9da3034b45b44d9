"""Reads what an ONNX file asks of its reader, inputs, outputs, domains, files beside it; and constants. Runs nothing.

A model can be refused so before any runtime opens it, by a process that has no ONNX installed. What the fields mean is
in onnx_graph.proto.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from abfleet_models.graph import onnx_graph_pb2 as onnx_graph
from abfleet_models.graph.tensors import BY_DTYPE, BY_ONNX, TensorSpec

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that ONNX Runtime brings itself; any other domain would need a custom library."""
CATALOGUE = "item_ids_by_number"
"""Name of the constant with all item ids of a recommender; without it, items that it does not know are not counted."""
_EXTERNAL = 1


class NotOnnxError(ValueError):
    """The bytes are not a serialised ModelProto."""


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What a model file says of itself."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    domains: frozenset[str]
    """Operator domains of its nodes, without those of functions that it defines itself."""
    external: frozenset[str]
    """Locations of tensors kept outside the file."""
    producer: str
    """The program that wrote it; empty where it does not say."""
    zipmaps: frozenset[str]
    """Outputs of skl2onnx's ZipMap, which are lists of maps."""


class _Findings:
    """What a walk has met so far. Mutable: only the walking functions below add to it."""

    def __init__(self) -> None:
        self.domains: set[str] = set()
        self.external: set[str] = set()


def parse_model(content: bytes) -> onnx_graph.Model:
    """The message in a model file. Raises NotOnnxError when it is none."""
    try:
        model: onnx_graph.Model = onnx_graph.Model.FromString(content)
    except DecodeError as error:
        # Also of texts that are not UTF-8, and of graphs that are nested deeper than protobuf follows.
        raise NotOnnxError(f"is not an ONNX model: {error}") from error
    if not model.HasField("graph"):
        raise NotOnnxError("is not an ONNX model: it has no graph")
    return model


def read_graph(content: bytes) -> GraphFile:
    """What a serialised ModelProto says. Raises NotOnnxError when it is none."""
    return describe(parse_model(content))


def describe(model: onnx_graph.Model) -> GraphFile:
    """What a model says of itself."""
    found, graph = _Findings(), model.graph
    _graph(graph, found)
    for training in model.training_info:
        _graph(training.initialization, found)
        _graph(training.algorithm, found)
    for function in model.functions:
        _nodes(function.node, found)
        _attributes(function.attribute_proto, found)
    constants = {tensor.name for tensor in graph.initializer}
    return GraphFile(
        # Up to IR version 3 a graph had to list what it initialises itself among its inputs.
        inputs=tuple(_spec(value) for value in graph.input if value.name not in constants),
        outputs=tuple(_spec(value) for value in graph.output),
        domains=frozenset(found.domains - {function.domain for function in model.functions}),
        external=frozenset(found.external),
        producer=model.producer_name,
        zipmaps=frozenset(name for node in graph.node if node.op_type == "ZipMap" for name in node.output),
    )


def read_int64(content: bytes, name: str) -> bytes | None:
    """The little-endian int64 values of the constant `name` of a model's graph; None where it has none inside the file.

    Raises NotOnnxError when the bytes are no model.
    """
    for tensor in parse_model(content).graph.initializer:
        if tensor.name == name and tensor.data_type == BY_DTYPE["int64"].onnx:
            return tensor.raw_data if tensor.raw_data and len(tensor.raw_data) % 8 == 0 else None
    return None


def _graph(graph: onnx_graph.Graph, found: _Findings) -> None:
    _nodes(graph.node, found)
    for tensor in graph.initializer:
        _tensor(tensor, found)
    for sparse in graph.sparse_initializer:
        _sparse(sparse, found)


def _nodes(nodes: Iterable[onnx_graph.Node], found: _Findings) -> None:
    for node in nodes:
        found.domains.add(node.domain)
        _attributes(node.attribute, found)


def _attributes(attributes: Iterable[onnx_graph.Attribute], found: _Findings) -> None:
    for attribute in attributes:
        for tensor in (attribute.t, *attribute.tensors):
            _tensor(tensor, found)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            _sparse(sparse, found)
        # An unset message is an empty one, which would be followed for ever if it were not asked for.
        if attribute.HasField("g"):
            _graph(attribute.g, found)
        for graph in attribute.graphs:
            _graph(graph, found)


def _sparse(sparse: onnx_graph.SparseTensor, found: _Findings) -> None:
    _tensor(sparse.values, found)
    _tensor(sparse.indices, found)


def _tensor(tensor: onnx_graph.Tensor, found: _Findings) -> None:
    locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
    # Locations count even where the flag is missing: a runtime may read them all the same.
    found.external.update(locations if locations or tensor.data_location != _EXTERNAL else [""])


def _spec(value: onnx_graph.Value) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorSpec(value.name, _container(kind), ())
    tensor = value.type.tensor_type
    known = BY_ONNX.get(tensor.elem_type)
    dtype = known.dtype if known else f"onnx type {tensor.elem_type}"
    return TensorSpec(value.name, dtype, tuple(_dimension(dim) for dim in tensor.shape.dim), tensor.HasField("shape"))


def _container(kind: str | None) -> str:
    return "none" if kind is None else kind.removesuffix("_type").replace("_", " ")


def _dimension(dim: onnx_graph.Dimension) -> int | str:
    which = dim.WhichOneof("value")
    if which is None:
        return "?"
    return int(dim.dim_value) if which == "dim_value" else str(dim.dim_param)
