"""The story of a call: admitted, assigned, sent, answered or sent on, logged. Knows no transport and no socket.

All of it runs on one event loop, so nothing here can race. Calls come in batches as plain function calls; there is no
coroutine, no task and no lock for a call. Everything after admission is driven by what comes back from a lane.
"""

import time
from collections.abc import Callable
from math import ceil

import structlog
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_transport.call import Call, Code
from abfleet_transport.rpc_metrics import RpcMetrics
from google.protobuf.message import DecodeError

from abfleet_router.accounts import Accounts, Served
from abfleet_router.admission import Admission
from abfleet_router.decision_log import DecisionLog
from abfleet_router.errors import InvalidRequest, shown
from abfleet_router.fallback import Reason, Situation, Step, final_status, next_step
from abfleet_router.fleet import Fleet
from abfleet_router.held_answers import HeldAnswers
from abfleet_router.lane import Batch, HopFailed
from abfleet_router.metrics import RouterMetrics
from abfleet_router.overload import ExpectedWait
from abfleet_router.pool import Pool
from abfleet_router.rate_limit import RateLimit, host_of
from abfleet_router.replica import Replica, stands_for
from abfleet_router.request import request_id_of
from abfleet_router.retry_budget import RetryBudget
from abfleet_router.settings import RoutingSettings
from abfleet_router.snapshot import REQUEST_ID_HEADS, Snapshot, reply_suffix
from abfleet_router.ticket import Ticket
from abfleet_router.tracing import Tracer

log = structlog.get_logger("abfleet.router.routing")

PUSHBACK_MS = 200
"""When a shed caller may come again: about what a full backlog takes to clear."""
CLOCK_SLACK_SECONDS = 0.002
"""The transport tells of a passed deadline by its own clock, which may be this much ahead of ours."""


