"""Small ONNX graphs of every shape that a model may have, and that it may not. Trains nothing, knows no registry."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from abfleet_models.adding.candidate import examine
from abfleet_models.adding.drafting import AddOptions
from abfleet_models.release import Release
from onnx import TensorProto, helper, numpy_helper

from tests.models.conftest import NOW

Shape = Sequence[int | str | None]
HISTORIES = [[0, 0, 0], [1, 2, 3]]
RAISING = 666.0
"""In the first feature of a row of `fragile`, makes ONNX Runtime raise."""
ENDLESS_FROM = 1_000_000
"""`endless` does not come to an end with items above it."""
KINDS = {
    "FP32": TensorProto.FLOAT,
    "UINT8": TensorProto.UINT8,
    "INT8": TensorProto.INT8,
    "UINT16": TensorProto.UINT16,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BYTES": TensorProto.STRING,
    "BOOL": TensorProto.BOOL,
    "FP16": TensorProto.FLOAT16,
    "FP64": TensorProto.DOUBLE,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
}
value = helper.make_tensor_value_info


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 17,
) -> bytes:
    """A serialised model."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    made = helper.make_graph(list(nodes), "small", list(inputs), list(outputs), tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=imports, ir_version=8).SerializeToString()


def ranker(columns: int = 4, first: str | int = "rows") -> bytes:
    """features FP32[rows, columns] to score FP32[rows, 1]: a sum for each row, which is joined."""
    return graph(
        [
            helper.make_node("Mul", ["features", "weights"], ["parts"]),
            helper.make_node("ReduceSum", ["parts", "axis"], ["score"]),
        ],
        [value("features", TensorProto.FLOAT, [first, columns])],
        [value("score", TensorProto.FLOAT, [first, 1])],
        {"weights": np.linspace(-1, 1, columns, dtype=np.float32)[None, :], "axis": np.array([1], np.int64)},
    )


def softmax_over_rows() -> bytes:
    """score FP32[rows, 1] of features, as shares of all rows of the run: a neighbour changes them."""
    return graph(
        [
            helper.make_node("ReduceSum", ["features", "axis"], ["sum"]),
            helper.make_node("Softmax", ["sum"], ["score"], axis=0),
        ],
        [value("features", TensorProto.FLOAT, ["rows", 4])],
        [value("score", TensorProto.FLOAT, ["rows", 1])],
        {"axis": np.array([1], np.int64)},
    )


def listwise() -> bytes:
    """A listwise ranker: each candidate's score less the mean of all candidates that were sent with it."""
    return graph(
        [
            helper.make_node("ReduceSum", ["candidates", "axis"], ["sum"]),
            helper.make_node("ReduceMean", ["sum"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["sum", "mean"], ["score"]),
        ],
        [value("candidates", TensorProto.FLOAT, ["n", 3])],
        [value("score", TensorProto.FLOAT, ["n", 1])],
        {"axis": np.array([1], np.int64)},
    )


def classifier() -> bytes:
    """features FP32[rows, 5] to label INT64[rows] and probabilities FP32[rows, 3]: a small forest of 20 stumps."""
    trees = range(20)
    generator = np.random.default_rng(5)
    forest = helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        nodes_treeids=[tree for tree in trees for _ in range(3)],
        nodes_nodeids=[node for _ in trees for node in range(3)],
        nodes_featureids=[tree % 5 if node == 0 else 0 for tree in trees for node in range(3)],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * len(trees),
        nodes_values=[float(v) if node == 0 else 0.0 for v in generator.normal(size=len(trees)) for node in range(3)],
        nodes_truenodeids=[1, 0, 0] * len(trees),
        nodes_falsenodeids=[2, 0, 0] * len(trees),
        class_treeids=[tree for tree in trees for _ in range(2)],
        class_nodeids=[1, 2] * len(trees),
        class_ids=[place for tree in trees for place in (tree % 3, (tree + 1) % 3)],
        class_weights=[1 / len(trees)] * (2 * len(trees)),
        classlabels_int64s=[0, 1, 2],
        post_transform="NONE",
    )
    return graph(
        [forest],
        [value("features", TensorProto.FLOAT, ["rows", 5])],
        [value("label", TensorProto.INT64, ["rows"]), value("probabilities", TensorProto.FLOAT, ["rows", 3])],
    )


