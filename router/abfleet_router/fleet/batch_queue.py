"""One replica's queue: calls gather while a batch is in flight, and are the next batch.

An idle queue sends at the end of the loop's turn, so that the calls of that turn share a batch. While a batch is in
flight, calls gather; the next batch takes what gathered, up to a maximum. There is no timer: light load pays no wait,
heavy load shares the cost of a round trip among many calls.
"""

from collections.abc import Callable
from functools import partial
from typing import Generic, NamedTuple

import structlog
from abfleet_transport.call import Code
from abfleet_transport.end_of_turn import EndOfTurn

from abfleet_router.fleet.attempt_timer import AttemptTimer
from abfleet_router.fleet.batch import Batch, BatchListener, BatchSender, C, SentMessage, encode
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.waiting_calls import Backlog, WaitingCalls

log = structlog.get_logger("abfleet.router.batch_queue")

SMOOTHING = 0.2
"""Weight of the newest batch in the time of a batch: a change shows within some ten batches."""
FADE_SECONDS = 10.0
"""Of idleness, in which the time of a batch is halved; in nine times that it is a tenth. A mean over batches stands
still while there are none, and what one took an hour ago says nothing; but waves a second apart must know it."""
UNRESPONSIVE_SECONDS = 0.25
"""A fair time for a batch: half of the default attempt timeout. Callers with less patience prove nothing."""


class Expired(NamedTuple, Generic[C]):
    """The calls of a queue whose attempt has run out of time."""

    waited: list[C]
    in_flight: list[C]
    unresponsive: bool
    """Whether the replica is."""
    due: float
    """When the time of the next attempt is up; inf where there is none."""


