"""Faults that the product once had, put back one at a time: a simulation that cannot find them proves nothing.

Each takes a mend out of the code while it is in force, and nothing else.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from abfleet_log.writer.writer_thread import LogWriter
from abfleet_router.balancing.picker import Picker
from abfleet_router.balancing.queue_delay import MAX_WAIT_SECONDS, SMOOTHING, ExpectedWait
from abfleet_router.calls.batch_results import BatchResults
from abfleet_router.calls.router import Router
from abfleet_router.fleet import health_watch
from abfleet_router.fleet.batch_queue import BatchQueue
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.waiting_calls import WaitingCalls
from abfleet_router.fleet.worker_link import WorkerLink
from abfleet_transport.http2.sender import Drain

OldFault = Callable[[], "contextlib.AbstractContextManager[Any]"]


def _mean_stands_still() -> "contextlib.AbstractContextManager[Any]":
    def is_too_long(self: ExpectedWait, seconds: float, waiting: int = 1) -> bool:
        self.seconds += SMOOTHING * (seconds - self.seconds)
        return self.seconds > MAX_WAIT_SECONDS

    return mock.patch.object(ExpectedWait, "is_too_long", is_too_long)


def _given_up_and_in_flight() -> "contextlib.AbstractContextManager[Any]":
    real = BatchQueue.remove

    def remove(self: Any, routed: Any) -> None:
        batch = routed.batch
        real(self, routed)
        if batch is not None and not batch.open:
            self.in_flight[batch] = None

    return mock.patch.object(BatchQueue, "remove", remove)


def _bytes_that_stay() -> "contextlib.AbstractContextManager[Any]":
    real = WaitingCalls.forget

    def forget(self: Any, routed: Any) -> None:
        self._backlog.bytes += len(routed.call.payload)
        real(self, routed)

    return mock.patch.object(WaitingCalls, "forget", forget)


def _watch_that_ends() -> "contextlib.AbstractContextManager[Any]":
    """A worker that ends its health watch is out, and not asked again."""
    return mock.patch.multiple(health_watch, BROKEN_OFF=(), WATCH_RETRY_SECONDS=1e6)


def _watch_that_ejects() -> "contextlib.AbstractContextManager[Any]":
    """A worker that ends its health watch is out until it is asked again."""
    return mock.patch.object(health_watch, "BROKEN_OFF", ())


def _stream_that_ejects() -> "contextlib.AbstractContextManager[Any]":
    """A stream's end counts as a connection's end, so that the replica is out."""

    def on_failed(self: Any, batch: Any, failure: BatchFailed) -> None:
        failure.connection_broke |= failure.reason is FailureReason.UNAVAILABLE
        real(self, batch, failure)

    real = BatchResults.on_failed
    return mock.patch.object(BatchResults, "on_failed", on_failed)


def _connection_that_is_left() -> "contextlib.AbstractContextManager[Any]":
    """A goodbye to a connection is its end: the replica is out until there is another."""

    def on_goodbye(self: Any, listener: Any, connection: Any) -> None:
        self._on_closed(listener, connection)

    return mock.patch.object(WorkerLink, "_on_goodbye", on_goodbye)


def _gone_and_counted_twice() -> "contextlib.AbstractContextManager[Any]":
    def on_cancelled(self: Any, call: Any) -> None:
        if call.owner is not None and not call.owner.done:
            real(self, call)
            call.owner.done = False
            call.owner.batch = None
            real(self, call)

    real = Router.on_cancelled
    return mock.patch.object(Router, "on_cancelled", on_cancelled)


def _lines_given_up() -> "contextlib.AbstractContextManager[Any]":
    """Lines that a full disk did not take are dropped, and nobody counts them."""

    def write_held(self: Any, *, last: bool = False) -> None:
        real(self, last=last)
        self._held.clear()

    real = LogWriter.write_held
    return mock.patch.object(LogWriter, "write_held", write_held)


def _last_stream_unsaid() -> "contextlib.AbstractContextManager[Any]":
    """A server that drains closes at once, without the GOAWAY that names the last call."""

    def begin(self: Any) -> None:
        self._socket.abort()

    return mock.patch.object(Drain, "begin", begin)


def _no_other_replica() -> "contextlib.AbstractContextManager[Any]":
    return mock.patch.object(Picker, "pick_other", return_value=None)


OLD_FAULTS: dict[str, OldFault] = {
    "an idle router goes on refusing after an overload": _mean_stands_still,
    "a batch that is given up stays in flight": _given_up_and_in_flight,
    "the bytes of a call that leaves the queue stay counted": _bytes_that_stay,
    "a health watch that ends is not begun again": _watch_that_ends,
    "a worker is out when its health watch ends": _watch_that_ejects,
    "a worker is out when it resets a stream": _stream_that_ejects,
    "a worker is out when it says goodbye to a connection": _connection_that_is_left,
    "a caller who leaves is logged twice": _gone_and_counted_twice,
    "lines that a full disk did not take are lost uncounted": _lines_given_up,
    "a server that drains says nothing to its clients": _last_stream_unsaid,
    "a failed call never goes to another replica": _no_other_replica,
}


@contextlib.contextmanager
def put_back(name: str) -> Iterator[None]:
    """The product as it was before this was mended."""
    with OLD_FAULTS[name]():
        yield