def fragile() -> bytes:
    """As `ranker`, but a row whose first feature is RAISING makes the whole run fail."""
    return graph(
        [
            helper.make_node("Gather", ["features", "first"], ["head"], axis=1),
            helper.make_node("Equal", ["head", "bad"], ["is_bad"]),
            helper.make_node("Where", ["is_bad", "outside", "inside"], ["place"]),
            helper.make_node("Gather", ["table", "place"], ["nothing"]),  # out of bounds raises
            helper.make_node("ReduceSum", ["features", "axis"], ["sum"]),
            helper.make_node("Add", ["sum", "nothing"], ["score"]),
        ],
        [value("features", TensorProto.FLOAT, ["rows", 4])],
        [value("score", TensorProto.FLOAT, ["rows", 1])],
        {
            "first": np.array([0], np.int64),
            "axis": np.array([1], np.int64),
            "bad": np.array(RAISING, np.float32),
            "outside": np.array(5, np.int64),
            "inside": np.array(0, np.int64),
            "table": np.zeros(1, np.float32),
        },
    )


def echo(datatypes: Sequence[str], shape: Shape | None = ("rows",)) -> bytes:
    """in_TYPE to out_TYPE, for each of these types of the Open Inference Protocol."""
    return graph(
        [helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in datatypes],
        [value(f"in_{kind}", KINDS[kind], shape) for kind in datatypes],
        [value(f"out_{kind}", KINDS[kind], shape) for kind in datatypes],
    )


def user_and_items() -> bytes:
    """Three inputs and two outputs: user INT64[rows, 1], items INT64[rows, n], context BYTES[rows] to score
    FP32[rows, n], best INT64[rows, 1]; the table has ten users and ten items."""
    table = np.random.default_rng(1).standard_normal((10, 8)).astype(np.float32)
    return graph(
        [
            helper.make_node("Gather", ["table", "user"], ["user_vector"]),
            helper.make_node("Gather", ["table", "items"], ["item_vectors"]),
            helper.make_node("Mul", ["user_vector", "item_vectors"], ["products"]),
            helper.make_node("ReduceSum", ["products", "axis"], ["score"], keepdims=0),
            helper.make_node("ArgMax", ["score"], ["best"], axis=1),
            helper.make_node("Identity", ["context"], ["echoed"]),
        ],
        [
            value("user", TensorProto.INT64, ["rows", 1]),
            value("items", TensorProto.INT64, ["rows", "n"]),
            value("context", TensorProto.STRING, ["rows"]),
        ],
        [
            value("score", TensorProto.FLOAT, ["rows", "n"]),
            value("best", TensorProto.INT64, ["rows", 1]),
            value("echoed", TensorProto.STRING, ["rows"]),
        ],
        {"table": table, "axis": np.array([2], np.int64)},
    )


def recommender(
    *,
    history: str = "history",
    item_ids: str = "item_ids",
    scores: str = "scores",
    history_type: int = TensorProto.INT64,
    ids_type: int = TensorProto.INT64,
    score_type: int = TensorProto.FLOAT,
    shape: Shape = ("batch", "length"),
    gives_seen: bool = False,
    k: int | str = 5,
    opset: int = 17,
) -> bytes:
    """The most popular of twenty items that the history does not have; with other names or types if wanted."""
    items, count = 20, 5
    nodes = [
        helper.make_node("Cast", [history], ["whole"], to=TensorProto.INT64),
        helper.make_node("Clip", ["whole", "lowest", "highest"], ["clipped"]),
        helper.make_node("Slice", ["clipped", "from", "to", "one"], ["first"]),
        helper.make_node("Shape", ["first"], ["rows"]),
        helper.make_node("Expand", ["popular", "rows"], ["all"]),
        helper.make_node("Shape", ["clipped"], ["places"]),
        helper.make_node("Expand", ["zero" if gives_seen else "gone", "places"], ["marks"]),
        helper.make_node("ScatterElements", ["all", "clipped", "marks"], ["left"], axis=1, reduction="add"),
        helper.make_node("Slice", ["left", "one", "end", "one"], ["known"]),
        helper.make_node("TopK", ["known", "k"], ["top", "numbers"]),
        helper.make_node("Add", ["numbers", "one"], ["plain_ids"]),
        helper.make_node("Cast", ["plain_ids"], [item_ids], to=ids_type),
        helper.make_node("Cast", ["top"], [scores], to=score_type),
    ]
    return graph(
        nodes,
        [value(history, history_type, list(shape))],
        [value(item_ids, ids_type, ["batch", k]), value(scores, score_type, ["batch", k])],
        {
            "lowest": np.array(0, np.int64),
            "highest": np.array(items + 1, np.int64),
            "from": np.array([0], np.int64),
            "to": np.array([1], np.int64),
            "one": np.array([1], np.int64),
            "end": np.array([items + 1], np.int64),
            "k": np.array([count], np.int64),
            "popular": np.arange(items + 2, 0, -1, dtype=np.float32)[None, :],
            "gone": np.array([[-1000]], np.float32),
            "zero": np.array([[0]], np.float32),
        },
        opset=opset,
    )


