"""One batch on its way over the link to a worker."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from abfleet_transport.call import Code

from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_router.fleet.http2_client_stream import ClientStream, RpcFailed

REASONS = {
    Code.UNAVAILABLE: FailureReason.UNAVAILABLE,
    Code.CANCELLED: FailureReason.UNAVAILABLE,  # not by us: a grpcio worker that stops ends so what it has not begun
    Code.DEADLINE_EXCEEDED: FailureReason.TIMEOUT,
    Code.RESOURCE_EXHAUSTED: FailureReason.OVERLOAD,
}


class Connected(Protocol):
    """The link that a batch goes over."""

    clock: Callable[[], float]
    """Seconds of a monotonic clock."""
    connection: ClientConnection | None
    """That a call would go over now."""


class SentBatch:
    """A batch on its way over a link. What the worker refuses to begin is sent once more at once (gRFC A6, transparent
    retries)."""

    __slots__ = (
        "_connection",
        "_given_up",
        "_link",
        "_message",
        "_on_end",
        "_path",
        "_sent_again",
        "_stream",
        "_until",
    )

    def __init__(
        self,
        link: Connected,
        message: bytes,
        timeout_seconds: float,
        on_end: Callable[[BatchOutcome], None],
        path: str,
    ) -> None:
        """As of `WorkerLink.send`, which makes it."""
        self._link = link
        self._path = path
        self._message = message
        self._until = link.clock() + timeout_seconds
        self._on_end = on_end
        self._sent_again = self._given_up = False
        self._stream: ClientStream | None = None
        self._send(timeout_seconds)

    def _send(self, timeout_seconds: float) -> None:
        connection = self._connection = self._link.connection
        try:
            if connection is None:
                raise not_connected()
            self._stream = connection.call(self._path, self._message, timeout_seconds, self._ended)
        except RpcFailed as error:  # told later: who sends is not ready to hear of it
            asyncio.get_running_loop().call_soon(self._ended, error)

    def _ended(self, outcome: bytes | RpcFailed) -> None:
        if self._given_up:
            return
        if isinstance(outcome, bytes):
            self._on_end(outcome)
            return
        refused = outcome.unsent and self._connection is not None and self._connection is self._link.connection
        if refused and not self._sent_again:
            self._sent_again = True
            self._send(max(0.0, self._until - self._link.clock()))
            return
        reason = REASONS.get(outcome.code, FailureReason.MODEL_ERROR)
        broke, unsent = outcome.connection_broke, outcome.unsent and not refused
        self._on_end(BatchFailed(reason, str(outcome), connection_broke=broke, unsent=unsent, code=outcome.code))

    def cancel(self) -> None:
        """Gives the batch up; its end is not told any more."""
        self._given_up = True
        if self._connection is not None and self._stream is not None:
            self._connection.cancel(self._stream)


def not_connected() -> RpcFailed:
    """Why nothing can be sent while there is no connection."""
    return RpcFailed(Code.UNAVAILABLE, "the worker is not connected", unsent=True)
