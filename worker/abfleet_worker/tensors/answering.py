"""Arrays of a model to ModelInferResponse messages. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from abfleet_protos.inference_pb2 import ModelInferResponse
from abfleet_protos.worker_pb2 import Failure, InferBatchResponse
from abfleet_transport.call import Code
from numpy.typing import NDArray

from abfleet_worker.request import Refusal
from abfleet_worker.tensors.faces import TensorFace
from abfleet_worker.tensors.reading import LENGTH

BYTES_BESIDE = 64
"""Room for what a batch has beside its answers' bytes: version, alias, times, and a few bytes for each answer."""


def encode(arrays: Sequence[NDArray[Any]], faces: Sequence[TensorFace]) -> bytes:
    """A serialised ModelInferResponse with `outputs` and `raw_output_contents` alone."""
    answer = ModelInferResponse()
    for array, face in zip(arrays, faces, strict=True):
        answer.outputs.add(name=face.name, datatype=face.datatype, shape=array.shape)
        answer.raw_output_contents.append(
            _texts(array) if face.is_text else array.astype(face.dtype, copy=False).tobytes()
        )
    encoded: bytes = answer.SerializeToString()
    return encoded


def _texts(array: NDArray[Any]) -> bytes:
    parts: list[bytes] = []
    for text in np.ravel(array).tolist():
        encoded = text.encode() if isinstance(text, str) else bytes(text)
        parts += (LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def join_batch(version: str, answers: Sequence[bytes | Refusal], elapsed_us: int, alias: str, most_bytes: int) -> bytes:
    """A serialised InferBatchResponse: for each request in order, its answer or its failure.

    Answers past `most_bytes` together are UNAVAILABLE, so that they are asked for again; one that is larger by itself
    is RESOURCE_EXHAUSTED.
    """
    failures: dict[int, Any] = {}
    responses: list[bytes] = []
    room = most_bytes - BYTES_BESIDE
    for index, answer in enumerate(answers):
        found: bytes | Refusal = answer
        if not isinstance(answer, Refusal) and len(answer) > room:
            found = _too_large(len(answer), most_bytes)
        if isinstance(found, Refusal):
            failures[index] = Failure(code=int(found.code), message=found.message)
            responses.append(b"")
        else:
            responses.append(found)
            room -= len(found) + BYTES_BESIDE
    encoded: bytes = InferBatchResponse(
        model_version=version, responses=responses, failures=failures, elapsed_us=elapsed_us, alias=alias
    ).SerializeToString()
    return encoded


def _too_large(size: int, most_bytes: int) -> Refusal:
    if size > most_bytes - BYTES_BESIDE:
        return Refusal(
            Code.RESOURCE_EXHAUSTED, f"answer: {size} bytes; at most {most_bytes - BYTES_BESIDE} bytes are allowed"
        )
    return Refusal(Code.UNAVAILABLE, f"answer: no room for {size} bytes in this batch; ask again")
