"""The queue of a server of the Open Inference Protocol: each call is a ModelInfer of its own, many at a time."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from abfleet_transport.call import Code
from abfleet_transport.end_of_turn import EndOfTurn

from abfleet_router.fleet.attempt_timer import AttemptTimer
from abfleet_router.fleet.batch import INFER, Batch, BatchListener, BatchSender, C, Hop, SentMessage
from abfleet_router.fleet.batch_queue import BatchQueue, Expired
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.oip_server import OipServer
from abfleet_router.fleet.waiting_calls import Backlog

LEAST_CALLS = 8
"""In flight, however slow the server is."""
CUT = 0.75
"""What is left of the calls in flight when answers become slow; at most once in the time of an answer."""


class OipQueue(BatchQueue[C]):
    """All of it runs on the event loop.

    Such a server takes all that is sent, and lets it wait inside. So fewer calls are in flight while answers take more
    than a third of the time that an attempt has, as TCP does it: what waits does so here, where it can be refused.
    """

    alone_only = True

    def __init__(
        self,
        sender: BatchSender,
        listener: BatchListener[C],
        backlog: Backlog,
        clock: Callable[[], float],
        server: OipServer,
        *,
        turn: EndOfTurn,
        timer: AttemptTimer,
        most_calls: int,
    ) -> None:
        """`most_calls`: in flight at once; `turn` and `timer` as of any queue."""
        super().__init__(
            sender, listener, backlog, clock, turn=turn, timer=timer, max_batch=1, max_in_flight=most_calls
        )
        self._server = server
        self._most_calls = most_calls
        self._bound = float(most_calls)  # of calls in flight now
        self._cut_at = float("-inf")  # when it was last lowered
        self._slow_seconds = float("inf")  # a third of the time that the newest call had

    def hold(self, on: bool) -> None:
        self._bound_is(self._most_calls)
        super().hold(on)

    def _bound_is(self, calls: float) -> None:
        if not self._max_in_flight:
            return  # it is closed
        self._bound, self._max_in_flight = calls, int(calls)
        if self._most_now:
            self._most_now = self._max_in_flight

    def _on_end(self, batch: Batch[C], outcome: BatchOutcome) -> None:
        if isinstance(outcome, bytes):
            if self._clock() - batch.sent > self._slow_seconds:
                self._cut(batch.sent)
            elif self._bound < self._most_calls:
                self._bound_is(min(self._most_calls, self._bound + 1 / self._bound))
        super()._on_end(batch, outcome)

    def _cut(self, sent: float) -> None:
        """A call that was sent then was slow: once for all that were sent before the last time."""
        if sent >= self._cut_at:
            self._cut_at = self._clock()
            calls = max(LEAST_CALLS, CUT * min(self._bound, len(self.in_flight)))
            self._bound_is(min(self._bound, calls))

    def expire(self, now: float) -> Expired[C]:
        found = super().expire(now)
        if found.in_flight:
            self._cut(now)
        return found

    def _send_alone(self, batch: Batch[C], timeout_seconds: float) -> SentMessage:
        message = message_for(self._server, batch.calls[0], batch.calls[0].version)
        if isinstance(message, BatchFailed):
            return asyncio.get_running_loop().call_soon(self._on_end, batch, message)
        self._slow_seconds = timeout_seconds / 3
        return self._sender.send(message, timeout_seconds, partial(self._on_end, batch), INFER.alone)


class AloneCall(Protocol):
    """A call that can be a ModelInfer of its own."""

    @property
    def hop(self) -> Hop: ...

    def as_infer(self, *, named: bool) -> bytes:
        """The call as a ModelInferRequest."""


def message_for(server: OipServer, call: AloneCall, version: str) -> bytes | BatchFailed:
    """What the server is sent for a call, or why it cannot be asked as `version`."""
    if server.misfit and call.hop is not INFER:
        text = f"version {version} does not serve Recommend: {server.misfit}"
        return BatchFailed(FailureReason.MODEL_ERROR, text, connection_broke=False, code=Code.FAILED_PRECONDITION)
    return call.as_infer(named=server.named) + server.ending
