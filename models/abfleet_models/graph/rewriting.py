"""Changes a graph when it is added, so that nothing needs to be cast or renamed when it serves.

What is not touched stays byte for byte: fields that onnx_graph.proto does not name are written again as they came.
"""

import struct
from collections.abc import Callable, Iterable, Mapping

from abfleet_models.errors import ReleaseError
from abfleet_models.graph import onnx_graph_pb2 as onnx_graph
from abfleet_models.graph.tensors import BY_DTYPE, BY_ONNX

LEAST_OPSET = 12
"""From which Min and Max take int64."""
NARROW = {"int32": 32, "int16": 16, "int8": 8}
"""Types that an int64 may not fit, with their bits."""
_INTEGER = 2


def rename(model: onnx_graph.Model, names: Mapping[str, str]) -> None:
    """Renames inputs and outputs, old name to new. Raises ReleaseError: one is not there, or the new one is taken."""
    graph = model.graph
    faces = [value.name for value in (*graph.input, *graph.output)]
    for old, new in names.items():
        if old not in faces:
            raise ReleaseError(f"--rename: {old!r} is neither an input nor an output; allowed: {', '.join(faces)}")
        if new in _all_names(graph):
            raise ReleaseError(f"--rename: {new!r} already exists in the graph; choose another name")
        _each_name(graph, lambda name, old=old, new=new: new if name == old else name)  # type: ignore[misc]


def cast(model: onnx_graph.Model, types: Mapping[str, str]) -> list[str]:
    """Lets inputs and outputs have these types, by name, and casts inside the graph; says what was cast, a line each.

    An integer that the graph's own type cannot hold becomes that type's nearest: cut off, it would be another item.
    Raises ReleaseError where the graph is older than the operators that this takes.
    """
    done, graph = [], model.graph
    taken = _all_names(graph)
    version = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    before: list[onnx_graph.Node] = []
    for value, inward in [(one, True) for one in graph.input] + [(one, False) for one in graph.output]:
        kind = value.type.tensor_type
        was = BY_ONNX.get(kind.elem_type)
        wanted = types.get(value.name)
        if wanted is None or was is None or was.dtype == wanted:
            continue
        if version < LEAST_OPSET:
            raise ReleaseError(f"--cast: the graph has opset {version}; allowed: {LEAST_OPSET} and newer")
        name, inner = value.name, _fresh(f"{value.name}_{was.dtype}", taken)
        _each_name(graph, lambda one, name=name, inner=inner: inner if one == name else one)  # type: ignore[misc]
        value.name = name
        kind.elem_type = BY_DTYPE[wanted].onnx
        if inward:
            before += _inward(graph, name, inner, was.dtype, was.onnx, taken)
        else:
            graph.node.append(_cast(inner, name, BY_DTYPE[wanted].onnx))
        done.append(f"{name} {was.dtype} as {wanted}")
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return done


def _inward(
    graph: onnx_graph.Graph, name: str, inner: str, dtype: str, onnx_type: int, taken: set[str]
) -> list[onnx_graph.Node]:
    if dtype not in NARROW:
        return [_cast(name, inner, onnx_type)]
    bits = NARROW[dtype]
    nodes = []
    for operator, bound in (("Max", -(2 ** (bits - 1))), ("Min", 2 ** (bits - 1) - 1)):
        constant, bounded = (
            _fresh(f"{inner}_{operator.lower()}_bound", taken),
            _fresh(f"{inner}_{operator.lower()}", taken),
        )
        graph.initializer.add(
            name=constant, data_type=BY_DTYPE["int64"].onnx, dims=[], raw_data=struct.pack("<q", bound)
        )
        nodes.append(onnx_graph.Node(op_type=operator, input=[name, constant], output=[bounded]))
        name = bounded
    return [*nodes, _cast(name, inner, onnx_type)]


def _cast(source: str, target: str, onnx_type: int) -> onnx_graph.Node:
    to = onnx_graph.Attribute(name="to", i=onnx_type, type=_INTEGER)
    return onnx_graph.Node(op_type="Cast", input=[source], output=[target], attribute=[to])


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _each_name(graph: onnx_graph.Graph, change: Callable[[str], str]) -> None:
    """Changes each name of a value in a graph and in those inside it, which may use the names of those around them."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = change(name)
        for inner in _inner(node):
            _each_name(inner, change)
    for sparse in graph.sparse_initializer:
        sparse.values.name = change(sparse.values.name)
    for tensor in graph.initializer:
        tensor.name = change(tensor.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = change(value.name)


def _all_names(graph: onnx_graph.Graph) -> set[str]:
    found: set[str] = set()

    def note(name: str) -> str:
        found.add(name)
        return name

    _each_name(graph, note)
    return found


def _inner(node: onnx_graph.Node) -> Iterable[onnx_graph.Graph]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
