"""A batch: calls that are sent in one RPC, who sends it, who takes what comes back, and its bytes.

Protobuf is written by hand here, because for a batch of one call an object of the message costs 5 µs, and joining its
parts 0.6 µs; for twenty calls they cost the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from abfleet_process.base128 import varint
from abfleet_protos import inference_pb2, worker_pb2
from abfleet_protos.worker_pb2 import RecommendBatchRequest
from abfleet_transport.call import Call

from abfleet_router.fleet.failure import BatchFailed, BatchOutcome

NAMED_CALLS = 8
"""Request ids of a batch that a line of the operational log has at most."""
REQUESTS_TAG, TIMEOUT_MS_TAG = b"\x0a", b"\x12"
"""Of RecommendBatchRequest and InferBatchRequest: field number << 3 | 2 (length-delimited)."""
_WORKER = f"/{worker_pb2.DESCRIPTOR.services_by_name['Worker'].full_name}"


@dataclass(frozen=True, slots=True, eq=False)
class Hop:
    """How calls of one method go to a worker.

    Attributes:
        path: Of the method that takes a batch.
        alone: Of the one that takes one call, for workers that do not know the other; "" where there is none.
        most_bytes: Of the requests of a batch; one that is larger by itself is sent alone. 0: no bound.
    """

    path: str
    alone: str = ""
    most_bytes: int = 0


RECOMMEND: Final = Hop(f"{_WORKER}/RecommendBatch")
INFER: Final = Hop(
    f"{_WORKER}/InferBatch",
    f"/{inference_pb2.DESCRIPTOR.services_by_name['GRPCInferenceService'].full_name}/ModelInfer",
    4 * 1024 * 1024,  # a worker answers a batch as a whole, so what shares one waits for all of it
)


class AttemptTrace(Protocol):
    """The trace of a call, as far as a queue adds to it."""

    def sent(self, batch: "Batch[Any]", address: str, version: str) -> str:
        """Records an attempt; returns the `traceparent` that goes with it."""


class QueuedCall(Protocol):
    """What waits in a queue. The queue changes `batch` and `attempts`, and reads the rest."""

    batch: "Batch[Any] | None"
    """The batch it is in flight with; None while it waits."""
    attempts: int
    """How often it has been sent."""

    @property
    def hop(self) -> Hop: ...

    @property
    def call(self) -> Call: ...

    def as_infer(self, *, named: bool) -> bytes:
        """The call as a ModelInferRequest; its `model_name` and `model_version` mean nothing."""

    @property
    def request_id(self) -> str: ...

    @property
    def version(self) -> str:
        """The version, or alias, that is asked."""

    @property
    def pool(self) -> Any:
        """Of the replica; a queue passes it on."""

    @property
    def replica(self) -> Any:
        """Whom the call waits for: it has an `address`."""

    @property
    def trace(self) -> AttemptTrace | None: ...

    @property
    def attempt_until(self) -> float:
        """When this attempt's time is up, in seconds of the queue's clock."""

    @property
    def done(self) -> bool:
        """Whether it needs no answer any more; set before or right after `BatchQueue.remove`."""


C = TypeVar("C", bound=QueuedCall)


class SentMessage(Protocol):
    """A message whose end has not been told yet."""

    def cancel(self) -> None:
        """Gives it up; its end is not told any more."""


class BatchSender(Protocol):
    """The link to one worker."""

    def send(
        self, message: bytes, timeout_seconds: float, on_end: Callable[[BatchOutcome], None], path: str
    ) -> SentMessage:
        """Calls the method `path`. `on_end` is called once, on the loop, and not before this has returned."""


class Batch(Generic[C]):
    """Calls that are sent in one RPC. A call belongs to it as long as `routed.batch` is this batch."""

    __slots__ = ("alone", "answered", "calls", "hop", "message", "open", "pool", "replica", "sent")

    def __init__(self, calls: list[C], sent: float, *, alone: bool = False) -> None:
        """`calls`: one or more, of one hop. `alone`: it is one that goes as it is, without a batch around it."""
        self.calls = calls
        self.hop = calls[0].hop
        self.alone = alone
        self.pool, self.replica = calls[0].pool, calls[0].replica  # all of them wait for the same
        self.sent = sent
        self.answered: float | None = None  # when an answer or a failure came; set by BatchQueue
        self.open = len(calls)  # calls that still belong; changed by BatchQueue.remove
        self.message: SentMessage | None = None  # set by BatchQueue once it is sent

    @property
    def path(self) -> str:
        """Of the method that is called."""
        return INFER.alone if self.alone else self.hop.path

    def cancel(self) -> None:
        """Has the sender give it up."""
        if self.message is not None:
            self.message.cancel()
            self.message = None

    def some_request_ids(self) -> list[str]:
        """Those of its first calls, for the operational log."""
        return [routed.request_id for routed in self.calls[:NAMED_CALLS]]


class BatchListener(Protocol[C]):
    """Who takes what comes back; all of it on the event loop."""

    def on_answered(self, batch: Batch[C], message: bytes) -> None:
        """The worker's answer to a batch, not read yet."""

    def on_failed(self, batch: Batch[C], failure: BatchFailed) -> None:
        """No answer to a batch will come."""

    def on_expired(self, calls: list[C]) -> None:
        """These have no time left, and have not been sent."""


SMALL = tuple(varint(value) for value in range(2048))
"""Nearly all sizes of requests and milliseconds of attempts."""


def encode(requests: Sequence[bytes], timeout_ms: Sequence[int], traceparents: Mapping[int, str]) -> bytes:
    """A RecommendBatchRequest, or an InferBatchRequest, which has the same fields: worker.proto describes them."""
    parts: list[bytes] = []
    for payload in requests:
        size = len(payload)
        parts += (REQUESTS_TAG, SMALL[size] if size < len(SMALL) else varint(size), payload)
    times = b"".join([SMALL[ms] if ms < len(SMALL) else varint(ms) for ms in timeout_ms])
    parts += (TIMEOUT_MS_TAG, SMALL[len(times)] if len(times) < len(SMALL) else varint(len(times)), times)
    if traceparents:  # messages merge by concatenation
        parts.append(RecommendBatchRequest(traceparents=traceparents).SerializeToString())
    return b"".join(parts)
