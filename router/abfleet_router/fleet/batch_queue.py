"""One replica's queue: calls gather while a batch is in flight. Knows tickets, batches and time, no network of its own.

An idle lane sends at the end of the loop's turn, so that what came in that turn goes together. While a batch is in
flight, calls gather; the next batch takes what gathered, up to a maximum. There is no timer: light load pays no wait,
heavy load shares the cost of the hop among many calls.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from abfleet_protos.worker_pb2 import RecommendBatchRequest

from abfleet_router.calls.routed_call import Ticket
from abfleet_router.fleet.failure import HopFailed, Reason

SMOOTHING = 0.2
"""Weight of the newest batch in the time of a batch: a change is followed within some ten batches."""
FADE_SECONDS = 10.0
"""Of idleness, in which the time of a batch is halved; in nine times that it is a tenth. A mean over batches stands
still while there are none, and what one took an hour ago says nothing; but waves a second apart must know it."""
MUTE_SECONDS = 0.25
"""A fair time for a batch: half of the default attempt timeout. Callers with less patience prove nothing."""
NAMED_CALLS = 8
"""Of a batch in a line of the operational log."""


class Hop(Protocol):
    """The way to one worker."""

    async def send(self, message: bytes, timeout_seconds: float) -> bytes:
        """Sends a RecommendBatchRequest and returns the bytes of its answer. Raises HopFailed."""


class Batch:
    """Calls that travel together. A ticket belongs to it as long as `ticket.batch` is this batch."""

    __slots__ = ("answered", "open", "sent", "task", "tickets")

    def __init__(self, tickets: list[Ticket], sent: float) -> None:
        self.tickets = tickets
        self.sent = sent
        self.answered: float | None = None  # when an answer or a failure came; set by Lane
        self.open = len(tickets)  # tickets that still belong; changed by Lane.detach
        self.task: asyncio.Task[None] | None = None

    def some_request_ids(self) -> list[str]:
        """For the log: the first few of its calls."""
        return [ticket.request_id for ticket in self.tickets[:NAMED_CALLS]]


class Receiver(Protocol):
    """Who takes what comes back; all of it on the event loop."""

    def on_answered(self, batch: Batch, message: bytes) -> None:
        """The worker's answer to a batch, not looked at yet."""

    def on_failed(self, batch: Batch, failure: HopFailed) -> None:
        """No answer to a batch will come."""

    def on_expired(self, tickets: list[Ticket]) -> None:
        """These have no time left, and have not been sent."""


