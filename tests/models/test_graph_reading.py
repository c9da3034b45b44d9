"""Reading an ONNX file: agrees with the onnx library, lives beside it in a process, and no bytes break it."""

import contextlib
from pathlib import Path

import onnx
import pytest
from abfleet_models.graph.reading import NotOnnxError, read_graph
from abfleet_models.signature import contract
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.models.conftest import COMMITTED

SMALL = (COMMITTED / "archive" / "v1.2.2" / "model.onnx").read_bytes()


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("**/model.onnx")), ids=lambda path: path.parent.name)
def test_agrees_with_the_onnx_library(path: Path) -> None:
    """Names and types of inputs and outputs, and the domains of nodes, are those that onnx reads."""
    content = path.read_bytes()
    found, model = read_graph(content), onnx.load_from_string(content)
    assert [spec.name for spec in found.inputs] == [item.name for item in model.graph.input]
    assert [spec.name for spec in found.outputs] == [item.name for item in model.graph.output]
    assert found.domains == {node.domain for node in model.graph.node}
    assert found.external == frozenset()
    assert (found.inputs, found.outputs) == (contract(100, 1).inputs, contract(100, 1).outputs)


def external(location: str) -> onnx.TensorProto:
    """A tensor whose bytes are elsewhere."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_external_tensors_are_found_wherever_they_hide() -> None:
    """Initializers, constants, sparse values, subgraphs, functions and training graphs all count."""
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=external("subgraph"))], "inner", [], [])
    sparse = onnx.SparseTensorProto(values=external("sparse"), dims=[1])
    nodes = [
        helper.make_node("Constant", [], ["a"], value=external("constant")),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Own", [], ["z"], domain="own"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [external("initializer")])
    graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph)
    body = [helper.make_node("Constant", [], ["f"], value=external("function"))]
    model.functions.append(helper.make_function("own", "Own", [], ["f"], body, [helper.make_opsetid("", 17)]))
    training = model.training_info.add()
    training.algorithm.CopyFrom(helper.make_graph([], "t", [], [], [external("training")]))
    found = read_graph(model.SerializeToString())
    assert found.external == {"constant", "subgraph", "initializer", "sparse", "function", "training"}
    assert found.domains == {""}, "a domain that the model itself defines is not custom"


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, len(SMALL) - 1),
    flips=st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 255)), max_size=8),
)
def test_broken_files_are_refused_or_read(cut: int, flips: list[tuple[int, int]]) -> None:
    """Truncated and changed models raise NotOnnxError or are read, and raise nothing else."""
    content = bytearray(SMALL[:cut] if cut % 2 else SMALL)
    for place, byte in flips:
        if place < len(content):
            content[-place - 1] = byte
    with contextlib.suppress(NotOnnxError):
        read_graph(bytes(content))


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(content: bytes) -> None:
    """No bytes at all raise anything but NotOnnxError."""
    with contextlib.suppress(NotOnnxError):
        read_graph(content)


def test_deeply_nested_graphs_are_refused() -> None:
    """Graphs inside graphs are followed to a bound; past it the file is refused and the stack does not overflow."""

    def field(number: int, content: bytes) -> bytes:
        size, prefix = len(content), bytearray([number << 3 | 2])
        while size > 0x7F:
            prefix.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([*prefix, size]) + content

    graph = b""
    for _ in range(2_000):
        graph = field(1, field(5, field(6, graph)))  # graph.node.attribute.g
    with pytest.raises(NotOnnxError, match="is not an ONNX model"):
        read_graph(field(7, graph))


def test_initialisers_that_are_listed_as_inputs_are_none() -> None:
    """IR version 3 wants all of them there; who runs the model gives none of them."""
    asked = helper.make_tensor_value_info("history", TensorProto.INT64, ["batch", "length"])
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([], "g", [listed, asked], [], initializer=[weights])
    model = helper.make_model(graph, ir_version=3)
    assert [spec.name for spec in read_graph(model.SerializeToString()).inputs] == ["history"]
