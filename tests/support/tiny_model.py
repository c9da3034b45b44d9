"""A registry with one tiny model that tells histories apart. Knows the graph contract; trains nothing.

For a history with the sum `s` of its items the answer is the items `s + 1, s + 2, … s + k`, with scores k, k - 1, … 1.
A history whose sum is POISON_NAN gets nan scores, one of POISON_RAISE makes ONNX Runtime raise, and one of POISON_END
has a row that ends (-inf) after two items.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from abfleet_models.signature import contract
from onnx import TensorProto, helper, numpy_helper

POISON_NAN = 666
POISON_RAISE = 777
POISON_END = 888


def expected(history: list[int], limit: int, k: int = 100) -> tuple[list[int], list[float]]:
    """The tiny model's answer to a history that is not poisoned."""
    total, count = sum(history), min(limit or 10, k)
    return [total + rank for rank in range(1, count + 1)], [float(k - rank) for rank in range(count)]


def model_bytes(k: int = 100, *, input_type: int = TensorProto.INT64, broken_k: int | None = None) -> bytes:
    """The serialised graph; `broken_k` makes it answer another number of items than it says."""
    constants = {
        "one": np.array([1], np.int64),
        "ranks": np.arange(1, (broken_k or k) + 1, dtype=np.int64),
        "falling": np.arange(broken_k or k, 0, -1).astype(np.float32),
        "poison_nan": np.array(POISON_NAN, np.int64),
        "poison_raise": np.array(POISON_RAISE, np.int64),
        "poison_end": np.array(POISON_END, np.int64),
        "nan": np.array(np.nan, np.float32),
        "zero": np.array(0, np.float32),
        "end": np.array([0, 0] + [-np.inf] * ((broken_k or k) - 2), np.float32),
        "table": np.zeros(1, np.int64),
        "far": np.array(5, np.int64),
        "near": np.array(0, np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["history"], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["whole", "one"], ["sum"], keepdims=1),
        helper.make_node("Equal", ["sum", "poison_raise"], ["raises"]),
        helper.make_node("Where", ["raises", "far", "near"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["nothing"]),  # out of bounds for a poisoned row: raises
        helper.make_node("Add", ["sum", "nothing"], ["base"]),
        helper.make_node("Add", ["base", "ranks"], ["item_ids"]),
        helper.make_node("Equal", ["sum", "poison_nan"], ["is_nan"]),
        helper.make_node("Where", ["is_nan", "nan", "zero"], ["noise"]),
        helper.make_node("Equal", ["sum", "poison_end"], ["ends"]),
        helper.make_node("Where", ["ends", "end", "zero"], ["ending"]),
        helper.make_node("Add", ["falling", "noise"], ["noisy"]),
        helper.make_node("Add", ["noisy", "ending"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("history", input_type, ["batch", "length"])],
        [
            helper.make_tensor_value_info("item_ids", TensorProto.INT64, ["batch", k]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", k]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def add_version(
    root: Path, version: str, content: bytes | None = None, *, k: int = 100, max_history: int = 500
) -> Path:
    """Writes a version into a registry folder and gives the version's folder."""
    content = model_bytes(k) if content is None else content
    folder = root / version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    golden = [[0, 1, 2], [3, 4, 5]]
    answers = [expected(row, k, k) for row in golden]
    signature = contract(k, max_history)
    tensors = {
        key: [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]
        for key, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
    metadata = {
        "schema": 1,
        "version": version,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "model": {"algorithm": "sum"},
        "signature": {**tensors, "k": k, "max_history": max_history},
        "golden": {
            "history": golden,
            "item_ids": [ids for ids, _ in answers],
            "scores": [scores for _, scores in answers],
        },
        "training": {"name": "none"},
        "code": {"version": "test"},
        "seed": 0,
    }
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def tiny_registry(root: Path, version: str = "v1.2.3") -> Path:
    """A registry with one version and the alias `production` on it."""
    add_version(root, version)
    (root / "production").symlink_to(version)
    return root
