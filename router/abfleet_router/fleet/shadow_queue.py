"""Calls for whose answers nobody waits: they gather, and go to a version while no other call waits anywhere.

They are sent beside the replicas' queues, in batches of their own, so that they are never in front of a user's call in
one. All is bounded: what waits, how long it does, and what is in flight. Knows no answer; whoever listens does.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import structlog
from abfleet_transport.call import Code

from abfleet_router.fleet.batch import INFER, Hop, SentMessage, encode
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.oip_queue import message_for
from abfleet_router.fleet.pool import Pool
from abfleet_router.fleet.replica import Replica

log = structlog.get_logger("abfleet.router.shadow")

MOST_IN_FLIGHT: Final = 4
"""Calls of a version that it has been sent and not answered, and so of a batch. A user's call that comes meanwhile to
the same worker, or to a router that reads the answers, waits for so many at most: a fraction of a millisecond. With 16
users' p99 was a fifth higher."""
GATHER_SECONDS: Final = 0.005
"""From the first call that waits until they are sent, and between two tries: the cost of a batch is shared, as nobody
is in a hurry."""
MOST_WAIT_SECONDS: Final = 1.0
"""Two hundred tries: whoever has not met a moment by then in which nobody waits will not."""
MOST_WAITING: Final = 512
MOST_BYTES: Final = 4 * 1024 * 1024
"""Of the requests that wait; a larger one is never sent."""


class ShedReason(Enum):
    """Why a sampled call was not sent, or has no answer that says anything; the value is a label of a metric."""

    BUSY = "busy"
    """Other calls waited all the time, or the router was short of memory or of room for its log."""
    FULL = "full"
    """Too many calls, or bytes, wait already."""
    UNAVAILABLE = "unavailable"
    """No replica is in, or the one that was asked went before it began."""
    STOPPED = "stopped"
    """The router, the replica or the configuration's `shadow` ended first."""


class QueuedShadow(Protocol):
    """What waits in a shadow queue."""

    since: float
    """When it began to wait, in seconds of the queue's clock; set by the queue."""

    @property
    def hop(self) -> Hop: ...

    @property
    def payload(self) -> bytes:
        """The request as its caller sent it."""

    def as_infer(self, *, named: bool) -> bytes:
        """The call as a ModelInferRequest, for a server that serves nothing else."""


S = TypeVar("S", bound=QueuedShadow)


class ShadowBatch(Generic[S]):
    """Calls that are sent in one RPC."""

    __slots__ = ("alone", "calls", "hop", "message", "pool", "replica", "sent", "timer")

    def __init__(self, calls: list[S], pool: Pool, replica: Replica, sent: float) -> None:
        """`calls`: one or more, of one hop."""
        self.calls = calls
        self.hop = calls[0].hop
        self.alone = replica.oip is not None
        """Whether it is one call that goes as it is."""
        self.pool, self.replica = pool, replica
        self.sent = sent
        self.message: SentMessage | None = None  # both set by the queue once it is sent
        self.timer: asyncio.TimerHandle | None = None


class ShadowListener(Protocol[S]):
    """Who hears what becomes of each call, once; all of it on the event loop."""

    def on_sent(self, batch: ShadowBatch[S]) -> None:
        """It is on its way."""

    def on_end(self, batch: ShadowBatch[S], outcome: BatchOutcome) -> None:
        """The answer, not read yet, or why there is none."""

    def on_shed(self, pool: Pool, calls: int, reason: ShedReason) -> None:
        """So many calls will have no line."""


