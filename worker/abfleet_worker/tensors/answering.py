"""Arrays of a model to ModelInferResponse messages. Pure."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from abfleet_process.base128 import varint
from abfleet_protos.inference_pb2 import ModelInferResponse
from abfleet_protos.worker_pb2 import Failure, InferBatchResponse
from abfleet_transport.call import Code
from numpy.typing import NDArray

from abfleet_worker.request import Refusal
from abfleet_worker.tensors.faces import TensorFace
from abfleet_worker.tensors.reading import LENGTH

RAW_TAG = b"\x32"
"""Of ModelInferResponse.raw_output_contents."""
BYTES_BESIDE = 64
"""Room for what a batch has beside its answers' bytes: version, alias, times, and a few bytes for each answer."""


class RunOutput:
    """One output of a run, to be cut into what each of its requests gets."""

    def __init__(self, array: NDArray[Any], face: TensorFace) -> None:
        self._face = face
        self._array = array
        self._raw = b"" if face.is_text else array.astype(face.dtype, copy=False).tobytes()
        self.row_bytes = len(self._raw) // (len(array) or 1) if array.ndim else 0
        """Of numbers; 0 for texts, which have no fixed size."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return self._array.shape

    def declared(self, shape: tuple[int, ...]) -> bytes:
        """A field `outputs`."""
        return declared(self._face.name, self._face.datatype, shape)

    def whole(self) -> bytes:
        """All elements."""
        return raw_texts(self._array) if self._face.is_text else self._raw

    def rows(self, begin: int, end: int) -> bytes:
        """Elements of these rows."""
        if self._face.is_text:
            return raw_texts(self._array[begin:end])
        return self._raw[begin * self.row_bytes : end * self.row_bytes]


def encode(outputs: Sequence[RunOutput]) -> bytes:
    """A serialised ModelInferResponse with `outputs` and `raw_output_contents` alone: the whole of a run.

    Written by hand, as all answers here: a message object costs as much as all the rest of a quick model's answer.
    """
    parts = [output.declared(output.shape) for output in outputs]
    for output in outputs:
        elements = output.whole()
        parts += (contents_head(len(elements)), elements)
    return b"".join(parts)


class SharedRun:
    """Encodes the answers of requests that shared a run. Lives as long as the run's outputs."""

    def __init__(self, outputs: Mapping[int, RunOutput]) -> None:
        """`outputs`: by their places in the signature."""
        self._outputs = outputs
        self._declared: dict[tuple[tuple[int, ...], int], bytes] = {}

    def encode(self, places: tuple[int, ...], begin: int, end: int) -> bytes:
        """These outputs of these rows."""
        key = (places, end - begin)
        fields = self._declared.get(key)
        if fields is None:
            chosen = [self._outputs[place] for place in places]
            fields = self._declared[key] = b"".join([one.declared((end - begin, *one.shape[1:])) for one in chosen])
        parts = [fields]
        for place in places:
            elements = self._outputs[place].rows(begin, end)
            parts += (contents_head(len(elements)), elements)
        return b"".join(parts)


@lru_cache(maxsize=4096)
def declared(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """A field `outputs`."""
    answer = ModelInferResponse()
    answer.outputs.add(name=name, datatype=datatype, shape=shape)
    encoded: bytes = answer.SerializeToString()
    return encoded


@lru_cache(maxsize=4096)
def contents_head(size_bytes: int) -> bytes:
    """What stands before the elements in a field `raw_output_contents`."""
    return RAW_TAG + varint(size_bytes)


def raw_texts(array: NDArray[Any]) -> bytes:
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