class BatchQueue(Generic[C]):
    """The queue of one replica. All of it runs on the event loop."""

    alone_only = False
    """Whether each call is sent by itself, whatever its hop."""

    def __init__(
        self,
        sender: BatchSender,
        listener: BatchListener[C],
        backlog: Backlog,
        clock: Callable[[], float],
        *,
        turn: EndOfTurn,
        timer: AttemptTimer,
        max_batch: int = 128,
        max_in_flight: int = 1,
    ) -> None:
        """`turn`: at whose end it sends; `timer`: sees to it that `expire` is called in time."""
        self._sender = sender
        self._listener = listener
        self._clock = clock
        self._turn = turn
        self._timer = timer
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._waiting: WaitingCalls[C] = WaitingCalls(backlog)
        self.in_flight: dict[Batch[C], None] = {}
        """Batches that have been sent and not answered, oldest first; changed only here."""
        self._sends_soon = False
        self._most_now = max_in_flight  # of batches; 0 while nothing is sent
        self._one_by_one = self.alone_only  # the worker takes no batch of the hops that have calls alone
        self._batch_seconds = 0.0  # from sending to the answer, smoothed; fades while the queue is idle
        self._batch_ended_at = float("-inf")  # when a batch last ended, however it did
        self._answered_at = float("-inf")  # when a batch last came back with an answer
        self.load = 0
        """Live calls that wait or are in flight."""

    @property
    def expected_wait(self) -> float:
        """Seconds until a call that comes now would be sent.

        Exact when batches are full; too little when they are small, and would take longer if they were not.
        """
        if not self.in_flight:
            return 0.0
        return (1 + len(self._waiting.calls) / self._max_batch) * self._batch_seconds / (self._max_in_flight or 1)

    def append(self, routed: C) -> None:
        """Puts a call at the end; it is sent at the end of the turn if there is room in flight."""
        routed.batch = None
        self._waiting.append(routed)
        self.load += 1
        if routed.attempt_until < self._timer.due:
            self._timer.watch(routed.attempt_until)
        if not self._sends_soon and len(self.in_flight) < self._most_now:
            self._sends_soon = True
            self._turn.add(self.send)

    def hold(self, on: bool) -> None:
        """While on, nothing is sent: what waits and what comes keeps its place, as long as it has time.

        Off: whoever is behind the sender from now on may be another one, and know more methods.
        """
        self._one_by_one = self.alone_only
        self._most_now = 0 if on else self._max_in_flight
        self._send_soon()

    def _send_soon(self) -> None:
        """In the next turn: calls that were read in this one are not here yet, and would need a batch of their own."""
        if not self._sends_soon and self._waiting.calls and len(self.in_flight) < self._most_now:
            self._sends_soon = True
            self._turn.in_next(self.send)

    def send(self) -> None:
        """Sends batches while there is something to send and room in flight."""
        self._sends_soon = False
        while self._waiting.calls and len(self.in_flight) < self._most_now:
            now = self._clock()
            calls, expired = self._waiting.take(self._max_batch, now, one_by_one=self._one_by_one)
            self.load -= len(expired)
            if calls:
                self._start_batch(calls, now)
            if expired:  # last, because what the listener does with them may come back to this queue
                self._listener.on_expired(expired)

    def _start_batch(self, calls: list[C], now: float) -> None:
        batch = Batch(calls, now, alone=self._one_by_one and (self.alone_only or calls[0].hop.alone != ""))
        payloads: list[bytes] = []
        timeouts: list[int] = []
        traceparents: dict[int, str] = {}
        longest = 0.0
        for routed in calls:
            routed.batch = batch
            routed.attempts += 1
            left = routed.attempt_until - now
            longest = max(longest, left)
            payloads.append(routed.call.payload)
            timeouts.append(int(left * 1000) + 1)
            if routed.trace is not None:
                address = batch.replica.address if batch.replica else ""
                traceparents[len(timeouts) - 1] = routed.trace.sent(batch, address, routed.version)
        if not self.in_flight:
            self._batch_seconds /= 1 + (now - self._batch_ended_at) / FADE_SECONDS
        self.in_flight[batch] = None
        if batch.alone:
            batch.message = self._send_alone(batch, longest)
        else:
            message = encode(payloads, timeouts, traceparents)
            batch.message = self._sender.send(message, longest, partial(self._on_end, batch), batch.hop.path)

    def _send_alone(self, batch: Batch[C], timeout_seconds: float) -> SentMessage:
        """Sends the one call of a batch as it is."""
        payload = batch.calls[0].call.payload
        return self._sender.send(payload, timeout_seconds, partial(self._on_end, batch), batch.hop.alone)

    def _on_end(self, batch: Batch[C], outcome: BatchOutcome) -> None:
        batch.answered = now = self._clock()
        batch.message = None  # which holds `_on_end` of this batch: together they would wait for the collector
        self._not_in_flight(batch, now)
        try:
            if isinstance(outcome, BatchFailed):
                if outcome.code is Code.UNIMPLEMENTED and batch.hop.alone and not batch.alone:
                    self._one_by_one = True
                    if self._most_now:  # as many calls as a batch would have had are in flight, each by itself
                        self._most_now = self._max_batch * self._max_in_flight
                    outcome = BatchFailed(outcome.reason, str(outcome), connection_broke=False, unsent=True)
                self._listener.on_failed(batch, outcome)
            else:
                self._answered_at = now
                self._batch_seconds += SMOOTHING * (now - batch.sent - self._batch_seconds)
                self._listener.on_answered(batch, outcome)
        except Exception:  # our own error with one batch must not end the connection that others are on
            log.exception("the end of a batch could not be handled", request_ids=batch.some_request_ids())
        if self._waiting.calls:
            self._send_soon()

    def _not_in_flight(self, batch: Batch[C], now: float) -> None:
        self._batch_ended_at = now
        del self.in_flight[batch]
        self.load -= batch.open

    def remove(self, routed: C) -> None:
        """The call is done or goes elsewhere; the calls around it are not touched."""
        batch = routed.batch
        if batch is None:
            self.load -= 1
            self._waiting.forget(routed)
            return
        routed.batch = None
        batch.open -= 1
        if batch in self.in_flight:
            self.load -= 1
            if batch.open == 0:  # nobody waits for its answer any more
                self._not_in_flight(batch, self._clock())
                batch.cancel()
                self._send_soon()

    def is_unresponsive(self, batch: Batch[C], now: float) -> bool:
        """Whether nothing has come since this batch was sent, and it had a fair time.

        With the end of the whole batch that means that the replica hangs; to detect it call by call would
        take as many lost batches as there are failures in a row.
        """
        return now - batch.sent >= UNRESPONSIVE_SECONDS and self._answered_at < batch.sent

    def expire(self, now: float) -> Expired[C]:
        """Takes out the calls whose attempt has run out of time."""
        waited, due = self._waiting.take_expired(now)
        self.load -= len(waited)
        in_flight = [(routed, batch) for batch in self.in_flight for routed in batch.calls if routed.batch is batch]
        late = [(routed, batch) for routed, batch in in_flight if routed.attempt_until <= now]
        for routed, _ in late:
            self.remove(routed)
        unresponsive = any(not batch.open and self.is_unresponsive(batch, now) for _, batch in late)
        due = min((due, *(routed.attempt_until for routed, _ in in_flight if routed.attempt_until > now)))
        return Expired(waited, [routed for routed, _ in late], unresponsive, due)

    def take_waiting(self) -> list[C]:
        """Takes out every live call that waits, because the replica is out."""
        calls = self._waiting.take_all()
        self.load -= len(calls)
        return calls

    def close(self) -> None:
        """Fails what is in flight. Nothing is sent from now on; what waits is for `take_waiting`."""
        self._max_in_flight = self._most_now = 0
        for batch in list(self.in_flight):
            if batch in self.in_flight:  # else it went with the end of another
                self._not_in_flight(batch, self._clock())
                batch.cancel()
                closed = BatchFailed(FailureReason.UNAVAILABLE, "the connection was closed", connection_broke=True)
                self._listener.on_failed(batch, closed)
