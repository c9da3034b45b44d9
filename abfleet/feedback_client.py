"""Sends outcomes to a router: collects them, sends them in batches, and retries.

Nothing is lost silently: an outcome is acknowledged, rejected with a reason, or given up after a deadline; each of the
three is counted, the last two are handed to the caller's function, and `close` raises when outcomes were given up.
"""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import grpc
from abfleet_log.outcome import Outcome
from abfleet_process.backoff import backoff_seconds
from abfleet_protos import recommender_pb2, recommender_pb2_grpc
from abfleet_transport.client.channel import PLAIN, ClientCredentials, open_channel

__all__ = ["ClientCredentials", "FeedbackClient", "Outcome", "OutcomeTally", "OutcomesLost"]
log = logging.getLogger("abfleet.feedback")

RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
"""What may be different next time; a repeat is harmless."""
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 5.0
MAX_BATCH = 10_000


class OutcomesLost(Exception):
    """`count` outcomes were dropped after their deadline, or because the router refused the call."""

    def __init__(self, count: int, why: str) -> None:
        super().__init__(f"{count} outcomes could not be recorded; the last error was {why}")
        self.count = count


@dataclass(slots=True)
class OutcomeTally:
    """Counts of outcomes by result; changed only by the client's task."""

    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    lost: int = 0
    retries: int = 0


class FeedbackClient:
    """Use it in `async with`; `record` waits only when `capacity` outcomes are not sent yet."""

    def __init__(
        self,
        address: str,
        *,
        batch: int = 1000,
        linger_seconds: float = 0.2,
        give_up_seconds: float = 60.0,
        timeout_seconds: float = 10.0,
        capacity: int = 100_000,
        synthetic: bool = False,
        access: ClientCredentials = PLAIN,
        on_rejected: Callable[[Outcome, str], None] | None = None,
        on_lost: Callable[[Sequence[Outcome], str], None] | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`linger_seconds`: how long an outcome may wait for others of its batch; `give_up_seconds`: how long a batch
        is tried; `access`: token and certificates."""
        if not 1 <= batch <= MAX_BATCH:
            raise ValueError(f"batch: {batch} is not allowed; allowed are 1 to {MAX_BATCH}")
        self.tally = OutcomeTally()
        self._address = address
        self._access = access
        self._batch = batch
        self._linger_seconds = linger_seconds
        self._give_up_seconds = give_up_seconds
        self._timeout_seconds = timeout_seconds
        self._capacity = capacity
        self._metadata = (("x-synthetic", "1"),) if synthetic else ()
        self._on_rejected = on_rejected
        self._on_lost = on_lost
        self._draw = draw
        self._clock = clock
        self._waiting: deque[Outcome] = deque()
        self._changed = asyncio.Condition()
        self._closing = False
        self._why_lost = ""
        self._channel: grpc.aio.Channel | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self._address, self._access)
        self._task = asyncio.create_task(self._send_all(), name="feedback")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except OutcomesLost:
            if error is None:
                raise

    async def record(self, outcome: Outcome) -> None:
        """Takes an outcome to send. One without an id gets its own, so that a repeat is one."""
        if not outcome.outcome_id:
            outcome = replace(outcome, outcome_id=uuid.uuid4().hex)
        if not outcome.time:
            outcome = replace(outcome, time=time.time_ns() // 1000)
        async with self._changed:
            await self._changed.wait_for(lambda: self._closing or len(self._waiting) < self._capacity)
            if self._closing:
                raise RuntimeError("the feedback client is closed")
            self._waiting.append(outcome)
            if len(self._waiting) in (1, self._batch):
                self._changed.notify_all()

    async def close(self) -> None:
        """Sends what waits, with its retries. Raises OutcomesLost."""
        async with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._task is not None:
            await self._task
        if self._channel is not None:
            await self._channel.close(None)
        if self.tally.lost:
            raise OutcomesLost(self.tally.lost, self._why_lost)

    async def _send_all(self) -> None:
        while batch := await self._next():
            await self._send(batch)

    async def _next(self) -> list[Outcome]:
        """The next batch, empty at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._closing)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger_seconds):
                    await self._changed.wait_for(lambda: len(self._waiting) >= self._batch or self._closing)
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._changed.notify_all()
        return batch

    async def _send(self, batch: list[Outcome]) -> None:
        """Tries until the batch is answered or its time is up."""
        request = recommender_pb2.RecordRequest(outcomes=[_message(outcome) for outcome in batch])
        give_up, failures = self._clock() + self._give_up_seconds, 0
        assert self._channel is not None
        stub = recommender_pb2_grpc.FeedbackStub(self._channel)  # type: ignore[no-untyped-call]
        while True:
            try:
                answer = await stub.Record(request, timeout=self._timeout_seconds, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                failures += 1
                backoff = backoff_seconds(failures, first=FIRST_BACKOFF_SECONDS, most=MAX_BACKOFF_SECONDS)
                why = f"{error.code().name}: {error.details()}"
                if error.code() not in RETRYABLE or self._clock() + backoff > give_up:
                    self._lose(batch, why)
                    return
                self.tally.retries += 1
                await asyncio.sleep(backoff * (0.5 + self._draw() / 2))  # jitter, so that clients do not retry together
            else:
                self._account(batch, answer)
                return

    def _account(self, batch: Sequence[Outcome], answer: recommender_pb2.RecordResponse) -> None:
        tally = self.tally
        tally.accepted += answer.accepted
        tally.duplicate += answer.duplicate
        tally.rejected += answer.rejected
        for rejection in answer.rejections:
            if self._on_rejected is not None:
                self._on_rejected(batch[rejection.index], rejection.reason)
            else:
                log.warning("the router rejected an outcome: %s", rejection.reason)

    def _lose(self, batch: Sequence[Outcome], why: str) -> None:
        self.tally.lost += len(batch)
        self._why_lost = why
        log.error("%d outcomes could not be recorded and were dropped: %s", len(batch), why)
        if self._on_lost is not None:
            self._on_lost(batch, why)


def _message(outcome: Outcome) -> recommender_pb2.Outcome:
    return recommender_pb2.Outcome(
        outcome_id=outcome.outcome_id,
        request_id=outcome.request_id,
        user_id=outcome.user_id,
        type=outcome.type,
        item_id=outcome.item_id,
        value=outcome.value,
        currency=outcome.currency,
        time=outcome.time,
        item=outcome.item,
    )