class Router:
    """Answers each call exactly once, and logs it exactly once. Changed only on the event loop."""

    def __init__(
        self,
        fleet: Fleet,
        decision_log: DecisionLog,
        metrics: RouterMetrics,
        rpc_metrics: RpcMetrics,
        settings: RoutingSettings,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        holds_answers: bool = False,
        hashed: Callable[[str], str] | None = None,
        tracer: Tracer | None = None,
        client_of: Callable[[Call], str | None] | None = None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        """`holds_answers`: an answer waits until its line is written; `hashed`: what is logged for a user's id;
        `tracer`: None where no spans are made; `client_of`: None where no caller can say who it is."""
        self.crowded = False
        """No memory for more calls; changed only by who watches it."""
        self._fleet = fleet
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._admission = Admission(settings.default_deadline_seconds, tracer, client_of)
        self._accounts = Accounts(
            metrics, rpc_metrics, decision_log, clock, wall, router=settings.name, hashed=hashed, tracer=tracer
        )
        self._held = HeldAnswers(decision_log, self._accounts) if holds_answers else None
        self._budget = RetryBudget(per_call=settings.retry_per_call, banked=settings.retry_banked)
        self._expected_wait = ExpectedWait()
        self._rate_limit = rate_limit
        self._begin = self._dispatch if rate_limit is None else self._dispatch_limited
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot | None:
        """The configuration in force, or None before the first."""
        return self._snapshot

    def use(self, snapshot: Snapshot) -> None:
        """From now on new calls follow this snapshot; calls under way keep theirs."""
        self._snapshot = snapshot

    # --- in -----------------------------------------------------------------------------------------------------------

    def on_calls(self, calls: list[Call]) -> None:
        """Takes calls that arrived together."""
        self._accounts.arrived(len(calls))
        self._budget.earn(len(calls))
        snapshot, now = self._snapshot, self._clock()
        for call in calls:
            if snapshot is None:
                call.fail(Code.UNAVAILABLE, "the router is starting: no configuration is in force yet")
                self._accounts.refused(call, Code.UNAVAILABLE)
                continue
            try:
                ticket = self._admission.admit(call, snapshot)
            except InvalidRequest as error:
                call.fail(error.code, str(error))
                client_of = self._admission.client_of
                self._accounts.rejected(call, snapshot, error, client_of(call) if client_of else None)
            except Exception:  # a fault of ours with one call must not take those that came with it
                log.exception("a call could not be admitted", request_id=request_id_of(call.payload))
                call.fail(Code.INTERNAL, "internal error")
                self._accounts.refused(call, Code.INTERNAL)
            else:
                self._begin(ticket, now)

    def _dispatch_limited(self, ticket: Ticket, now: float) -> None:
        """As `_dispatch`, for callers who do not call too often; whatever the group, as with every refusal."""
        assert self._rate_limit is not None
        wait_seconds = self._rate_limit.wait(ticket.client or host_of(ticket.call.peer), now)
        if not wait_seconds:
            self._dispatch(ticket, now)
            return
        self._metrics.rate_limited += 1
        wait_ms = max(1, ceil(wait_seconds * 1000))
        text = f"rate limit: this caller has no calls left; the next is allowed in {wait_ms} ms"
        self._fail(ticket, Code.RESOURCE_EXHAUSTED, text, pushback_ms=wait_ms)

    def _dispatch(self, ticket: Ticket, now: float) -> None:
        settings, backlog = self._settings, self._fleet.backlog
        pool, default = ticket.snapshot.routes[ticket.arm.index].pool, ticket.snapshot.default_pool
        rests = bool(pool is not default and default.available and pool.rests(now))
        replica = (default if rests else pool).pick(now)
        waited = now - ticket.call.arrived  # for this loop
        self._expected_wait.learn(waited if replica is None else waited + replica.lane.expected_wait)
        full = backlog.calls >= settings.max_waiting_calls or backlog.bytes >= settings.max_waiting_bytes
        if (
            full or self.crowded or self._expected_wait.too_long
        ):  # whatever the group: shedding by group would bias the comparison
            self._metrics.shed += 1
            self._fail(ticket, Code.RESOURCE_EXHAUSTED, "overloaded: too many calls wait; try again later")
        elif rests:
            self._fall_back(ticket, default, Reason.EJECTED, now)
        elif replica is None:
            self._step(ticket, pool, pool.out_because, broke=False)
        else:
            self._enqueue(ticket, replica, now)

    def _enqueue(self, ticket: Ticket, replica: Replica, now: float) -> None:
        left, most = ticket.deadline - now, self._settings.attempt_timeout_seconds
        pool = replica.pool
        if pool is not ticket.snapshot.default_pool or (len(pool.available) > 1 and not ticket.retried):
            left /= 2  # so that there is time for another attempt; where there is none to make, this one has it all
        ticket.attempt_until = now + (left if left < most else most)
        ticket.replica = replica
        ticket.version = replica.version
        replica.lane.append(ticket)

    def on_cancelled(self, call: Call) -> None:
        """The caller has gone, or its deadline has passed. Its batch-mates are not touched."""
        ticket = call.owner
        if not isinstance(ticket, Ticket) or ticket.done:
            return
        late = self._clock() >= ticket.deadline - CLOCK_SLACK_SECONDS
        ticket.done = True
        if ticket.replica is not None:
            ticket.replica.lane.leave(ticket)
        self._accounts.failed(ticket, Code.DEADLINE_EXCEEDED if late else Code.CANCELLED)

    # --- back ---------------------------------------------------------------------------------------------------------

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
            self._fail(ticket, code, text)
            return
        reason = {Code.DEADLINE_EXCEEDED: Reason.TIMEOUT, Code.RESOURCE_EXHAUSTED: Reason.OVERLOAD}.get(
            code, Reason.MODEL_ERROR
        )
        pool = replica.pool
        if reason is Reason.MODEL_ERROR:
            pool.note_failure(replica, reason, certain=False)
        self._step(ticket, pool, reason, broke=False)

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
            self._step(ticket, pool, reason, broke=broke)

    def on_expired(self, replica: Replica, tickets: list[Ticket]) -> None:
        """These waited until their attempt had no time left."""
        for ticket in tickets:
            self._step(ticket, replica.pool, Reason.TIMEOUT, broke=False)

    def on_stranded(self, replica: Replica, tickets: list[Ticket], reason: Reason) -> None:
        """These waited for a replica that is out now; they were not sent, so sending them on costs nothing."""
        for ticket in tickets:
            self._step(ticket, replica.pool, reason, broke=True)

    def sweep(self) -> None:
        """Moves on every attempt whose time is up, and lets replicas look for signs of life; called every 20 ms."""
        now = self._clock()
        for replica in list(self._fleet.replicas()):
            replica.beat()
            waited, flown, mute = replica.lane.expire(now)
            if flown:
                replica.pool.note_failure(replica, Reason.TIMEOUT, certain=False, telling=mute, calls=len(flown))
            for ticket in (*waited, *flown):
                self._step(ticket, replica.pool, Reason.TIMEOUT, broke=False)

    # --- on -----------------------------------------------------------------------------------------------------------

    def _step(self, ticket: Ticket, pool: Pool, reason: Reason, *, broke: bool) -> None:
        """An attempt on `pool` failed: sends the call on, or ends it."""
        now = self._clock()
        default = ticket.snapshot.default_pool
        on_default = pool.version == default.version
        other = pool.pick_other(ticket.replica if pool.version == ticket.version else None)
        if not on_default and default.available and pool.rests(now):
            other = None
        time_left = ticket.deadline - now > self._settings.least_attempt_seconds
        situation = Situation(
            reason=reason,
            connection_broke=broke,
            resent=ticket.resent,
            retried=ticket.retried,
            another_replica=other is not None,
            time_left=time_left,
            on_default=on_default,
            default_has_room=reason is not Reason.OVERLOAD or default.has_room,
        )
        step = next_step(situation)
        if step is Step.RETRY and not self._budget.spend():
            step = Step.FAIL if on_default else Step.FALLBACK
        elif step is Step.RETRY:
            self._metrics.retries += 1
        if step is Step.RESEND and other is not None:
            ticket.resent = True
            self._enqueue(ticket, other, now)
        elif step is Step.RETRY and other is not None:
            ticket.retried = True
            self._enqueue(ticket, other, now)
        elif step is Step.FALLBACK:
            self._fall_back(ticket, default, reason, now)
        else:
            code = final_status(reason, time_left=time_left)
            self._fail(
                ticket, code, f"version {pool.version}: {reason.value}, and no other replica or version can serve"
            )

    def _fall_back(self, ticket: Ticket, default: Pool, reason: Reason, now: float) -> None:
        ticket.fallback = reason
        fallbacks = ticket.snapshot.routes[ticket.arm.index].stats.fallbacks
        fallbacks[reason.value] = fallbacks.get(reason.value, 0) + 1
        ticket.resent = ticket.retried = False
        replica = default.pick(now)
        if replica is None:
            self._step(ticket, default, default.out_because, broke=False)
        else:
            self._enqueue(ticket, replica, now)

    def _fail(self, ticket: Ticket, code: Code, text: str, pushback_ms: int = PUSHBACK_MS) -> None:
        ticket.done = True
        ticket.call.fail(code, text, pushback_ms=pushback_ms if code is Code.RESOURCE_EXHAUSTED else None)
        self._accounts.failed(ticket, code)


def code_of(number: int) -> Code:
    """The status code of a worker's failure; what is no failure code is UNKNOWN."""
    return Code(number) if 0 < number <= Code.UNAUTHENTICATED else Code.UNKNOWN