def endless() -> bytes:
    """A recommender that is never done with a history that has an item above ENDLESS_FROM."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_on"], ["goes_on"]),
            helper.make_node("Add", ["count", "count"], ["twice"]),
        ],
        "turn",
        [value("turn", TensorProto.INT64, []), value("going_on", TensorProto.BOOL, []), _scalar("count")],
        [value("goes_on", TensorProto.BOOL, []), _scalar("twice")],
    )
    nodes = [
        helper.make_node("ReduceMax", ["history"], ["largest"], keepdims=0),
        helper.make_node("Sub", ["largest", "from"], ["above"]),
        helper.make_node("Max", ["above", "none"], ["times"]),
        helper.make_node("Mul", ["times", "many"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "nothing"], ["sum"], body=body),
        helper.make_node("Shape", ["history"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "second"], ["rows"]),
        helper.make_node("Concat", ["rows", "k"], ["wanted"], axis=0),
        helper.make_node("ReduceMax", ["history"], ["last"], axes=[1], keepdims=1),
        helper.make_node("Add", ["last", "ids"], ["item_ids"]),
        helper.make_node("Expand", ["sum", "wanted"], ["scores"]),
    ]
    return graph(
        nodes,
        [value("history", TensorProto.INT64, ["batch", "length"])],
        [value("item_ids", TensorProto.INT64, ["batch", 5]), value("scores", TensorProto.FLOAT, ["batch", 5])],
        {
            "from": np.array(ENDLESS_FROM, np.int64),
            "none": np.array(0, np.int64),
            "many": np.array(10**12, np.int64),
            "nothing": np.array(0, np.float32),
            "first": np.array([0], np.int64),
            "second": np.array([1], np.int64),
            "k": np.array([5], np.int64),
            "ids": np.arange(1, 6, dtype=np.int64)[None, :],
        },
    )


def _scalar(name: str) -> onnx.ValueInfoProto:
    return value(name, TensorProto.FLOAT, [])


def sequence_output() -> bytes:
    """An output that is a sequence of tensors."""
    return graph(
        [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0)],
        [value("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)],
    )


def zipmap_output() -> bytes:
    """What skl2onnx makes of a classifier's probabilities unless it is told otherwise: a list of maps."""
    maps = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    listed = helper.make_value_info("output_probability", helper.make_sequence_type_proto(maps))
    zipped = helper.make_node(
        "ZipMap", ["x"], ["output_probability"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"]
    )
    return graph([zipped], [value("x", TensorProto.FLOAT, ["rows", 2])], [listed])


def add_model(root: Path, version: str, model: bytes, **options: Any) -> Path:
    """Adds a model file to a registry as `abfleet models add` does, and gives the version's folder."""
    root.mkdir(parents=True, exist_ok=True)
    file, scratch = root.parent / f"{version}.onnx", root.parent / f"{version}.scratch"
    file.write_bytes(model)
    scratch.mkdir()
    candidate = examine(file, scratch, HISTORIES, AddOptions(version=version, **options))
    with Release.begin(root, now=NOW) as release:
        release.add(candidate.files)
    return root / version
