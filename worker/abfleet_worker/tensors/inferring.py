"""Answers requests of the Open Inference Protocol with one model. Pure but for the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from abfleet_models.signature import RECOMMENDER, Signature
from abfleet_protos.worker_pb2 import InferBatchRequest
from abfleet_transport.call import Code
from numpy.typing import NDArray

from abfleet_worker.batch import BAD_ANSWER, text_field
from abfleet_worker.errors import ModelAnswerError
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.request import Refusal, shown
from abfleet_worker.tensors import reading
from abfleet_worker.tensors.answering import RunOutput, SharedRun, encode, join_batch
from abfleet_worker.tensors.faces import face_of
from abfleet_worker.tensors.layouts import Layouts
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
    """Frozen but for what it has learned of requests; replaced with the model."""

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
        self._layouts = Layouts(self._face)
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
            return self._newest(reading.read(message, self._face, len(payload), expires)), message.id
        except WrongRequestError as error:
            return error.refusal

    def read_batch(self, payloads: Sequence[bytes], expiries: Sequence[float | None]) -> list[InferItem | Refusal]:
        """Requests that a router sends; it knows the model by other names."""
        items: list[InferItem | Refusal] = []
        for payload, expires in zip(payloads, expiries, strict=True):
            try:
                items.append(self._read_batched(payload, expires))
            except WrongRequestError as error:
                items.append(error.refusal)
        return items

    def _read_batched(self, payload: bytes, expires: float | None) -> InferItem:
        known = self._layouts.read(payload, expires)
        if isinstance(known, InferItem):
            return self._newest(known) if self._is_recommender else known
        message = reading.parse(payload)
        item = reading.read(message, self._face, len(payload), expires)
        if known is not None:
            self._layouts.learn(known, message, item)
        return self._newest(item)

    def _newest(self, item: InferItem) -> InferItem:
        """As for Recommend, the newest items of a longer history are kept."""
        if not self._is_recommender or item.tails[0][0] <= self._model.max_history:
            return item
        history = item.arrays[0][:, -self._model.max_history :]
        return item._replace(arrays=(history,), tails=(history.shape[1:],))

    def _check_target(self, name: str, version: str) -> None:
        problem = not_served(name, version, self._name, self._model.version, self._alias)
        if problem is not None:
            raise WrongRequestError(problem, Code.NOT_FOUND)

    def plan(self, items: Sequence[InferItem], max_batch: int) -> list[Sequence[int]]:
        """Which requests share a run: lists of indexes, each once."""
        if not self._model.joins or len(items) == 1:
            return [[index] for index in range(len(items))]
        runs: list[Sequence[int]] = []
        open_runs: dict[tuple[tuple[int, ...], ...], tuple[list[int], int]] = {}
        for index, item in enumerate(items):
            if not item.rows or item.size_bytes > MOST_JOINED_BYTES:  # nothing to put together, or too much
                runs.append([index])
                continue
            key = item.tails
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
        is_bad = self._is_recommender and not all(map(_has_numbers, outputs))
        made = {place: RunOutput(output, face.outputs[place]) for place, output in zip(asked, outputs, strict=True)}
        if len(items) == 1:
            return [BAD_ANSWER if is_bad else encode([made[place] for place in asked])]
        total = sum([item.rows for item in items])
        if any(output.ndim == 0 or output.shape[0] != total for output in outputs):
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise ModelAnswerError(f"model {self._model.version}: {total} rows got outputs of shape {shapes}")
        answers: list[bytes | Refusal] = []
        shared, end = SharedRun(made), 0
        for item in items:
            begin, end = end, end + item.rows
            if is_bad and not all(_has_numbers(output[begin:end]) for output in outputs):
                answers.append(BAD_ANSWER)
            else:
                answers.append(shared.encode(item.outputs, begin, end))
        return answers

    def join_alone(self, answer: bytes, request_id: str) -> bytes:
        """A serialised ModelInferResponse from its tensors and what a router would add."""
        return answer + self._fields + text_field(3, request_id)

    def join_batch(self, answers: Sequence[bytes | Refusal], elapsed_us: int) -> bytes:
        """A serialised InferBatchResponse."""
        return join_batch(self._model.version, answers, elapsed_us, self._alias, self._most_bytes)


def _has_numbers(output: NDArray[Any]) -> bool:
    """Whether none of its elements is NaN."""
    return output.dtype.kind != "f" or not np.isnan(output).any()


def not_served(name: str, version: str, served_name: str, served_version: str, alias: str) -> str | None:
    """Why a model of this name and version is not found; None where it is the one that is served."""
    if name != served_name:
        return f"model_name: {shown(name)} is not served; allowed: {served_name}"
    allowed = [served_version, *([alias] if alias else [])]
    if version and version not in allowed:
        return f"model_version: {shown(version)} is not served; allowed: {', '.join(allowed)}, or none"
    return None
