"""Messages of the Open Inference Protocol from arrays and back, and a service of one loaded model."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.worker_pb2 import InferBatchRequest, InferBatchResponse
from abfleet_transport.rpc_metrics import RpcMetrics
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.model import OnnxModel, load
from abfleet_worker.service import INFER_BATCH, METHODS, MODEL_INFER, ModelService
from numpy.typing import NDArray

from tests.support.small_graphs import add_model
from tests.worker.calls import FakeCall

Arrays = Mapping[str, NDArray[Any]]
DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "bool": "BOOL",
    "object": "BYTES",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
CONTENTS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def raw(array: NDArray[Any]) -> bytes:
    """The elements as the protocol sends them raw."""
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    texts = [text.encode() for text in array.reshape(-1)]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def request(inputs: Arrays, outputs: Sequence[str] = (), *, typed: bool = False, **fields: Any) -> ModelInferRequest:
    """A request with these inputs, raw or typed."""
    message = ModelInferRequest(**fields)
    for name, array in inputs.items():
        kind = DATATYPES[array.dtype.name]
        tensor = message.inputs.add(name=name, datatype=kind, shape=array.shape)
        if not typed:
            message.raw_input_contents.append(raw(array))
            continue
        flat = array.reshape(-1).tolist()
        place = CONTENTS.get(kind, "uint_contents" if kind.startswith("U") else "int_contents")
        getattr(tensor.contents, place).extend([one.encode() for one in flat] if kind == "BYTES" else flat)
    for name in outputs:
        message.outputs.add(name=name)
    return message


def arrays(answer: ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The outputs of an answer by name, in its order."""
    dtypes = {kind: dtype for dtype, kind in DATATYPES.items()}
    found = {}
    for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            texts, place = [], 0
            while place < len(content):
                (size,) = struct.unpack_from("<I", content, place)
                texts.append(content[place + 4 : place + 4 + size].decode())
                place += 4 + size
            flat = np.array(texts, dtype=object)
        else:
            flat = np.frombuffer(content, dtypes[output.datatype])
        found[output.name] = flat.reshape(tuple(output.shape))
    return found


def lone(message: ModelInferRequest, **fields: Any) -> FakeCall:
    """A call of ModelInfer, to the model that a worker has when nobody names it otherwise."""
    message.model_name = message.model_name or "recommender"
    return FakeCall(METHODS.index(MODEL_INFER), message.SerializeToString(), **fields)


def batched(messages: Sequence[ModelInferRequest | bytes], timeouts: Sequence[int] = (), **fields: Any) -> FakeCall:
    """A call of InferBatch."""
    requests = [one if isinstance(one, bytes) else one.SerializeToString() for one in messages]
    payload = InferBatchRequest(requests=requests, timeout_ms=timeouts).SerializeToString()
    return FakeCall(METHODS.index(INFER_BATCH), payload, **fields)


def batch_answer(call: FakeCall) -> InferBatchResponse:
    """The answer of a batch that did not fail as a whole."""
    assert isinstance(call.only, bytes), call.only
    return InferBatchResponse.FromString(call.only)


def loaded(tmp_path: Path, model: bytes, version: str = "v2", **options: Any) -> OnnxModel:
    """A model that was added to a registry, loaded as a worker does."""
    add_model(tmp_path / "models", version, model, **options)
    return load(tmp_path / "models", version)


def service(model: OnnxModel, *, max_batch: int = 128, **more: Any) -> ModelService:
    """A service of it, whose metrics are `service._metrics`."""
    return ModelService(
        model,
        rpc_metrics=RpcMetrics(METHODS),
        metrics=WorkerMetrics(lambda: (model.version, model.sha256)),
        max_batch=max_batch,
        make_request_id=lambda: "made",
        **more,
    )


def answered(call: FakeCall) -> ModelInferResponse:
    """The answer of a lone call that did not fail."""
    assert isinstance(call.only, bytes), call.only
    return ModelInferResponse.FromString(call.only)
