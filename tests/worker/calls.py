"""A call without a transport, and a model without a runtime, for tests of the worker's service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from abfleet_models.signature import contract
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.worker_pb2 import RecommendBatchRequest, RecommendBatchResponse
from abfleet_transport.call import Code, Metadata
from abfleet_worker.catalogue import Catalogue
from abfleet_worker.item_names import ItemNames
from abfleet_worker.service import METHODS, RECOMMEND, RECOMMEND_BATCH
from numpy.typing import NDArray

POISON_NAN = 666
POISON_RAISE = 777


@dataclass(eq=False)
class FakeCall:
    """Keeps every answer that it gets; more than one is the test's to find."""

    method: int
    payload: bytes
    arrived: float = 0.0
    deadline: float | None = None
    metadata: Metadata = ()
    peer: str = ""
    client: str | None = None
    owner: object = None
    answers: list[bytes | tuple[Code, str]] = field(default_factory=list)

    def reply(self, payload: bytes) -> None:
        self.answers.append(payload)

    def fail(self, code: Code, message: str, *, pushback_ms: int | None = None) -> None:
        self.answers.append((code, message))

    @property
    def only(self) -> bytes | tuple[Code, str]:
        """The answer, which must be the only one."""
        assert len(self.answers) == 1
        return self.answers[0]

    def batch(self) -> RecommendBatchResponse:
        """The answer of a batch that did not fail as a whole."""
        assert isinstance(self.only, bytes)
        return RecommendBatchResponse.FromString(self.only)


def lone(history: Sequence[int], **fields: object) -> FakeCall:
    """A call of Recommend."""
    payload = RecommendRequest(item_ids=history, **fields).SerializeToString()  # type: ignore[arg-type]
    return FakeCall(METHODS.index(RECOMMEND), payload)


def batched(requests: Sequence[bytes], timeouts: Sequence[int] = (), *, arrived: float = 0.0) -> FakeCall:
    """A call of RecommendBatch."""
    payload = RecommendBatchRequest(requests=requests, timeout_ms=timeouts).SerializeToString()
    return FakeCall(METHODS.index(RECOMMEND_BATCH), payload, arrived=arrived)


class SumModel:
    """Answers the sum of a history plus 1, 2, …; nan for the sum POISON_NAN, raises for POISON_RAISE."""

    sha256 = "0" * 64

    def __init__(self, version: str = "v1", *, max_history: int = 1000, k: int = 20) -> None:
        self.version = version
        self.max_history = max_history
        self.k = k
        self.run_cells = 100.0
        self.catalogue: Catalogue | None = None
        self.names: ItemNames | None = None
        self.signature = contract(k, max_history)
        self.joins = True
        self.dimensions: Mapping[str, Sequence[int | str | None]] = {"history": ["batch", "length"]}
        self.shapes: list[tuple[int, ...]] = []

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        found = dict(zip(("item_ids", "scores"), self.infer(inputs["history"]), strict=True))
        return [found[name] for name in outputs]

    def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        self.shapes.append(history.shape)
        total = history.sum(axis=1, keepdims=True)
        if (total == POISON_RAISE).any():
            raise RuntimeError("poisoned\n  with a second line")
        scores = np.repeat(np.arange(self.k, 0, -1, dtype=np.float32)[None, :], len(history), axis=0)
        scores[total[:, 0] == POISON_NAN] = np.nan
        return total + np.arange(1, self.k + 1), scores
