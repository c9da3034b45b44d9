"""What comes back from replicas: answers, failures, and silence. Knows batches; what becomes of a call is onward's."""

from collections.abc import Callable

import structlog
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError

from abfleet_router.calls.attempts import Onward
from abfleet_router.calls.call_records import Accounts, Served
from abfleet_router.calls.held_answers import HeldAnswers
from abfleet_router.calls.routed_call import Ticket
from abfleet_router.configuration.snapshot import REQUEST_ID_HEADS, reply_suffix
from abfleet_router.errors import shown
from abfleet_router.fleet.batch_queue import Batch
from abfleet_router.fleet.failure import HopFailed, Reason
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.fleet.replica import Replica, stands_for
from abfleet_router.metrics import RouterMetrics

log = structlog.get_logger("abfleet.router.answers")


class Answers:
    """Gives each call of a batch its own part of the answer, or sends it on. All of it runs on the event loop."""

    def __init__(
        self,
        fleet: Fleet,
        onward: Onward,
        accounts: Accounts,
        metrics: RouterMetrics,
        clock: Callable[[], float],
        held: HeldAnswers | None,
    ) -> None:
        """`held`: None where an answer need not wait for its line in the log."""
        self._fleet = fleet
        self._onward = onward
        self._accounts = accounts
        self._metrics = metrics
        self._clock = clock
        self._held = held

    def on_answered(self, replica: Replica, batch: Batch, message: bytes) -> None:
        """A worker answered a batch: each call gets its own part of it."""
        self._metrics.observe_batch(len(batch.tickets))
        try:
            answer = RecommendBatchResponse.FromString(message)
        except DecodeError:
            answer = None
        if answer is None or len(answer.responses) != len(batch.tickets):
            got = "bytes that are no RecommendBatchResponse" if answer is None else f"{len(answer.responses)} answers"
            log.error("worker answered with garbage", address=replica.address, calls=len(batch.tickets), got=got,
                      request_ids=batch.some_request_ids())  # fmt: skip
            self._batch_failed(batch, replica, Reason.MODEL_ERROR, broke=False, certain=False, telling=True)
        elif not stands_for(replica.version, answer.model_version, answer.alias):
            log.error("worker serves another version", address=replica.address, pool=replica.version,
                      version=shown(answer.model_version))  # fmt: skip
            self._batch_failed(batch, replica, Reason.MODEL_ERROR, broke=False, certain=True)
        else:
            self._hand_out(batch, replica, answer)

    def _hand_out(self, batch: Batch, replica: Replica, answer: RecommendBatchResponse) -> None:
        failures, version = answer.failures, answer.model_version  # of a pool by alias, the one that now stands for it
        served: list[Served] = []
        held, replies = self._held, list[bytes]()
        failed: list[tuple[Ticket, Code, str]] = []
        hop_seconds = self._clock() - batch.sent
        worker_seconds = min(answer.elapsed_us / 1e6 or hop_seconds, hop_seconds)
        for index, (ticket, response) in enumerate(zip(batch.tickets, answer.responses, strict=True)):
            if ticket.batch is not batch:
                continue  # its caller has gone, or it was sent elsewhere
            ticket.batch = None
            if failures and index in failures:
                failure = failures[index]
                failed.append((ticket, code_of(failure.code), failure.message))
                continue
            try:  # before the reply: a caller could make nothing of it either
                item_ids = RecommendResponse.FromString(response).item_ids
            except DecodeError:
                failed.append((ticket, Code.INTERNAL, "the worker's answer is no RecommendResponse"))
                continue
            route = ticket.snapshot.routes[ticket.arm.index]
            request_id = ticket.request_id.encode()
            as_assigned = ticket.fallback is None and version == replica.version
            suffix = route.suffix if as_assigned else reply_suffix(ticket.arm, version)
            ticket.done = True
            reply = b"".join((response, REQUEST_ID_HEADS[len(request_id)], request_id, suffix))
            if held is None:
                ticket.call.reply(reply)
            else:
                replies.append(reply)
            served.append((ticket, item_ids))
        if served:
            replica.pool.note_success(replica, len(batch.tickets), worker_seconds)
            if held is None:
                self._accounts.served(served, version, worker_seconds)
            else:
                held.hold(served, replies, version, worker_seconds)
        for ticket, code, text in failed:
            self._item_failed(ticket, replica, code, text)

    def _item_failed(self, ticket: Ticket, replica: Replica, code: Code, text: str) -> None:
        if code is Code.INVALID_ARGUMENT:  # the caller's mistake: no other replica would see it differently
            self._onward.fail(ticket, code, text)
            return
        reason = {Code.DEADLINE_EXCEEDED: Reason.TIMEOUT, Code.RESOURCE_EXHAUSTED: Reason.OVERLOAD}.get(
            code, Reason.MODEL_ERROR
        )
        pool = replica.pool
        if reason is Reason.MODEL_ERROR:
            pool.note_failure(replica, reason, certain=False)
        self._onward.step(ticket, pool, reason, broke=False)

    def on_failed(self, replica: Replica, batch: Batch, failure: HopFailed) -> None:
        """A batch did not come back."""
        log.debug("batch failed", address=replica.address, calls=batch.open, error=str(failure),
                  request_ids=batch.some_request_ids())  # fmt: skip
        broke = failure.connection_broke
        telling = failure.reason is Reason.TIMEOUT and replica.lane.is_mute(batch, self._clock())
        self._batch_failed(batch, replica, failure.reason, broke=broke, certain=broke, telling=telling)

    def _batch_failed(
        self, batch: Batch, replica: Replica, reason: Reason, *, broke: bool, certain: bool, telling: bool = False
    ) -> None:
        tickets = [ticket for ticket in batch.tickets if ticket.batch is batch]
        for ticket in tickets:
            ticket.batch = None
        pool = replica.pool
        if reason is not Reason.OVERLOAD and tickets:
            pool.note_failure(replica, reason, certain=certain, telling=telling, calls=len(tickets))
        for ticket in tickets:
            self._onward.step(ticket, pool, reason, broke=broke)

    def on_expired(self, replica: Replica, tickets: list[Ticket]) -> None:
        """These waited until their attempt had no time left."""
        for ticket in tickets:
            self._onward.step(ticket, replica.pool, Reason.TIMEOUT, broke=False)

    def on_stranded(self, replica: Replica, tickets: list[Ticket], reason: Reason) -> None:
        """These waited for a replica that is out now; they were not sent, so sending them on costs nothing."""
        for ticket in tickets:
            self._onward.step(ticket, replica.pool, reason, broke=True)

    def sweep(self) -> None:
        """Moves on every attempt whose time is up, and lets replicas look for signs of life; called every 20 ms."""
        now = self._clock()
        for replica in list(self._fleet.replicas()):
            replica.beat()
            waited, flown, mute = replica.lane.expire(now)
            if flown:
                replica.pool.note_failure(replica, Reason.TIMEOUT, certain=False, telling=mute, calls=len(flown))
            for ticket in (*waited, *flown):
                self._onward.step(ticket, replica.pool, Reason.TIMEOUT, broke=False)


def code_of(number: int) -> Code:
    """The status code of a worker's failure; what is no failure code is UNKNOWN."""
    return Code(number) if 0 < number <= Code.UNAUTHENTICATED else Code.UNKNOWN
