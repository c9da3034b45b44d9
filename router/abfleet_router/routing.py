"""The story of a call: admitted, assigned, sent, answered or sent on, logged. Knows no transport and no socket.

All of it runs on one event loop, so nothing here can race. Calls come in batches as plain function calls; there is no
coroutine, no task and no lock for a call. Everything after admission is driven by what comes back from a lane.
"""

import os
import time
from collections.abc import Callable, Sequence
from itertools import count

import structlog
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_transport.call import Call, Code
from abfleet_transport.rpc_metrics import RpcMetrics
from google.protobuf.message import DecodeError

from abfleet_router import log_line
from abfleet_router.decision_log import DecisionLog
from abfleet_router.errors import InvalidRequest, shown
from abfleet_router.fallback import Reason, Situation, Step, final_status, next_step
from abfleet_router.fleet import Fleet
from abfleet_router.lane import Batch, HopFailed
from abfleet_router.metrics import RouterMetrics
from abfleet_router.pool import Pool
from abfleet_router.replica import Replica
from abfleet_router.request import (
    check_attributes,
    check_user_id,
    parse,
    relevant,
    request_id_of,
    trace_id,
    user_id_from_metadata,
)
from abfleet_router.retry_budget import RetryBudget
from abfleet_router.settings import RoutingSettings
from abfleet_router.snapshot import Snapshot, length, reply_suffix
from abfleet_router.ticket import Ticket

log = structlog.get_logger("abfleet.router.routing")

