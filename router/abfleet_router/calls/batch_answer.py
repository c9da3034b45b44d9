"""Reads what comes back for a batch: the answer of a worker, or of a server that was asked with one call alone."""

from collections.abc import Sequence
from typing import Protocol

from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_protos.worker_pb2 import InferBatchResponse, RecommendBatchResponse

from abfleet_router.calls import infer_answer, oip_recommend
from abfleet_router.calls.infer_answer import NamedItems
from abfleet_router.fleet.batch import INFER, Hop
from abfleet_router.fleet.pool import Pool
from abfleet_router.fleet.replica import Replica

BatchResponse = RecommendBatchResponse | InferBatchResponse
"""Two messages with the same fields."""


class AnsweredBatch(Protocol):
    """What must be known of a batch to read its answer."""

    @property
    def hop(self) -> Hop: ...

    @property
    def alone(self) -> bool:
        """Whether it is one call that went as it is."""

    @property
    def pool(self) -> Pool: ...

    @property
    def replica(self) -> Replica: ...


class OtherVersion(Exception):
    """A server of the Open Inference Protocol has answered as another version than it was asked for."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version


def read(message: bytes, batch: AnsweredBatch, request: bytes) -> BatchResponse:
    """The answers in a message; `request`: of its first call. Raises DecodeError, WireError and OtherVersion."""
    if batch.alone:
        return as_batch(message, batch, request)
    if batch.hop is INFER:
        return InferBatchResponse.FromString(message)
    return RecommendBatchResponse.FromString(message)


def as_batch(response: bytes, batch: AnsweredBatch, request: bytes) -> BatchResponse:
    """The answer to a call that was sent alone, as a worker that takes batches would give it.

    Where it names no version, it is the pool's. Raises WireError and OtherVersion.
    """
    pool, server = batch.pool.version, batch.replica.oip
    version = infer_answer.version_in(response)
    if server is None:
        return InferBatchResponse(model_version=version or pool, responses=[response])
    if version and server.model.version not in ("", version):
        raise OtherVersion(version)
    if batch.hop is INFER:
        return InferBatchResponse(model_version=pool, responses=[response])
    made = RecommendBatchResponse(model_version=pool)
    try:
        made.responses.append(oip_recommend.recommendation(response, request))
    except oip_recommend.NotRecommended as error:
        made.responses.append(b"")
        made.failures[0].code, made.failures[0].message = error.code, str(error)
    return made


def items_of(response: bytes, most: int | None = None) -> Sequence[int] | NamedItems:
    """The items of an answer to Recommend, or so many of them. Raises DecodeError."""
    answered = RecommendResponse.FromString(response)
    items: Sequence[int] = answered.item_ids
    if not items and answered.items:
        return NamedItems(answered.items[:most])
    return items if most is None else items[:most]
