"""What tests of routing share: a clock that the test sets, calls without a transport, a link without a network."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from abfleet_protos.inference_pb2 import ModelMetadataResponse, ModelReadyResponse
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.worker_pb2 import Failure, RecommendBatchRequest, RecommendBatchResponse
from abfleet_router.fleet.batch import INFER
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_router.fleet.worker_link import LinkListener
from abfleet_transport.call import Code, Metadata
from abfleet_transport.oip import MODEL_READY
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse


class FakeClock:
    """Stands still until it is moved; seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Adds so many seconds."""
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Failed:
    """An error that a caller got."""

    code: Code
    message: str
    pushback_ms: int | None


@dataclass(eq=False)
class FakeCall:
    """Keeps every answer that it gets; more than one is the test's to find."""

    payload: bytes
    arrived: float = 0.0
    deadline: float | None = None
    metadata: Metadata = ()
    method: int = 0
    peer: str = ""
    client: str | None = None
    owner: object = None
    answers: list[bytes | Failed] = field(default_factory=list)

    def reply(self, payload: bytes) -> None:
        self.answers.append(payload)

    def fail(self, code: Code, message: str, *, pushback_ms: int | None = None) -> None:
        self.answers.append(Failed(code, message, pushback_ms))

    @property
    def only(self) -> bytes | Failed:
        """The answer, which must be the only one."""
        assert len(self.answers) == 1, self.answers
        return self.answers[0]

    @property
    def code(self) -> Code:
        """Status of the only answer."""
        return self.only.code if isinstance(self.only, Failed) else Code.OK

    @property
    def response(self) -> RecommendResponse:
        """The only answer, which must be a success."""
        assert isinstance(self.only, bytes), self.only
        return RecommendResponse.FromString(self.only)


class Sent:
    """A batch that a link was given and that waits for the test to say what becomes of it."""

    def __init__(
        self, message: bytes, timeout_seconds: float, on_end: Callable[[BatchOutcome], None], path: str
    ) -> None:
        self.path, self.message = path, message
        # Requests of both methods lie in a batch alike; a call that is sent alone is no batch.
        batch = RecommendBatchRequest() if path == INFER.alone else RecommendBatchRequest.FromString(message)
        self.requests = (message,) if path == INFER.alone else tuple(batch.requests)
        self.timeouts_ms = tuple(batch.timeout_ms)
        self.timeout_seconds = timeout_seconds
        self.over = self.cancelled = False
        self._on_end = on_end

    def answer(self, message: bytes) -> None:
        """The worker answers with these bytes."""
        self._end(message)

    def fail(self, failure: BatchFailed) -> None:
        """The link fails."""
        self._end(failure)

    def _end(self, outcome: BatchOutcome) -> None:
        if not self.over:
            self.over = True
            self._on_end(outcome)

    def cancel(self) -> None:
        """The queue gives it up."""
        self.over = self.cancelled = True


class FakeLink:
    """Keeps every batch in the order in which it was sent; its worker serves the versions that it is told to."""

    may_watch = True

    def __init__(self, serves: Callable[[str], bool] = lambda version: True) -> None:
        self.metadata: ModelMetadataResponse | RpcFailed = RpcFailed(Code.UNIMPLEMENTED, "unknown method")
        """What its worker says of its model."""
        self.sent: list[Sent] = []
        self.moving = False
        self.listener: LinkListener | None = None
        """Whose link it is."""
        self._serves = serves
        self.on_send: Callable[[Sent], None] = lambda sent: None

    @property
    def open(self) -> list[Sent]:
        """Batches without an outcome."""
        return [sent for sent in self.sent if not sent.over]

    @property
    def cancelled(self) -> int:
        """Batches that were given up."""
        return sum(sent.cancelled for sent in self.sent)

    def send(self, message: bytes, timeout_seconds: float, on_end: Callable[[BatchOutcome], None], path: str) -> Sent:
        sent = Sent(message, timeout_seconds, on_end, path)
        self.sent.append(sent)
        self.on_send(sent)
        return sent

    async def keep_connected(self, listener: LinkListener) -> None:
        self.listener = listener
        await listener.on_connected()

    async def watch(self, path: str, message: bytes, on_message: Callable[[bytes], None]) -> None:
        if self._serves(HealthCheckRequest.FromString(message).service):
            on_message(HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString())
        await asyncio.get_running_loop().create_future()  # nothing changes any more

    async def ask(self, path: str, message: bytes, timeout_seconds: float) -> bytes:
        """As a worker whose model is ready, and that says of it what `metadata` is."""
        if path == MODEL_READY:
            return ModelReadyResponse(ready=True).SerializeToString()
        if isinstance(self.metadata, RpcFailed):
            raise self.metadata
        encoded: bytes = self.metadata.SerializeToString()
        return encoded

    def check_liveness(self, *, alone: bool) -> None: ...

    def close(self) -> None: ...


def worker_answer(
    version: str,
    requests: Sequence[bytes],
    failures: Mapping[int, tuple[Code, str]] | None = None,
    *,
    elapsed_us: int = 100,
) -> bytes:
    """An answer that recommends the sum of a history plus 1 and plus 2, so that it shows whose answer it is."""
    failures = failures or {}
    responses = []
    for index, payload in enumerate(requests):
        total = sum(RecommendRequest.FromString(payload).item_ids)
        answer = RecommendResponse(item_ids=[total + 1, total + 2], scores=[2.0, 1.0])
        responses.append(b"" if index in failures else answer.SerializeToString())
    return RecommendBatchResponse(
        model_version=version,
        responses=responses,
        failures={index: Failure(code=int(code), message=text) for index, (code, text) in failures.items()},
        elapsed_us=elapsed_us,
    ).SerializeToString()


async def turns(count: int = 8) -> None:
    """Lets everything that can run do so; a queue needs one turn to send what has gathered."""
    for _ in range(count):
        await asyncio.sleep(0)


def broken(reason_text: str = "gone") -> BatchFailed:
    """The failure of a batch whose connection broke."""
    return BatchFailed(FailureReason.UNAVAILABLE, reason_text, connection_broke=True)


class Hasty:
    """asyncio with sleeps that last one turn, and are kept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
