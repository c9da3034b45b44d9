"""A small model to begin with: a ranker of candidates by four features, written without any ONNX library."""

import struct
from pathlib import Path

from abfleet_models import disk
from abfleet_models.errors import ReleaseError, shown
from abfleet_models.graph import onnx_graph_pb2 as onnx_graph
from abfleet_models.graph.tensors import BY_DTYPE
from abfleet_models.manifest import NAME_RULE, is_name
from abfleet_models.registry import METADATA_FILE, MODEL_FILE

WEIGHTS = (0.5, -0.25, 0.125, 1.0)
FLOAT32, INT64 = BY_DTYPE["float32"].onnx, BY_DTYPE["int64"].onnx


def write_example(folder: Path, version: str) -> None:
    """Writes model.onnx and metadata.json into a new folder. Raises ReleaseError and OSError."""
    if not is_name(version):
        raise ReleaseError(f"--version: {shown(version)} is not a version; allowed: {NAME_RULE}")
    if folder.exists():
        raise ReleaseError(f"{folder} already exists; choose another folder")
    metadata = {
        "version": version,
        "model": {"algorithm": "linear", "description": "A score for each candidate, from four features."},
        "training": {"name": "what it was trained on", "licence": "", "citation": ""},
        "code": {"version": "0.1.0"},
    }
    files = {MODEL_FILE: example_model(), METADATA_FILE: disk.to_json(metadata).encode()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    disk.prepare_folder(folder, files)


def example_model() -> bytes:
    """features FP32[candidates, 4] to score FP32[candidates, 1]: one weighted sum for each candidate."""
    graph = onnx_graph.Graph(
        name="example",
        initializer=[
            onnx_graph.Tensor(name="weights", data_type=FLOAT32, dims=[1, 4], raw_data=struct.pack("<4f", *WEIGHTS)),
            onnx_graph.Tensor(name="axis", data_type=INT64, dims=[1], raw_data=struct.pack("<q", 1)),
        ],
        node=[
            onnx_graph.Node(op_type="Mul", input=["features", "weights"], output=["parts"]),
            onnx_graph.Node(op_type="ReduceSum", input=["parts", "axis"], output=["score"]),
        ],
        input=[_value("features", len(WEIGHTS))],
        output=[_value("score", 1)],
    )
    model = onnx_graph.Model(
        ir_version=8, producer_name="abfleet", opset_import=[onnx_graph.OperatorSet(version=17)], graph=graph
    )
    return model.SerializeToString(deterministic=True)


def _value(name: str, columns: int) -> onnx_graph.Value:
    shape = onnx_graph.Shape(
        dim=[onnx_graph.Dimension(dim_param="candidates"), onnx_graph.Dimension(dim_value=columns)]
    )
    tensor = onnx_graph.TensorType(elem_type=FLOAT32, shape=shape)
    return onnx_graph.Value(name=name, type=onnx_graph.Type(tensor_type=tensor))