class ShadowQueue(Generic[S]):
    """The queue of one version, for all of its replicas. All of it runs on the event loop."""

    def __init__(
        self,
        pool: Pool,
        listener: ShadowListener[S],
        may_send: Callable[[], bool],
        clock: Callable[[], float],
        timeout_seconds: float,
    ) -> None:
        """`may_send`: whether nothing else of the router waits; `timeout_seconds`: from sending to the answer."""
        self.pool = pool
        self._listener = listener
        self._may_send = may_send
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._waiting: deque[S] = deque()
        self._bytes = 0
        self._in_flight: dict[ShadowBatch[S], None] = {}
        self._calls_in_flight = 0
        self._next_try: asyncio.TimerHandle | None = None
        self._turn = 0  # of the replicas
        self._stopped = False

    @property
    def open(self) -> int:
        """Calls that wait or are in flight."""
        return len(self._waiting) + self._calls_in_flight

    def append(self, call: S) -> None:
        """Puts a call at the end, where there is room."""
        if self._stopped:  # its answer waited for its line meanwhile
            self._listener.on_shed(self.pool, 1, ShedReason.STOPPED)
            return
        size = len(call.payload)
        if len(self._waiting) >= MOST_WAITING or self._bytes + size > MOST_BYTES:
            self._listener.on_shed(self.pool, 1, ShedReason.FULL)
            return
        call.since = self._clock()
        self._waiting.append(call)
        self._bytes += size
        if len(self._waiting) == MOST_IN_FLIGHT and not self._in_flight:
            self._try_in(0.0)
        elif self._next_try is None:
            self._try_in(GATHER_SECONDS)

    def _try_in(self, seconds: float) -> None:
        """Never in this turn of the loop: its end is when the answers to users leave."""
        if self._next_try is not None:
            self._next_try.cancel()
        self._next_try = asyncio.get_running_loop().call_later(seconds, self._try)

    def _try(self) -> None:
        self._next_try = None
        now = self._clock()
        self._shed(self._take(lambda call: now - call.since > MOST_WAIT_SECONDS), ShedReason.BUSY)
        if self._waiting and not self.pool.available:
            self._shed(self._take(lambda call: True), ShedReason.UNAVAILABLE)
        while self._waiting and self._calls_in_flight < MOST_IN_FLIGHT:
            replica = self._idle_replica() if self._may_send() else None
            if replica is None:
                break
            self._send(replica, now)
        if self._waiting:
            self._try_in(GATHER_SECONDS)

    def _idle_replica(self) -> Replica | None:
        """One that has no user's call, each in its turn."""
        idle = [replica for replica in self.pool.available if not replica.queue.load and not replica.moving]
        self._turn += 1
        return idle[self._turn % len(idle)] if idle else None

    def _take(self, wanted: Callable[[S], bool], most: int = MOST_WAITING) -> list[S]:
        """Takes calls out at the front, up to the first one that is not wanted."""
        taken: list[S] = []
        while self._waiting and len(taken) < most and wanted(self._waiting[0]):
            taken.append(self._waiting.popleft())
            self._bytes -= len(taken[-1].payload)
        return taken

    def _send(self, replica: Replica, now: float) -> None:
        hop, most = self._waiting[0].hop, MOST_IN_FLIGHT - self._calls_in_flight
        calls = self._take(lambda call: call.hop is hop, 1 if replica.oip else most)
        batch: ShadowBatch[S] = ShadowBatch(calls, self.pool, replica, now)
        self._in_flight[batch] = None
        self._calls_in_flight += len(calls)
        self._listener.on_sent(batch)
        loop = asyncio.get_running_loop()
        message: bytes | BatchFailed
        if replica.oip is not None:
            message, path = message_for(replica.oip, calls[0], self.pool.version), INFER.alone
        else:
            timeout_ms = int(self._timeout_seconds * 1000)
            message, path = encode([call.payload for call in calls], [timeout_ms] * len(calls), {}), hop.path
        if isinstance(message, BatchFailed):
            batch.message = loop.call_soon(self._on_end, batch, message)
        else:
            batch.message = replica.link.send(message, self._timeout_seconds, partial(self._on_end, batch), path)
        batch.timer = loop.call_later(self._timeout_seconds, self._expire, batch)

    def _expire(self, batch: ShadowBatch[S]) -> None:
        if batch.message is not None:
            batch.message.cancel()
        text = "no answer in time"
        self._on_end(
            batch,
            BatchFailed(FailureReason.TIMEOUT, text, connection_broke=False, code=Code.DEADLINE_EXCEEDED),
        )

    def _on_end(self, batch: ShadowBatch[S], outcome: BatchOutcome) -> None:
        self._forget(batch)
        if isinstance(outcome, BatchFailed) and (outcome.unsent or batch.replica.draining):
            self._shed(batch.calls, ShedReason.UNAVAILABLE if outcome.unsent else ShedReason.STOPPED)
        else:
            try:
                self._listener.on_end(batch, outcome)
            except Exception:  # our own error with one batch must not end the connection that users' calls are on
                log.exception("the end of a batch in the shadow could not be handled", version=self.pool.version)
        if self._next_try is None and self._waiting:
            self._try_in(0.0 if len(self._waiting) >= MOST_IN_FLIGHT else GATHER_SECONDS)

    def _forget(self, batch: ShadowBatch[S]) -> None:
        del self._in_flight[batch]
        self._calls_in_flight -= len(batch.calls)
        batch.message = None  # which holds the batch: together they would wait for the collector
        if batch.timer is not None:
            batch.timer.cancel()
            batch.timer = None

    def _shed(self, calls: list[S], reason: ShedReason) -> None:
        if calls:
            self._listener.on_shed(self.pool, len(calls), reason)

    def stop(self) -> None:
        """Gives up what waits, what is in flight, and what comes."""
        self._stopped = True
        if self._next_try is not None:
            self._next_try.cancel()
            self._next_try = None
        self._shed(self._take(lambda call: True), ShedReason.STOPPED)
        for batch in list(self._in_flight):
            if batch.message is not None:
                batch.message.cancel()
            self._forget(batch)
            self._shed(batch.calls, ShedReason.STOPPED)
