"""Writes a scorer as an ONNX graph that answers exactly as `scorer.recommend` does.

The graph, with N items numbered by popularity and N itself standing for padding and unknown ids:

    history ─ Pad 1 ─ Clip ─ Gather(table of ids) ─► number ─ Slice(newest) ─► recent ─ known? ─ CumSum ─► place
    for each table: MatMulInteger(Gather(places, place), Gather(weights, recent)) ─ Cast ─ Mul(scale) ─► scores
    Where(nothing known, popular, scores) ─ ScatterElements(number, -inf) ─ Slice(:N) ─ TopK ─ Gather(item ids)

Places are counted from the right over known items only, so padding and unknown ids weigh nothing and push nothing back.
Only standard operators are used. Weights are stored as the list of non-zero rows for each column; ONNX Runtime unfolds
them once, when it loads the model (constant folding).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from abfleet_models.signature import contract
from abfleet_models.train.scorer import Scorer, WeightTable

OPSET = 17
"""The newest whose every operator here ONNX Runtime has had since 1.12."""
IR_VERSION = 8
FAR = 2**31 - 1
"""Past the end of any history."""


def export(scorer: Scorer, *, name: str) -> bytes:
    """The serialised model; the same scorer gives the same bytes."""
    graph = _Graph()
    graph.vector("axis", 1)
    numbers = _numbers(graph, scorer)
    popular = graph.constant("popular", _with_nobody(scorer.popular)[None, :])
    if scorer.tables:
        recent = graph.add("Slice", [numbers, graph.vector("from", -scorer.window), graph.vector("to", FAR), "axis"])
        places, cold = _places(graph, recent, len(scorer.item_ids))
        scores = graph.add("Where", [cold, popular, _scores(graph, scorer.tables, recent, places)])
    else:
        first = graph.add("Slice", [numbers, graph.vector("from", 0), graph.vector("to", 1), "axis"])
        # A dimension of 1 keeps the size that is there: [1, items + 1] becomes [batch, items + 1].
        scores = graph.add("Expand", [popular, graph.add("Shape", [first])])
    _best(graph, scorer, scores, numbers)
    signature = contract(scorer.k, scorer.max_history)
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, kinds[spec.dtype], list(spec.shape)) for spec in specs]
        for specs in (signature.inputs, signature.outputs)
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="abfleet",
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and constants in the order they were added. Mutable: grows, names its tensors itself."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Adds a constant and returns its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, name: str, value: int) -> str:
        """Adds a constant int64[] and returns its name."""
        return self.constant(name, np.array(value, dtype=np.int64))

    def vector(self, name: str, *values: int) -> str:
        """Adds a constant int64[len(values)] and returns its name."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def add(self, operator: str, inputs: Sequence[str], *, output: str = "", **attributes: Any) -> str:
        """Adds a node with one output and returns the output's name."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def _numbers(graph: _Graph, scorer: Scorer) -> str:
    """int64[batch, length + 1] item numbers; N for padding and unknown ids, and always at the first place.

    That first place makes a history of length 0 like any other.
    """
    items, largest = len(scorer.item_ids), int(scorer.item_ids.max())
    # Ids below 1 are clipped to 0, ids above the largest to one past it: both ends of the table say "unknown".
    table = np.full(largest + 2, items, dtype=np.int16 if items < 2**15 else np.int32)
    table[scorer.item_ids] = np.arange(items)
    padded = graph.add("Pad", ["history", graph.vector("one_left", 0, 1, 0, 0)])
    clipped = graph.add("Clip", [padded, graph.scalar("lowest", 0), graph.scalar("highest", largest + 1)])
    number = graph.add("Gather", [graph.constant("number_of_id", table), clipped])
    return graph.add("Cast", [number], to=TensorProto.INT64)


def _places(graph: _Graph, recent: str, items: int) -> tuple[str, str]:
    """int64[batch, window] how many known items are newer; bool[batch, 1] whether none is known."""
    known = graph.add("Cast", [graph.add("Less", [recent, graph.scalar("nobody", items)])], to=TensorProto.INT64)
    newer = graph.add("CumSum", [known, graph.scalar("along", 1)], exclusive=1, reverse=1)
    total = graph.add("ReduceSum", [known, "axis"], keepdims=1)
    return newer, graph.add("Equal", [total, graph.scalar("none", 0)])


def _scores(graph: _Graph, tables: Sequence[WeightTable], recent: str, places: str) -> str:
    """float32[batch, items + 1], the last column zero."""
    parts = []
    for index, table in enumerate(tables):
        weights = _unfolded(graph, table, f"table{index}")
        rows = graph.add("Gather", [weights, recent])  # int8[batch, window, items + 1]
        place_weights = graph.add("Gather", [graph.constant(f"table{index}_places", table.places), places])
        line = graph.add("Unsqueeze", [place_weights, "axis"])  # uint8[batch, 1, window]
        total = graph.add("Squeeze", [graph.add("MatMulInteger", [line, rows]), "axis"])
        exact = graph.add("Cast", [total], to=TensorProto.FLOAT)
        parts.append(graph.add("Mul", [exact, graph.constant(f"table{index}_scale", _with_nobody(table.scale))]))
    scores = parts[0]
    for part in parts[1:]:
        scores = graph.add("Add", [scores, part])
    return scores


def _unfolded(graph: _Graph, table: WeightTable, name: str) -> str:
    """int8[items + 1, items + 1] from the rows and values of each column; the last row and column are zero."""
    items = len(table.weights)
    longest = max(1, int((table.weights != 0).sum(axis=0).max()))
    # Non-zero rows first, each group in ascending order; the filling is zeros that are written as zeros.
    rows = np.argsort(table.weights == 0, axis=0, kind="stable")[:longest]
    values = np.zeros((longest, items + 1), dtype=np.int8)
    values[:, :items] = np.take_along_axis(table.weights, rows, axis=0)
    small = np.int16 if items < 2**15 else np.int32
    rows = np.concatenate([rows, np.arange(longest)[:, None]], axis=1).astype(small)
    shape = graph.vector(f"{name}_shape", items + 1, items + 1)
    zero = numpy_helper.from_array(np.zeros(1, dtype=np.int8))
    return graph.add(
        "ScatterElements",
        [
            graph.add("ConstantOfShape", [shape], value=zero),
            graph.add("Cast", [graph.constant(f"{name}_rows", rows)], to=TensorProto.INT64),
            graph.constant(f"{name}_values", values),
        ],
        axis=0,
    )


def _best(graph: _Graph, scorer: Scorer, scores: str, numbers: str) -> None:
    """Excludes the history, takes the k best (ties: the lower number) and puts id 0, score 0 where nothing is left."""
    gone = graph.constant("gone", np.array([-np.inf], dtype=np.float32))
    marks = graph.add("Expand", [gone, graph.add("Shape", [numbers])])
    marked = graph.add("ScatterElements", [scores, numbers, marks], axis=1)
    items = graph.vector("items", len(scorer.item_ids))
    # Without the last column, which collected the marks of padding and unknown ids.
    left = graph.add("Slice", [marked, graph.vector("first", 0), items, "axis"])
    graph.nodes.append(helper.make_node("TopK", [left, graph.vector("k", scorer.k)], ["top", "top_numbers"]))
    found = graph.add("Greater", ["top", "gone"])
    ids = graph.add("Gather", [graph.constant("item_ids_by_number", scorer.item_ids), "top_numbers"])
    graph.add("Where", [found, ids, graph.scalar("no_item", 0)], output="item_ids")
    graph.add("Where", [found, "top", graph.constant("no_score", np.zeros((), np.float32))], output="scores")


def _with_nobody(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[items] -> [items + 1]; the last stands for padding and unknown ids."""
    return np.append(values, np.float32(0.0))
