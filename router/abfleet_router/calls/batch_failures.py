"""What becomes of calls whose batch failed, or whose part of its answer is an error: an error or the next attempt."""

from collections.abc import Callable

import structlog
from abfleet_transport.call import Code

from abfleet_router.calls.attempts import Attempts
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.fleet.batch import INFER, Batch
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.pool import Pool

log = structlog.get_logger("abfleet.router.answers")

CALLERS_FAULTS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION})
"""Of an item: the caller asked for what the version cannot give. No other replica would see it differently."""
CALLERS_FAULTS_OF_INFER = CALLERS_FAULTS | {Code.UNIMPLEMENTED, Code.NOT_FOUND}
CALLERS_FAULTS_OF_OIP = CALLERS_FAULTS | {Code.UNIMPLEMENTED}
"""Of a server of the Open Inference Protocol. NOT_FOUND is none: the router named the model, not the caller."""


class BatchFailures:
    """All of it runs on the event loop."""

    def __init__(self, attempts: Attempts, clock: Callable[[], float]) -> None:
        self._attempts = attempts
        self._clock = clock

    def item_failed(self, batch: Batch[RoutedCall], routed: RoutedCall, code: Code, text: str, *, others: bool) -> None:
        """One call of a batch has an error for an answer; `others`: the answers to others came with it."""
        if routed.hop is INFER and code is Code.UNAVAILABLE:
            self._no_room(batch, routed, others=others)
            return
        if code in (CALLERS_FAULTS_OF_INFER if routed.hop is INFER else CALLERS_FAULTS):
            self._attempts.fail(routed, code, text)
            return
        reason = {Code.DEADLINE_EXCEEDED: FailureReason.TIMEOUT, Code.RESOURCE_EXHAUSTED: FailureReason.OVERLOAD}.get(
            code, FailureReason.MODEL_ERROR
        )
        if reason is FailureReason.MODEL_ERROR:
            batch.pool.outliers.note_failure(batch.replica, reason, proven=False)
        self._attempts.after_failure(routed, batch.pool, reason, broke=False)

    def _no_room(self, batch: Batch[RoutedCall], routed: RoutedCall, *, others: bool) -> None:
        """The answer to a batch had no room for this one, which is nobody's fault: it is asked for again.

        `others`: answers to others came with this batch, so that asking again leads somewhere.
        """
        if others:
            routed.attempts -= 1
            self._attempts.send_again(routed, batch.pool, FailureReason.UNAVAILABLE)
        else:
            self._attempts.after_failure(routed, batch.pool, FailureReason.UNAVAILABLE, broke=True)

    def on_failed(self, batch: Batch[RoutedCall], failure: BatchFailed) -> None:
        """A batch failed as a whole: the worker refused it, the connection broke or its time was up."""
        log.debug(
            "batch failed",
            address=batch.replica.address,
            calls=batch.open,
            error=str(failure),
            request_ids=batch.some_request_ids(),
        )
        if failure.unsent:
            self._send_again(batch, failure.reason)
            return
        reason, proven = failure.reason, failure.connection_broke
        said: tuple[Code, str] | None = None
        if batch.alone and failure.code is not None:
            code, text = failure.code, str(failure).removeprefix(f"{failure.code.name}: ")
            foreign = batch.replica.oip is not None
            faults = CALLERS_FAULTS_OF_OIP if foreign else CALLERS_FAULTS_OF_INFER
            if code in faults and (routed := batch.calls[0]).batch is batch:
                routed.batch = None
                self._attempts.fail(routed, code, text)
                return
            if foreign and reason is FailureReason.MODEL_ERROR:
                said = code, text
        suspicious = reason is FailureReason.TIMEOUT and batch.replica.queue.is_unresponsive(batch, self._clock())
        self.batch_failed(
            batch,
            reason,
            broke=proven or reason is FailureReason.UNAVAILABLE,
            proven=proven,
            suspicious=suspicious,
            whole=reason is FailureReason.MODEL_ERROR,
            said=said,
        )

    def _send_again(self, batch: Batch[RoutedCall], reason: FailureReason) -> None:
        """The worker has not begun the batch: that counts neither as an attempt of its calls nor against the worker."""
        calls = [routed for routed in batch.calls if routed.batch is batch]
        for routed in calls:
            routed.batch = None
            routed.attempts -= 1
            self._attempts.send_again(routed, batch.pool, reason)

    def batch_failed(
        self,
        batch: Batch[RoutedCall],
        reason: FailureReason,
        *,
        broke: bool,
        proven: bool,
        suspicious: bool = False,
        whole: bool = False,
        said: tuple[Code, str] | None = None,
    ) -> None:
        """`broke`: nothing was answered, as when a stream ends; that is one failure, however many calls it had."""
        calls = [routed for routed in batch.calls if routed.batch is batch]
        for routed in calls:
            routed.batch = None
        pool: Pool = batch.pool
        if reason is not FailureReason.OVERLOAD and calls:
            count = 1 if broke else len(calls)
            pool.outliers.note_failure(batch.replica, reason, proven=proven, suspicious=suspicious, calls=count)
        for routed in calls:
            self._attempts.after_failure(routed, pool, reason, broke=broke, whole=whole, said=said)


def code_of(number: int) -> Code:
    """The status code of a worker's failure; UNKNOWN for a number that is not the code of a failure."""
    return Code(number) if 0 < number <= Code.UNAUTHENTICATED else Code.UNKNOWN
