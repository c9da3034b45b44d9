"""Models that load, pass their golden answers, and are broken for whoever really calls. Knows the graph contract.

They are like `tiny_model` for a history whose items sum up to at most SMALL; real histories sum up to far more.
"""

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALL = 1000
Kind = Literal["raises", "empty"]
"""ONNX Runtime fails; or the answer is a list without an item."""


def broken_model(kind: Kind, k: int = 100) -> bytes:
    """The serialised graph."""
    constants = {
        "one": np.array([1], np.int64),
        "ranks": np.arange(1, k + 1, dtype=np.int64),
        "falling": np.arange(k, 0, -1).astype(np.float32),
        "small": np.array(SMALL, np.int64),
        "table": np.zeros(1, np.int64),
        "outside": np.array(5 if kind == "raises" else 0, np.int64),
        "inside": np.array(0, np.int64),
        "nothing": np.array(-np.inf if kind == "empty" else 0, np.float32),
        "zero": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("ReduceSum", ["history", "one"], ["sum"], keepdims=1),
        helper.make_node("Greater", ["sum", "small"], ["real"]),
        helper.make_node("Where", ["real", "outside", "inside"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["shift"]),  # out of bounds raises
        helper.make_node("Add", ["sum", "shift"], ["base"]),
        helper.make_node("Add", ["base", "ranks"], ["item_ids"]),
        helper.make_node("Where", ["real", "nothing", "zero"], ["end"]),
        helper.make_node("Add", ["falling", "end"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "broken",
        [helper.make_tensor_value_info("history", TensorProto.INT64, ["batch", "length"])],
        [
            helper.make_tensor_value_info("item_ids", TensorProto.INT64, ["batch", k]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", k]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