class Backlog:
    """What waits in all lanes together, for the bound on it; changed only by lanes."""

    __slots__ = ("bytes", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self.bytes = 0


class Lane:
    """The queue of one replica. All of it runs on the event loop."""

    def __init__(
        self,
        hop: Hop,
        receiver: Receiver,
        backlog: Backlog,
        clock: Callable[[], float],
        *,
        max_batch: int = 128,
        max_in_flight: int = 1,
    ) -> None:
        self._hop = hop
        self._receiver = receiver
        self._backlog = backlog
        self._clock = clock
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._waiting: deque[Ticket] = deque()  # a ticket that is done stays until it is passed over
        self._flying: set[Batch] = set()
        self._sends_soon = False
        self._batch_seconds = 0.0  # from sending to the answer, smoothed; fades while the lane is idle
        self._landed_at = float("-inf")  # when a batch last ended, however it did
        self._answered_at = float("-inf")  # when a batch last came back with an answer
        self.load = 0
        """Live tickets that wait or are in flight."""

    @property
    def waiting(self) -> int:
        """Tickets in the queue, done ones included."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Batches that have been sent and not answered."""
        return len(self._flying)

    @property
    def expected_wait(self) -> float:
        """Seconds until a call that comes now would be sent.

        Exact when batches are full; too little when they are small, and would take longer if they were not.
        """
        if not self._flying:
            return 0.0
        return (1 + len(self._waiting) / self._max_batch) * self._batch_seconds / (self._max_in_flight or 1)

    def append(self, ticket: Ticket) -> None:
        """Puts a ticket at the end; it is sent at the end of the turn if there is room in flight."""
        ticket.batch = None
        self._waiting.append(ticket)
        self.load += 1
        backlog = self._backlog
        backlog.calls += 1
        backlog.bytes += len(ticket.call.payload)
        if not self._sends_soon:
            self._send_soon()

    def _send_soon(self) -> None:
        if not self._sends_soon and self._waiting and len(self._flying) < self._max_in_flight:
            self._sends_soon = True
            asyncio.get_running_loop().call_soon(self.send)

    def send(self) -> None:
        """Sends batches while there is something to send and room in flight."""
        self._sends_soon = False
        while self._waiting and len(self._flying) < self._max_in_flight:
            now = self._clock()
            tickets, expired = self._gather(now)
            if tickets:
                self._launch(tickets, now)
            if expired:  # last, because what the receiver does with them may come back to this lane
                self._receiver.on_expired(expired)

    def _launch(self, tickets: list[Ticket], now: float) -> None:
        batch = Batch(tickets, now)
        timeouts = []
        traceparents: dict[int, str] = {}
        longest = 0.0
        for ticket in tickets:
            ticket.batch = batch
            ticket.attempts += 1
            left = ticket.attempt_until - now
            longest = max(longest, left)
            timeouts.append(int(left * 1000) + 1)
            if ticket.trace is not None:
                address = "" if ticket.replica is None else ticket.replica.address
                traceparents[len(timeouts) - 1] = ticket.trace.sent(batch, address, ticket.version)
        message = RecommendBatchRequest(
            requests=[ticket.call.payload for ticket in tickets], timeout_ms=timeouts, traceparents=traceparents
        ).SerializeToString()
        if not self._flying:
            self._batch_seconds /= 1 + (now - self._landed_at) / FADE_SECONDS
        self._flying.add(batch)
        batch.task = asyncio.get_running_loop().create_task(self._carry(batch, message, longest))
        batch.task.add_done_callback(lambda _: self._ended(batch))

    def _gather(self, now: float) -> tuple[list[Ticket], list[Ticket]]:
        """(what can be sent, what has no time left), in the order in which they came."""
        waiting, backlog = self._waiting, self._backlog
        tickets: list[Ticket] = []
        expired: list[Ticket] = []
        while waiting and len(tickets) < self._max_batch:
            ticket = waiting.popleft()
            if ticket.done:
                continue
            backlog.calls -= 1
            backlog.bytes -= len(ticket.call.payload)
            if ticket.attempt_until <= now:
                self.load -= 1
                expired.append(ticket)
            else:
                tickets.append(ticket)
        return tickets, expired

    async def _carry(self, batch: Batch, message: bytes, timeout_seconds: float) -> None:
        try:
            answer = await self._hop.send(message, timeout_seconds)
        except HopFailed as failure:
            batch.answered = now = self._clock()
            self._landed(batch, now)
            self._receiver.on_failed(batch, failure)
        else:
            self._answered_at = batch.answered = now = self._clock()
            self._landed(batch, now)
            self._batch_seconds += SMOOTHING * (now - batch.sent - self._batch_seconds)
            self._receiver.on_answered(batch, answer)
        self._send_soon()

    def _ended(self, batch: Batch) -> None:
        """The task is over. A task that is cancelled before it began never ran a line of its own."""
        if batch not in self._flying:
            return
        self._landed(batch, self._clock())
        if batch.open:  # the lane is being closed under calls that still wait for an answer
            closed = HopFailed(Reason.UNAVAILABLE, "the connection was closed", connection_broke=True)
            self._receiver.on_failed(batch, closed)
        self._send_soon()

    def _landed(self, batch: Batch, now: float) -> None:
        self._landed_at = now
        self._flying.discard(batch)
        self.load -= batch.open

    def leave(self, ticket: Ticket) -> None:
        """The ticket is done or goes elsewhere; the calls around it are not touched."""
        batch = ticket.batch
        if batch is None:
            self.load -= 1
            self._backlog.calls -= 1
            self._backlog.bytes -= len(ticket.call.payload)
            return  # it is passed over in the queue once `done` is set
        ticket.batch = None
        batch.open -= 1
        if batch in self._flying:
            self.load -= 1
            if batch.open == 0 and batch.task is not None:
                batch.task.cancel()

    def is_mute(self, batch: Batch, now: float) -> bool:
        """Whether nothing has come since this batch was sent, and it had a fair time.

        Together with the end of the whole batch it tells of a replica that hangs; found out call by call, that would
        take as many lost batches as there are failures in a row.
        """
        return now - batch.sent >= MUTE_SECONDS and self._answered_at < batch.sent

    def expire(self, now: float) -> tuple[list[Ticket], list[Ticket], bool]:
        """Takes out the tickets whose attempt has run out of time: (those that waited, those that were in flight), and
        whether the replica is mute."""
        waited: list[Ticket] = []
        if self._waiting:
            kept: deque[Ticket] = deque()
            for ticket in self._waiting:
                if ticket.done:
                    continue
                if ticket.attempt_until <= now:
                    waited.append(ticket)
                else:
                    kept.append(ticket)
            self._waiting = kept
            for ticket in waited:
                self.leave(ticket)
        flown = [
            ticket
            for batch in self._flying
            for ticket in batch.tickets
            if ticket.batch is batch and ticket.attempt_until <= now
        ]
        batches = [ticket.batch for ticket in flown if ticket.batch is not None]
        for ticket in flown:
            self.leave(ticket)
        return waited, flown, any(not batch.open and self.is_mute(batch, now) for batch in batches)

    def strand(self) -> list[Ticket]:
        """Takes out every live ticket that waits, because the replica is out."""
        tickets = [ticket for ticket in self._waiting if not ticket.done]
        self._waiting = deque()
        for ticket in tickets:
            self.leave(ticket)
        return tickets

    async def close(self) -> None:
        """Cancels what is in flight and waits for it. Nothing is sent from now on; what waits is for `strand`."""
        self._max_in_flight = 0
        tasks = [batch.task for batch in self._flying if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
