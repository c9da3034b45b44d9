"""One replica's queue: calls gather while a batch is in flight, and are the next batch.

An idle queue sends at the end of the loop's turn, so that the calls of that turn share a batch. While a batch is in
flight, calls gather; the next batch takes what gathered, up to a maximum. There is no timer: light load pays no wait,
heavy load shares the cost of a round trip among many calls.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol

import structlog
from abfleet_transport.call import Call

from abfleet_router.fleet.batch_message import encode
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason

log = structlog.get_logger("abfleet.router.batch_queue")

SMOOTHING = 0.2
"""Weight of the newest batch in the time of a batch: a change shows within some ten batches."""
FADE_SECONDS = 10.0
"""Of idleness, in which the time of a batch is halved; in nine times that it is a tenth. A mean over batches stands
still while there are none, and what one took an hour ago says nothing; but waves a second apart must know it."""
UNRESPONSIVE_SECONDS = 0.25
"""A fair time for a batch: half of the default attempt timeout. Callers with less patience prove nothing."""
NAMED_CALLS = 8
"""Request ids of a batch that a line of the operational log has at most."""


class Addressed(Protocol):
    """The replica that a call waits for."""

    address: str


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
    def call(self) -> Call: ...

    @property
    def request_id(self) -> str: ...

    @property
    def version(self) -> str:
        """The version, or alias, that is asked."""

    @property
    def replica(self) -> Addressed | None: ...

    @property
    def trace(self) -> AttemptTrace | None: ...

    @property
    def attempt_until(self) -> float:
        """When this attempt's time is up, in seconds of the queue's clock."""

    @property
    def done(self) -> bool:
        """Whether it needs no answer any more; set before or right after `BatchQueue.remove`."""


if TYPE_CHECKING:  # at run time `typing` has no defaults before Python 3.13, and none are needed
    from typing_extensions import TypeVar

    C = TypeVar("C", bound=QueuedCall, default=Any)
else:
    from typing import TypeVar

    C = TypeVar("C")


class SentMessage(Protocol):
    """A message whose end has not been told yet."""

    def cancel(self) -> None:
        """Gives it up; its end is not told any more."""


class BatchSender(Protocol):
    """The link to one worker."""

    def send(self, message: bytes, timeout_seconds: float, on_end: Callable[[BatchOutcome], None]) -> SentMessage:
        """Sends a RecommendBatchRequest. `on_end` is called once, on the loop, and not before this has returned."""


class Batch(Generic[C]):
    """Calls that are sent in one RPC. A call belongs to it as long as `routed.batch` is this batch."""

    __slots__ = ("answered", "calls", "message", "open", "sent")

    def __init__(self, calls: list[C], sent: float) -> None:
        self.calls = calls
        self.sent = sent
        self.answered: float | None = None  # when an answer or a failure came; set by BatchQueue
        self.open = len(calls)  # calls that still belong; changed by BatchQueue.remove
        self.message: SentMessage | None = None  # set by BatchQueue once it is sent

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


class Sending(Protocol):
    """A queue that has something to send."""

    def send(self) -> None:
        """Sends what it may."""


class Backlog:
    """What waits in all queues of a router, in calls and in bytes of their requests, and which queues send at the end
    of this turn of the loop. Changed only by the queues, but for `gathering`."""

    __slots__ = ("_due", "bytes", "calls", "gathering")

    def __init__(self) -> None:
        self.calls = 0
        self.bytes = 0
        self.gathering = False
        """Whether somebody puts calls into queues and will call `send_due` then."""
        self._due: list[Sending] = []

    def send_soon(self, queue: Sending) -> None:
        """Has a queue send: with `send_due`, or where nobody will call that, at the end of the turn."""
        if not self._due and not self.gathering:
            asyncio.get_running_loop().call_soon(self.send_due)
        self._due.append(queue)

    def send_due(self) -> None:
        """Has every queue send that has something to send."""
        self.gathering = False
        due, self._due = self._due, []
        for queue in due:
            try:
                queue.send()
            except Exception:  # our own error with one queue must not hold up the others
                log.exception("a queue could not send")


class BatchQueue(Generic[C]):
    """The queue of one replica. All of it runs on the event loop."""

    def __init__(
        self,
        sender: BatchSender,
        receiver: BatchListener[C],
        backlog: Backlog,
        clock: Callable[[], float],
        *,
        max_batch: int = 128,
        max_in_flight: int = 1,
    ) -> None:
        self._sender = sender
        self._receiver = receiver
        self._backlog = backlog
        self._clock = clock
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._waiting: deque[C] = deque()  # a call that is done stays until it is passed over
        self._in_flight: dict[Batch[C], None] = {}  # oldest first
        self._sends_soon = False
        self._most_now = max_in_flight  # of batches; 0 while nothing is sent
        self._batch_seconds = 0.0  # from sending to the answer, smoothed; fades while the queue is idle
        self._batch_ended_at = float("-inf")  # when a batch last ended, however it did
        self._answered_at = float("-inf")  # when a batch last came back with an answer
        self.load = 0
        """Live calls that wait or are in flight."""

    @property
    def waiting(self) -> int:
        """Calls in the queue, done ones included."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Batches that have been sent and not answered."""
        return len(self._in_flight)

    @property
    def expected_wait(self) -> float:
        """Seconds until a call that comes now would be sent.

        Exact when batches are full; too little when they are small, and would take longer if they were not.
        """
        if not self._in_flight:
            return 0.0
        return (1 + len(self._waiting) / self._max_batch) * self._batch_seconds / (self._max_in_flight or 1)

    def append(self, routed: C) -> None:
        """Puts a call at the end; it is sent at the end of the turn if there is room in flight."""
        routed.batch = None
        self._waiting.append(routed)
        self.load += 1
        backlog = self._backlog
        backlog.calls += 1
        backlog.bytes += len(routed.call.payload)
        if not self._sends_soon:
            self._send_soon()

    def hold(self) -> None:
        """Sends nothing until `go_on`: what waits and what comes keeps its place, as long as it has time."""
        self._most_now = 0

    def go_on(self) -> None:
        """Sends again."""
        self._most_now = self._max_in_flight
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._sends_soon and self._waiting and len(self._in_flight) < self._most_now:
            self._sends_soon = True
            self._backlog.send_soon(self)

    def send(self) -> None:
        """Sends batches while there is something to send and room in flight."""
        self._sends_soon = False
        while self._waiting and len(self._in_flight) < self._most_now:
            now = self._clock()
            calls, expired = self._gather(now)
            if calls:
                self._start_batch(calls, now)
            if expired:  # last, because what the receiver does with them may come back to this queue
                self._receiver.on_expired(expired)

    def _start_batch(self, calls: list[C], now: float) -> None:
        batch = Batch(calls, now)
        timeouts = []
        traceparents: dict[int, str] = {}
        longest = 0.0
        for routed in calls:
            routed.batch = batch
            routed.attempts += 1
            left = routed.attempt_until - now
            longest = max(longest, left)
            timeouts.append(int(left * 1000) + 1)
            if routed.trace is not None:
                address = "" if routed.replica is None else routed.replica.address
                traceparents[len(timeouts) - 1] = routed.trace.sent(batch, address, routed.version)
        message = encode([routed.call.payload for routed in calls], timeouts, traceparents)
        if not self._in_flight:
            self._batch_seconds /= 1 + (now - self._batch_ended_at) / FADE_SECONDS
        self._in_flight[batch] = None
        batch.message = self._sender.send(message, longest, partial(self._on_end, batch))

    def _gather(self, now: float) -> tuple[list[C], list[C]]:
        """(what can be sent, what has no time left), in the order in which they came."""
        waiting, backlog = self._waiting, self._backlog
        calls: list[C] = []
        expired: list[C] = []
        while waiting and len(calls) < self._max_batch:
            routed = waiting.popleft()
            if routed.done:
                continue
            backlog.calls -= 1
            backlog.bytes -= len(routed.call.payload)
            if routed.attempt_until <= now:
                self.load -= 1
                expired.append(routed)
            else:
                calls.append(routed)
        return calls, expired

    def _on_end(self, batch: Batch[C], outcome: BatchOutcome) -> None:
        batch.answered = now = self._clock()
        self._not_in_flight(batch, now)
        try:
            if isinstance(outcome, BatchFailed):
                self._receiver.on_failed(batch, outcome)
            else:
                self._answered_at = now
                self._batch_seconds += SMOOTHING * (now - batch.sent - self._batch_seconds)
                self._receiver.on_answered(batch, outcome)
        except Exception:  # our own error with one batch must not end the connection that others are on
            log.exception("the end of a batch could not be handled", request_ids=batch.some_request_ids())
        self._send_soon()

    def _not_in_flight(self, batch: Batch[C], now: float) -> None:
        self._batch_ended_at = now
        del self._in_flight[batch]
        self.load -= batch.open

    def _give_up(self, batch: Batch[C]) -> None:
        """Nobody waits for its answer any more."""
        self._not_in_flight(batch, self._clock())
        if batch.message is not None:
            batch.message.cancel()

    def remove(self, routed: C) -> None:
        """The call is done or goes elsewhere; the calls around it are not touched."""
        batch = routed.batch
        if batch is None:
            self.load -= 1
            self._backlog.calls -= 1
            self._backlog.bytes -= len(routed.call.payload)
            return  # it is passed over in the queue once `done` is set
        routed.batch = None
        batch.open -= 1
        if batch in self._in_flight:
            self.load -= 1
            if batch.open == 0:
                self._give_up(batch)
                self._send_soon()

    def is_unresponsive(self, batch: Batch[C], now: float) -> bool:
        """Whether nothing has come since this batch was sent, and it had a fair time.

        With the end of the whole batch that means that the replica hangs; to detect it call by call would
        take as many lost batches as there are failures in a row.
        """
        return now - batch.sent >= UNRESPONSIVE_SECONDS and self._answered_at < batch.sent

    def expire(self, now: float) -> tuple[list[C], list[C], bool]:
        """Takes out the calls whose attempt has run out of time: (those that waited, those that were in flight), and
        whether the replica is unresponsive."""
        if not self._waiting and not self._in_flight:
            return [], [], False
        waited: list[C] = []
        if self._waiting:
            kept: deque[C] = deque()
            for routed in self._waiting:
                if routed.done:
                    continue
                if routed.attempt_until <= now:
                    waited.append(routed)
                else:
                    kept.append(routed)
            self._waiting = kept
            for routed in waited:
                self.remove(routed)
        in_flight = [
            routed
            for batch in self._in_flight
            for routed in batch.calls
            if routed.batch is batch and routed.attempt_until <= now
        ]
        batches = [routed.batch for routed in in_flight if routed.batch is not None]
        for routed in in_flight:
            self.remove(routed)
        return waited, in_flight, any(not batch.open and self.is_unresponsive(batch, now) for batch in batches)

    def take_waiting(self) -> list[C]:
        """Takes out every live call that waits, because the replica is out."""
        calls = [routed for routed in self._waiting if not routed.done]
        self._waiting = deque()
        for routed in calls:
            self.remove(routed)
        return calls

    def close(self) -> None:
        """Fails what is in flight. Nothing is sent from now on; what waits is for `take_waiting`."""
        self._max_in_flight = self._most_now = 0
        for batch in list(self._in_flight):
            if batch in self._in_flight:  # else it went with the end of another
                self._give_up(batch)
                closed = BatchFailed(FailureReason.UNAVAILABLE, "the connection was closed", connection_broke=True)
                self._receiver.on_failed(batch, closed)