RECOMMEND = 0
"""Index of /Recommender/Recommend in the methods of the server."""
PUSHBACK_MS = 200
"""When a shed caller may come again: about what a full backlog takes to clear."""
LENGTHS = tuple(length(n) for n in range(257))


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
    ) -> None:
        self._fleet = fleet
        self._log = decision_log
        self._metrics = metrics
        self._rpc = rpc_metrics
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._budget = RetryBudget(per_call=settings.retry_per_call, banked=settings.retry_banked)
        self._snapshot: Snapshot | None = None
        self._marked: list[Replica] = []
        self._id_prefix = os.urandom(8).hex()
        self._id_numbers = count(1)

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
        self._rpc.started(RECOMMEND, len(calls))
        self._budget.earn(len(calls))
        snapshot = self._snapshot
        for call in calls:
            if snapshot is None:
                call.fail(Code.UNAVAILABLE, "the router is starting: no configuration is in force yet")
                self._rpc.finished(RECOMMEND, Code.UNAVAILABLE, self._clock() - call.arrived)
                continue
            try:
                ticket = self._admit(call, snapshot)
            except InvalidRequest as error:
                self._reject(call, snapshot, error)
            else:
                self._dispatch(ticket)
        self._send_marked()

    def _admit(self, call: Call, snapshot: Snapshot) -> Ticket:
        request = parse(call.payload)
        deadline = call.arrived + self._settings.default_deadline_seconds
        if call.deadline is not None:
            deadline = call.deadline
        ticket = Ticket(call, snapshot, deadline)
        found = relevant(call.metadata)
        if user_id := request.user_id:
            ticket.user_id = check_user_id(user_id)
        elif found:
            ticket.user_id = user_id_from_metadata(found)
        if found:
            ticket.synthetic = found.get("x-synthetic") == "1"
            ticket.trace_id = trace_id(found)
        if request.attributes:
            ticket.attributes = check_attributes(request.attributes)
        ticket.history_length = len(request.item_ids)
        ticket.request_id = request.request_id or f"{self._id_prefix}-{next(self._id_numbers):x}"
        ticket.arm, ticket.bucket = snapshot.assigner.assign(ticket.user_id, ticket.attributes)
        call.owner = ticket
        return ticket

    def _reject(self, call: Call, snapshot: Snapshot, error: InvalidRequest) -> None:
        now = self._clock()
        call.fail(error.code, str(error))
        self._metrics.rejected += 1
        self._rpc.finished(RECOMMEND, error.code, now - call.arrived)
        members = {
            "router": self._settings.name,
            "request_id": request_id_of(call.payload),
            "field": error.field,
            "message": f"allowed: {error.allowed}",
            "config_revision": snapshot.revision,
            "synthetic": relevant(call.metadata).get("x-synthetic") == "1",
            "client": None,
        }
        self._log.append(log_line.event("rejected", self._wall(), members))

    def _dispatch(self, ticket: Ticket) -> None:
        settings, backlog = self._settings, self._fleet.backlog
        if backlog.calls >= settings.max_waiting_calls or backlog.bytes >= settings.max_waiting_bytes:
            self._metrics.shed += 1
            self._fail(ticket, Code.RESOURCE_EXHAUSTED, "overloaded: too many calls wait; try again later")
            return
        pool = ticket.snapshot.routes[ticket.arm.index].pool
        if (replica := pool.pick()) is None:
            self._step(ticket, pool, pool.out_because, broke=False)
        else:
            self._enqueue(ticket, replica, self._clock())

    def _enqueue(self, ticket: Ticket, replica: Replica, now: float) -> None:
        left = ticket.deadline - now
        ticket.attempt_until = now + min(self._settings.attempt_timeout_seconds, left / 2)
        ticket.replica = replica
        ticket.version = replica.version
        replica.lane.append(ticket)
        if not replica.marked:
            replica.marked = True
            self._marked.append(replica)

    def _send_marked(self) -> None:
        while self._marked:
            marked, self._marked = self._marked, []
            for replica in marked:
                replica.marked = False
                replica.lane.send()

    def on_cancelled(self, call: Call) -> None:
        """The caller has gone, or its deadline has passed. Its batch-mates are not touched."""
        ticket = call.owner
        if not isinstance(ticket, Ticket) or ticket.done:
            return
        late = self._clock() >= ticket.deadline - 0.002  # the transport's clock and ours differ by less
        self._leave(ticket)
        self._finish(ticket, Code.DEADLINE_EXCEEDED if late else Code.CANCELLED, self._wall())
        self._send_marked()

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
            log.error("worker answered with garbage", address=replica.address, calls=len(batch.tickets), got=got)
            self._batch_failed(batch, replica, Reason.MODEL_ERROR, broke=False, certain=False)
        elif answer.model_version != replica.version:
            log.error("worker serves another version", address=replica.address, pool=replica.version,
                      version=shown(answer.model_version))  # fmt: skip
            self._batch_failed(batch, replica, Reason.MODEL_ERROR, broke=False, certain=True)
        else:
            self._hand_out(batch, replica, answer)
        self._send_marked()

    def _hand_out(self, batch: Batch, replica: Replica, answer: RecommendBatchResponse) -> None:
        failures = answer.failures
        replied: list[tuple[Ticket, Sequence[int]]] = []
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
            suffix = route.suffix if ticket.fallback is None else reply_suffix(ticket.arm, replica.version)
            ticket.done = True
            ticket.call.reply(b"".join((response, b"\x12", LENGTHS[len(request_id)], request_id, suffix)))
            replied.append((ticket, item_ids))
        if replied:
            replica.pool.note_success(replica)
        self._account(replied, replica.version, worker_seconds)
        for ticket, code, text in failed:
            self._item_failed(ticket, replica, code, text)

    def _account(self, replied: list[tuple[Ticket, Sequence[int]]], served: str, worker_seconds: float) -> None:
        """Counts and logs answers that are on their way already."""
        now, wall = self._clock(), self._wall()
        rpc, added, append = self._rpc, self._metrics.added, self._log.append
        for ticket, item_ids in replied:
            route = ticket.snapshot.routes[ticket.arm.index]
            arrived = ticket.call.arrived
            seconds = now - arrived
            rpc.finished(RECOMMEND, 0, seconds)
            route.stats.latency.observe(seconds)
            added.observe(seconds - worker_seconds)
            if ticket.fallback is None:
                route.stats.ok += 1
            else:
                count_other(route.stats.others, served, Code.OK)
            append(
                log_line.exposure(
                    ticket, route.log_constant, wall_seconds=wall - seconds, status=Code.OK, served=served,
                    item_ids=item_ids, latency_seconds=seconds,
                )
            )  # fmt: skip

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
        log.debug("batch failed", address=replica.address, calls=batch.open, error=str(failure))
        broke = failure.connection_broke
        self._batch_failed(batch, replica, failure.reason, broke=broke, certain=broke)
        self._send_marked()

    def _batch_failed(self, batch: Batch, replica: Replica, reason: Reason, *, broke: bool, certain: bool) -> None:
        tickets = [ticket for ticket in batch.tickets if ticket.batch is batch]
        for ticket in tickets:
            ticket.batch = None
        pool = replica.pool
        if reason is not Reason.OVERLOAD and tickets:
            pool.note_failure(replica, reason, certain=certain, calls=len(tickets))
        for ticket in tickets:
            self._step(ticket, pool, reason, broke=broke)

    def on_expired(self, replica: Replica, tickets: list[Ticket]) -> None:
        """These waited until their attempt had no time left."""
        for ticket in tickets:
            self._step(ticket, replica.pool, Reason.TIMEOUT, broke=False)
        self._send_marked()

    def on_stranded(self, replica: Replica, tickets: list[Ticket], reason: Reason) -> None:
        """These waited for a replica that is out now; they were not sent, so sending them on costs nothing."""
        for ticket in tickets:
            self._step(ticket, replica.pool, reason, broke=True)
        self._send_marked()

    def sweep(self) -> None:
        """Moves on every attempt whose time is up; called every few milliseconds."""
        now = self._clock()
        for replica in list(self._fleet.replicas()):
            waited, flown = replica.lane.expire(now)
            if flown:
                replica.pool.note_failure(replica, Reason.TIMEOUT, certain=False, calls=len(flown))
            for ticket in (*waited, *flown):
                self._step(ticket, replica.pool, Reason.TIMEOUT, broke=False)
        self._send_marked()

    # --- on -----------------------------------------------------------------------------------------------------------

    def _step(self, ticket: Ticket, pool: Pool, reason: Reason, *, broke: bool) -> None:
        """An attempt on `pool` failed: sends the call on, or ends it."""
        now = self._clock()
        default = ticket.snapshot.default_pool
        other = pool.pick_other(ticket.replica if pool.version == ticket.version else None)
        on_default = pool.version == default.version
        time_left = ticket.deadline - now > self._settings.least_attempt_seconds
        situation = Situation(
            reason=reason,
            connection_broke=broke,
            resent=ticket.resent,
            retried=ticket.retried,
            another_replica=other is not None,
            time_left=time_left,
            on_default=on_default,
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
        replica = default.pick()
        if replica is None:
            self._step(ticket, default, default.out_because, broke=False)
        else:
            self._enqueue(ticket, replica, now)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.replica is not None:
            ticket.done = True
            ticket.replica.lane.leave(ticket)

    def _fail(self, ticket: Ticket, code: Code, text: str) -> None:
        pushback = PUSHBACK_MS if code is Code.RESOURCE_EXHAUSTED else None
        ticket.call.fail(code, text, pushback_ms=pushback)
        self._finish(ticket, code, self._wall())

    def _finish(self, ticket: Ticket, code: Code, wall: float) -> None:
        ticket.done = True
        route = ticket.snapshot.routes[ticket.arm.index]
        seconds = self._clock() - ticket.call.arrived
        self._rpc.finished(RECOMMEND, code, seconds)
        route.stats.latency.observe(seconds)
        count_other(route.stats.others, "", code)
        self._log.append(
            log_line.exposure(
                ticket, route.log_constant, wall_seconds=wall - seconds, status=code, served=None, item_ids=(),
                latency_seconds=seconds,
            )
        )  # fmt: skip


def code_of(number: int) -> Code:
    """The status code of a worker's failure; what is no failure code is UNKNOWN."""
    return Code(number) if 0 < number <= Code.UNAUTHENTICATED else Code.UNKNOWN


def count_other(others: dict[tuple[str, int], int], served: str, code: Code) -> None:
    """Counts a call that did not end as usual."""
    key = (served, int(code))
    others[key] = others.get(key, 0) + 1
