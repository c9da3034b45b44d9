"""Answers requests of the Open Inference Protocol with one model. Pure but for the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from abfleet_models.golden.joining import split
from abfleet_models.signature import RECOMMENDER, Signature
from abfleet_protos.worker_pb2 import InferBatchRequest
from abfleet_transport.call import Code
from numpy.typing import NDArray

from abfleet_worker.batch import BAD_ANSWER, text_field
from abfleet_worker.errors import ModelAnswerError
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.request import Refusal, shown
from abfleet_worker.tensors import reading
from abfleet_worker.tensors.answering import encode, join_batch
from abfleet_worker.tensors.faces import face_of
from abfleet_worker.tensors.reading import InferItem, WrongRequestError

MOST_JOINED_BYTES = 1024 * 1024
"""Of the inputs of one run: beyond it a run costs so much that joining saves nothing, and its callers wait longer."""


class TensorModel(Protocol):
    """What this needs of a model."""

    version: str
    signature: Signature
    joins: bool
    """Whether requests may share a run."""
    dimensions: Mapping[str, Sequence[int | str | None]]
    """Each input's shape as the graph has it, with names of free dimensions."""
    max_history: int
    """Of a recommender."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]: ...


class Inferring:
    """Frozen; replaced with the model."""

    batch_type = InferBatchRequest

    def __init__(
        self,
        model: TensorModel,
        *,
        name: str,
        alias: str,
        most_bytes: int,
        metrics: WorkerMetrics,
        clock: Callable[[], float],
    ) -> None:
        """`name`: the model's, as callers of this worker itself know it; `most_bytes`: of the answer to a batch."""
        self._model = model
        self._face = face_of(model.signature, model.dimensions, most_bytes)
        self._is_recommender = model.signature.kind == RECOMMENDER
        self._name = name
        self._alias = alias
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._clock = clock
        self._fields = text_field(1, name) + text_field(2, model.version)

    def read_alone(self, payload: bytes, expires: float | None) -> tuple[InferItem, str] | Refusal:
        """A request that came without a router, and its id."""
        try:
            message = reading.parse(payload)
            self._check_target(message.model_name, message.model_version)
            return self._read(message, len(payload), expires), message.id
        except WrongRequestError as error:
            return error.refusal

    def read_batch(self, payloads: Sequence[bytes], expiries: Sequence[float | None]) -> list[InferItem | Refusal]:
        """Requests that a router sends; it knows the model by other names."""
        items: list[InferItem | Refusal] = []
        for payload, expires in zip(payloads, expiries, strict=True):
            try:
                items.append(self._read(reading.parse(payload), len(payload), expires))
            except WrongRequestError as error:
                items.append(error.refusal)
        return items

    def _read(self, message: Any, size_bytes: int, expires: float | None) -> InferItem:
        item = reading.read(message, self._face, size_bytes, expires)
        if self._is_recommender:  # as for Recommend, the newest items of a longer history are kept
            (history,) = item.arrays
            return item._replace(arrays=(history[:, -self._model.max_history :],))
        return item

    def _check_target(self, name: str, version: str) -> None:
        problem = not_served(name, version, self._name, self._model.version, self._alias)
        if problem is not None:
            raise WrongRequestError(problem, Code.NOT_FOUND)

    def plan(self, items: Sequence[InferItem], max_batch: int) -> list[Sequence[int]]:
        """Which requests share a run: lists of indexes, each once."""
        if not self._model.joins or len(items) == 1:
            return [[index] for index in range(len(items))]
        runs: list[Sequence[int]] = []
        open_runs: dict[object, tuple[list[int], int]] = {}
        for index, item in enumerate(items):
            if not item.rows or item.size_bytes > MOST_JOINED_BYTES:  # nothing to put together, or too much
                runs.append([index])
                continue
            key = tuple(array.shape[1:] for array in item.arrays)
            members, size = open_runs.get(key, ([], 0))
            if members and (len(members) == max_batch or size + item.size_bytes > MOST_JOINED_BYTES):
                runs.append(members)
                members, size = [], 0
            members.append(index)
            open_runs[key] = (members, size + item.size_bytes)
        return [*runs, *(members for members, _ in open_runs.values())]

    def run(self, items: Sequence[InferItem]) -> list[bytes | Refusal]:
        """One run of the model for requests that share it. Raises what the model raises."""
        face = self._face
        if len(items) == 1:
            asked, arrays = items[0].outputs, items[0].arrays
        else:
            asked = tuple(sorted({place for item in items for place in item.outputs}))
            arrays = tuple(np.concatenate(parts) for parts in zip(*(item.arrays for item in items), strict=True))
        inputs = {one.name: array for one, array in zip(face.inputs, arrays, strict=True)}
        begun = self._clock()
        outputs = self._model.run([face.outputs[place].name for place in asked], inputs)
        self._metrics.ran(len(items), self._clock() - begun)
        shares = [outputs] if len(items) == 1 else split(outputs, [item.rows for item in items])
        if shares is None:
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise ModelAnswerError(
                f"model {self._model.version}: {sum(item.rows for item in items)} rows got outputs of shape {shapes}"
            )
        return [
            self._encode(item, dict(zip(asked, share, strict=True))) for item, share in zip(items, shares, strict=True)
        ]

    def _encode(self, item: InferItem, outputs: Mapping[int, NDArray[Any]]) -> bytes | Refusal:
        if self._is_recommender and any(
            array.dtype.kind == "f" and np.isnan(array).any() for array in outputs.values()
        ):
            return BAD_ANSWER
        return encode([outputs[place] for place in item.outputs], [self._face.outputs[place] for place in item.outputs])

    def join_alone(self, answer: bytes, request_id: str) -> bytes:
        """A serialised ModelInferResponse from its tensors and what a router would add."""
        return answer + self._fields + text_field(3, request_id)

    def join_batch(self, answers: Sequence[bytes | Refusal], elapsed_us: int) -> bytes:
        """A serialised InferBatchResponse."""
        return join_batch(self._model.version, answers, elapsed_us, self._alias, self._most_bytes)


def not_served(name: str, version: str, served_name: str, served_version: str, alias: str) -> str | None:
    """Why a model of this name and version is not found; None where it is the one that is served."""
    if name != served_name:
        return f"model_name: {shown(name)} is not served; allowed is {served_name}"
    allowed = [served_version, *([alias] if alias else [])]
    if version and version not in allowed:
        return f"model_version: {shown(version)} is not served; allowed are {', '.join(allowed)}, or none"
    return None
