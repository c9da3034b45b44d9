"""The queue of a server of the Open Inference Protocol: each call is a ModelInfer of its own, many at a time."""

import asyncio
from collections.abc import Callable
from functools import partial

from abfleet_transport.call import Code

from abfleet_router.fleet.batch import INFER, Batch, BatchListener, BatchSender, C, SentMessage
from abfleet_router.fleet.batch_queue import BatchQueue
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.oip_server import OipServer
from abfleet_router.fleet.waiting_calls import Backlog


class OipQueue(BatchQueue[C]):
    """All of it runs on the event loop."""

    alone_only = True

    def __init__(
        self,
        sender: BatchSender,
        listener: BatchListener[C],
        backlog: Backlog,
        clock: Callable[[], float],
        server: OipServer,
        *,
        most_calls: int,
    ) -> None:
        """`most_calls`: in flight at once."""
        super().__init__(sender, listener, backlog, clock, max_batch=1, max_in_flight=most_calls)
        self._server = server
        self._fastest = float("inf")  # answer to a call since the server has been connected to

    @property
    def expected_wait(self) -> float:
        """Seconds for which a call that comes now would wait, here or in the server.

        A server may answer calls together or one after another, so what answers take beyond the fastest counts as wait.
        """
        if not self._in_flight:
            return 0.0
        return super().expected_wait + max(0.0, self._batch_seconds - self._fastest)

    def greet(self) -> None:
        self._fastest = float("inf")
        super().greet()

    def _on_end(self, batch: Batch[C], outcome: BatchOutcome) -> None:
        if isinstance(outcome, bytes):
            self._fastest = min(self._fastest, self._clock() - batch.sent)
        super()._on_end(batch, outcome)

    def _send_alone(self, batch: Batch[C], timeout_seconds: float) -> SentMessage:
        server, call = self._server, batch.calls[0]
        if server.misfit and call.hop is not INFER:
            text = f"version {call.version} does not serve Recommend: {server.misfit}"
            failure = BatchFailed(
                FailureReason.MODEL_ERROR, text, connection_broke=False, code=Code.FAILED_PRECONDITION
            )
            return asyncio.get_running_loop().call_soon(self._on_end, batch, failure)
        message = call.as_infer() + server.ending
        return self._sender.send(message, timeout_seconds, partial(self._on_end, batch), INFER.alone)
