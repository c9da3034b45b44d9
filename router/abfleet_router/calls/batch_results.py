"""What comes back from replicas: answers, failures and silence. The next attempt of a call is made in attempts.py."""

from collections.abc import Callable, Sequence
from functools import partial

import structlog
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError

from abfleet_router.calls import infer_answer
from abfleet_router.calls.attempts import Attempts
from abfleet_router.calls.batch_answer import BatchResponse, OtherVersion, items_of, read
from abfleet_router.calls.batch_failures import BatchFailures, code_of
from abfleet_router.calls.call_records import AnsweredCall, CallRecords
from abfleet_router.calls.held_answers import HeldAnswers
from abfleet_router.calls.infer_answer import LoggedItems
from abfleet_router.calls.interleaving import Interleaving
from abfleet_router.calls.reply import infer_ending
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.calls.shadow_calls import ShadowCalls
from abfleet_router.calls.wire import WireError
from abfleet_router.configuration.snapshot import REQUEST_ID_HEADS, reply_suffix
from abfleet_router.errors import shown
from abfleet_router.fleet.batch import INFER, Batch
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.health_watch import serves_pool
from abfleet_router.fleet.pool import Pool
from abfleet_router.metrics import RouterMetrics

log = structlog.get_logger("abfleet.router.answers")


class BatchResults:
    """Gives each call of a batch its own part of the answer, or its next attempt. All of it runs on the event loop."""

    def __init__(
        self,
        attempts: Attempts,
        records: CallRecords,
        metrics: RouterMetrics,
        clock: Callable[[], float],
        held: HeldAnswers | None,
        shadows: ShadowCalls,
        interleaving: Interleaving,
    ) -> None:
        """`held`: None where an answer need not wait for its line in the log; `shadows`: gets calls once they are
        answered; `interleaving`: gets answers of which two make one."""
        self._attempts = attempts
        self._records = records
        self._metrics = metrics
        self._clock = clock
        self._held = held
        self._shadows = shadows
        self._interleaving = interleaving
        self._failures = BatchFailures(attempts, clock)

    def on_answered(self, batch: Batch[RoutedCall], message: bytes) -> None:
        """A worker answered a batch: each call gets its own part of it."""
        self._metrics.observe_batch(len(batch.calls))
        answer: BatchResponse | None
        try:
            answer = read(message, batch, batch.calls[0].call.payload)
        except OtherVersion as error:
            self._other_version(batch, error.version)
            return
        except (DecodeError, WireError):
            answer = None
        if answer is None or len(responses := answer.responses) != len(batch.calls):
            got = "bytes that are not the answer" if answer is None else f"{len(answer.responses)} answers"
            log.error(
                "worker sent an invalid answer",
                address=batch.replica.address,
                calls=len(batch.calls),
                got=got,
                request_ids=batch.some_request_ids(),
            )
            self._failures.batch_failed(batch, FailureReason.MODEL_ERROR, broke=False, proven=False, suspicious=True)
        elif (version := answer.model_version) != batch.pool.version and not serves_pool(
            batch.pool.version, version, answer.alias
        ):
            self._other_version(batch, version)
        else:
            self._hand_out(batch, answer, responses, version)

    def _other_version(self, batch: Batch[RoutedCall], version: str) -> None:
        """A worker named a version that is not the pool's."""
        log.error(
            "worker serves another version",
            address=batch.replica.address,
            pool=batch.pool.version,
            version=shown(version),
        )
        self._failures.batch_failed(batch, FailureReason.MODEL_ERROR, broke=False, proven=True)

    def _hand_out(
        self, batch: Batch[RoutedCall], answer: BatchResponse, responses: Sequence[bytes], version: str
    ) -> None:
        """`version`: of a pool by alias, the one that now stands for it."""
        pool: Pool = batch.pool
        held, failures, infers = self._held, answer.failures, batch.hop is INFER
        served: list[AnsweredCall] = []
        replies: list[bytes] = []
        failed: list[tuple[RoutedCall, Code, str]] = []
        round_trip_seconds = self._clock() - batch.sent
        worker_seconds = min(answer.elapsed_us / 1e6 or round_trip_seconds, round_trip_seconds)
        interleaving = self._interleaving
        taken = interleaving.take(batch, answer, version, worker_seconds, failed) if interleaving.pairs else 0
        # A slice is a list, and to go through a protobuf field takes ten times as long.
        for index, (routed, response) in enumerate(zip(batch.calls, responses[:], strict=True)):
            if routed.batch is not batch:
                continue  # its caller has gone, or it was sent elsewhere
            routed.batch = None
            if failures and index in failures:
                failure = failures[index]
                failed.append((routed, code_of(failure.code), failure.message))
                continue
            items: LoggedItems
            try:  # before the reply: a caller could make nothing of it either
                if infers:
                    items = infer_answer.logged(response, routed.snapshot.config.logged_outputs(pool.version))
                else:
                    items = items_of(response)
            except (DecodeError, WireError):
                failed.append((routed, Code.INTERNAL, "the worker's answer is not the response of the method"))
                continue
            as_assigned = routed.fallback is None and version == pool.version
            routed.done = True
            if infers:
                reply = b"".join((response, *infer_ending(routed, version, as_assigned=as_assigned)))
            else:
                route = routed.snapshot.routes[routed.arm.index]
                request_id = routed.request_id.encode()
                suffix = route.suffix if as_assigned else reply_suffix(routed.arm, version)
                reply = b"".join((response, REQUEST_ID_HEADS[len(request_id)], request_id, suffix))
            if held is None:
                routed.call.reply(reply)
            else:
                replies.append(reply)
            served.append((routed, items))
        if served or taken:
            pool.picker.learn(len(batch.calls), worker_seconds)
            pool.outliers.note_success(batch.replica)
        if taken:
            interleaving.settle()
        if served:
            shadows = self._shadows
            sampled = shadows.sample(served, pool, version) if shadows.on else ()
            if infers:
                for routed, _ in served:
                    routed.call.payload = b""  # as large as it may be, it would be kept until the line is made
            if held is not None:
                held.hold(served, replies, version, worker_seconds, partial(shadows.add, sampled))
            else:
                self._records.served(served, version, worker_seconds)
                if sampled:
                    shadows.add(sampled)
        for routed, code, text in failed:
            self._failures.item_failed(batch, routed, code, text, others=bool(served or taken))

    def on_failed(self, batch: Batch[RoutedCall], failure: BatchFailed) -> None:
        """A batch failed as a whole: the worker refused it, the connection broke or its time was up."""
        self._failures.on_failed(batch, failure)

    def on_expired(self, calls: list[RoutedCall]) -> None:
        """The time of this attempt of these calls has ended, in the queue or in flight."""
        for routed in calls:
            assert routed.pool is not None
            self._attempts.after_failure(routed, routed.pool, FailureReason.TIMEOUT, broke=False)

    def on_returned(self, calls: list[RoutedCall], reason: FailureReason) -> None:
        """These calls waited for a replica that is out now, and were not sent."""
        for routed in calls:
            assert routed.pool is not None
            self._attempts.send_again(routed, routed.pool, reason)
