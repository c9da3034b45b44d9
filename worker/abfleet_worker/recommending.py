"""Answers requests of Recommend with one model: histories to a matrix, and rows of the model to answers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.worker_pb2 import RecommendBatchRequest
from numpy.typing import NDArray

from abfleet_worker import batch
from abfleet_worker.catalogue import Catalogue
from abfleet_worker.item_names import ItemNames
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.request import (
    DEFAULT_LIMIT,
    TAKES_NAMES,
    Item,
    Refusal,
    parse_alone,
    read_alone,
    read_items,
    read_named,
)

ALONE: list[Sequence[int]] = [(0,)]
"""The plan for one request."""


class RecommendingModel(Protocol):
    """What this needs of a model."""

    version: str
    max_history: int
    run_cells: float
    """What one more run costs, in padded places of a history."""
    catalogue: Catalogue | None
    """The items that it knows, None where the model has no table of them."""
    names: ItemNames | None
    """Of its items; None where items have numbers."""

    def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """history: int64[batch, length] to item_ids: int64[batch, k] and scores: float32[batch, k]."""


class Recommending:
    """Frozen but for a cache; replaced with the model."""

    batch_type = RecommendBatchRequest

    def __init__(
        self,
        model: RecommendingModel,
        *,
        alias: str,
        make_request_id: Callable[[], str],
        metrics: WorkerMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._alias = alias
        self._make_request_id = make_request_id
        self._metrics = metrics
        self._clock = clock
        self._varints = batch.Varints()
        self._version_field = batch.text_field(5, model.version)

    def read_alone(self, payload: bytes, expires: float | None) -> tuple[Item, str] | Refusal:
        """A request that nobody has checked before, and its id."""
        read = read_alone(payload, self._model.max_history, expires)
        return read if isinstance(read, Refusal) else (read[0], read[1] or self._make_request_id())

    def read_batch(self, payloads: Sequence[bytes], expiries: Sequence[float | None]) -> list[Item | Refusal]:
        """Requests that a router has checked."""
        return read_items(payloads, expiries, self._model.max_history)

    def plan(self, items: Sequence[Item], max_batch: int) -> list[Sequence[int]]:
        """Which requests share a run: lists of indexes, each once."""
        if len(items) == 1:
            return ALONE
        return batch.plan_runs([len(item.history) for item in items], max_batch, self._model.run_cells)

    def run(self, items: Sequence[Item]) -> list[bytes | Refusal]:
        """One run of the model. Raises what the model raises."""
        history = batch.pad([item.history for item in items])
        begun = self._clock()
        item_ids, scores = self._model.infer(history)
        self._metrics.ran(len(items), self._clock() - begun)
        if self._model.catalogue is not None:
            self._metrics.asked(*self._model.catalogue.count(history))
        return batch.encode(item_ids, scores, [item.limit for item in items], self._varints)

    def join_alone(self, answer: bytes, request_id: str) -> bytes:
        """A serialised RecommendResponse."""
        return batch.join_alone(answer, request_id=request_id, version_field=self._version_field)

    def join_batch(self, answers: Sequence[bytes | Refusal], elapsed_us: int) -> bytes:
        """A serialised RecommendBatchResponse."""
        return batch.join_batch(self._model.version, answers, elapsed_us, self._alias)


class NamedRecommending(Recommending):
    """The same for a version whose items have names. What it does not know of a history is left out, and counted."""

    def __init__(self, model: RecommendingModel, names: ItemNames, **shared: Any) -> None:
        super().__init__(model, **shared)
        self._names = names

    def read_alone(self, payload: bytes, expires: float | None) -> tuple[Item, str] | Refusal:
        request = parse_alone(payload)
        if isinstance(request, Refusal):
            return request
        if request.item_ids:
            return TAKES_NAMES
        item = Item(self._history(request), request.limit or DEFAULT_LIMIT, expires)
        return item, request.request_id or self._make_request_id()

    def read_batch(self, payloads: Sequence[bytes], expiries: Sequence[float | None]) -> list[Item | Refusal]:
        return read_named(payloads, expiries, self._history)

    def _history(self, request: RecommendRequest) -> list[int]:
        known = self._names.known(request.items)
        self._metrics.asked(len(request.items), len(request.items) - len(known))
        return known[-self._model.max_history :]

    def run(self, items: Sequence[Item]) -> list[bytes | Refusal]:
        history = batch.pad([item.history for item in items])
        begun = self._clock()
        item_ids, scores = self._model.infer(history)
        self._metrics.ran(len(items), self._clock() - begun)
        return self._names.encode(item_ids, scores, [item.limit for item in items])


class NotRecommending:
    """In the place of Recommending for a model that takes tensors: refuses each request, and says what to call."""

    batch_type = RecommendBatchRequest

    def __init__(self, version: str, alias: str, refusal: Refusal) -> None:
        self._version = version
        self._alias = alias
        self._refusal = refusal

    def read_alone(self, payload: bytes, expires: float | None) -> Refusal:
        return self._refusal

    def read_batch(self, payloads: Sequence[bytes], expiries: Sequence[float | None]) -> list[Item | Refusal]:
        return [self._refusal] * len(payloads)

    def plan(self, items: Sequence[Item], max_batch: int) -> list[Sequence[int]]:
        return []

    def run(self, items: Sequence[Item]) -> list[bytes | Refusal]:
        return [self._refusal] * len(items)

    def join_alone(self, answer: bytes, request_id: str) -> bytes:
        return answer

    def join_batch(self, answers: Sequence[bytes | Refusal], elapsed_us: int) -> bytes:
        return batch.join_batch(self._version, answers, elapsed_us, self._alias)
