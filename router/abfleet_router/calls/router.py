"""The way in: calls are admitted, assigned, sent or shed. What comes back is the business of batch_results.py.

All of it runs on one event loop, so nothing here can race. Calls come in batches as plain function calls; there is no
coroutine, no task and no lock for a call. Everything after admission is driven by what comes back from a queue.
"""

import os
import time
from collections.abc import Callable
from math import ceil

import structlog
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_transport.call import Call, Code
from abfleet_transport.rpc_metrics import RpcMetrics

from abfleet_router.balancing.queue_delay import ExpectedWait
from abfleet_router.calls.admission import Admission
from abfleet_router.calls.attempts import Attempts
from abfleet_router.calls.batch_results import BatchResults
from abfleet_router.calls.call_records import CallRecords, caller_request_id
from abfleet_router.calls.held_answers import HeldAnswers
from abfleet_router.calls.interleaving import Interleaving
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.calls.shadow_calls import ShadowCalls
from abfleet_router.calls.spans import CallTracer
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.errors import InvalidRequest
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.fleet.replica import Replica
from abfleet_router.fleet.waiting_calls import Backlog
from abfleet_router.metrics import RouterMetrics
from abfleet_router.security.rate_limit import RateLimit, host_of
from abfleet_router.settings import RoutingSettings

log = structlog.get_logger("abfleet.router.routing")

CLOCK_SLACK_SECONDS = 0.002
"""The transport reports a passed deadline by its own clock, which may be this much ahead of ours."""


class Router:
    """Answers each call exactly once, and logs it exactly once. Changed only on the event loop."""

    def __init__(
        self,
        backlog: Backlog,
        decision_log: DecisionLog,
        metrics: RouterMetrics,
        rpc_metrics: RpcMetrics,
        settings: RoutingSettings,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        holds_answers: bool = False,
        hashed: Callable[[str], str] | None = None,
        tracer: CallTracer | None = None,
        client_of: Callable[[Call], str | None] | None = None,
        rate_limit: RateLimit | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`backlog`: of the fleet that has `batch_results` as its listener; `holds_answers`: an answer waits until its
        line is written; `hashed`: what is logged for a user's id;
        `tracer`: None where no spans are made; `client_of`: None where no caller can say who it is."""
        self.memory_over_limit = False
        """While it is True new calls are refused; changed only by Serving, which checks the memory."""
        self._backlog = backlog
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._admission = Admission(settings.default_deadline_seconds, tracer, client_of, entropy)
        self._records = CallRecords(
            metrics, rpc_metrics, decision_log, clock, wall, router=settings.name, hashed=hashed, tracer=tracer
        )
        self._attempts = Attempts(self._records, metrics, settings, clock)
        held = HeldAnswers(decision_log, self._records) if holds_answers else None
        self.shadows = ShadowCalls(
            decision_log,
            metrics,
            lambda: not (backlog.calls or self.memory_over_limit or decision_log.crowded),
            clock,
            wall,
            router=settings.name,
            hashed=hashed,
            timeout_seconds=settings.attempt_timeout_seconds,
        )
        """Who repeats answered calls to other versions; closed by whoever closes the fleet, before that."""
        self.interleaving = Interleaving(
            self._attempts, self._records, held, attempt_timeout_seconds=settings.attempt_timeout_seconds
        )
        """What asks two versions for one list."""
        self.batch_results = BatchResults(
            self._attempts, self._records, metrics, clock, held, self.shadows, self.interleaving
        )
        """What takes answers, failures and unsent calls from the replicas."""
        self._expected_wait = ExpectedWait()
        self._rate_limit = rate_limit
        self._send = self._dispatch
        self._begin = self._dispatch if rate_limit is None else self._dispatch_limited
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot | None:
        """The configuration in force, or None before the first."""
        return self._snapshot

    def use(self, snapshot: Snapshot) -> None:
        """From now on new calls follow this snapshot; calls under way keep theirs."""
        self._snapshot = snapshot
        self._send = self._dispatch_any if snapshot.teams else self._dispatch
        self._begin = self._send if self._rate_limit is None else self._dispatch_limited
        self.shadows.use(snapshot)

    # --- in -----------------------------------------------------------------------------------------------------------

    def on_calls(self, calls: list[Call]) -> None:
        """Admits and sends the calls that arrived in one turn of the event loop, or ends them with an error."""
        infers = 0
        for call in calls:
            if call.method:
                infers += 1
        self._records.arrived(len(calls), infers)
        snapshot, now = self._snapshot, self._clock()
        self._attempts.budget.earn(len(calls), now=now)
        for call in calls:
            if snapshot is None:
                call.fail(Code.UNAVAILABLE, "the router is starting: no configuration is in force yet")
                self._records.refused(call, Code.UNAVAILABLE)
                continue
            try:
                routed = self._admission.admit(call, snapshot)
            except InvalidRequest as error:
                call.fail(error.code, str(error))
                client_of = self._admission.client_of
                self._records.rejected(call, snapshot, error, client_of(call) if client_of else None)
            except Exception:  # our own error with one call must not end those that came with it
                log.exception("a call could not be admitted", request_id=caller_request_id(call))
                call.fail(Code.INTERNAL, "the router failed on this call; see its log")
                self._records.refused(call, Code.INTERNAL)
            else:
                self._begin(routed, now)

    def _dispatch_limited(self, routed: RoutedCall, now: float) -> None:
        """As `_dispatch`, for callers within their rate limit. Like every refusal it does not depend on the group."""
        assert self._rate_limit is not None
        wait_seconds = self._rate_limit.wait(routed.client or host_of(routed.call.peer), now)
        if not wait_seconds:
            self._send(routed, now)
            return
        self._metrics.rate_limited += 1
        wait_ms = max(1, ceil(wait_seconds * 1000))
        text = f"rate limit: this caller sends too many calls; the next one is allowed in {wait_ms} ms"
        self._attempts.fail(routed, Code.RESOURCE_EXHAUSTED, text, pushback_ms=wait_ms)

    def _dispatch(self, routed: RoutedCall, now: float) -> None:
        pool, default = routed.snapshot.routes[routed.arm.index].pool, routed.snapshot.default_pool
        circuit_open = bool(pool is not default and default.available and pool.circuit_open(now))
        replica = (default if circuit_open else pool).picker.pick(now)
        waited = now - routed.call.arrived  # for a turn of the event loop
        if replica is not None:
            waited += replica.queue.expected_wait
        if self._overloaded(waited):
            self._shed(routed)
        elif circuit_open:
            self._attempts.fall_back(routed, default, FailureReason.EJECTED, now)
        elif replica is None:
            self._attempts.after_failure(routed, pool, pool.unavailable_reason, broke=False)
        else:
            self._attempts.enqueue(routed, pool, replica, now)

    def _dispatch_any(self, routed: RoutedCall, now: float) -> None:
        """As `_dispatch`, where some calls are asked of two versions."""
        if routed.arm.interleave is None:
            self._dispatch(routed, now)
            return
        asked = self._interleaving_replicas(routed, now)
        waits = [place.queue.expected_wait for place in asked if isinstance(place, Replica)]
        if self._overloaded(now - routed.call.arrived + max(waits, default=0.0)):
            self._shed(routed)
        else:
            self.interleaving.begin(routed, asked, now)

    def _interleaving_replicas(self, routed: RoutedCall, now: float) -> list[Replica | FailureReason]:
        """A replica of each of a call's two versions, or why there is none.

        A version whose circuit is open is not asked where another can answer: the other one, or a default beside them.
        """
        default = routed.snapshot.default_pool
        pools = [team.default_pool for team in routed.snapshot.teams[routed.arm.index].of]
        well = [bool(pool.available) and not pool.circuit_open(now) for pool in pools]
        spare = any(well) or (default not in pools and bool(default.available))
        return [
            FailureReason.EJECTED
            if spare and pool.circuit_open(now)
            else pool.picker.pick(now) or pool.unavailable_reason
            for pool in pools
        ]

    def _overloaded(self, wait_seconds: float) -> bool:
        """Whether a call that would wait so long is refused. Whatever its group: shedding by group would bias the
        comparison."""
        settings, backlog = self._settings, self._backlog
        too_long = self._expected_wait.is_too_long(wait_seconds, backlog.calls)  # which every call's wait is part of
        full = backlog.calls >= settings.max_waiting_calls or backlog.bytes >= settings.max_waiting_bytes
        return full or self.memory_over_limit or too_long

    def _shed(self, routed: RoutedCall) -> None:
        self._metrics.shed += 1
        self._attempts.fail(
            routed, Code.RESOURCE_EXHAUSTED, "the router is overloaded: too many calls wait; try again later"
        )

    def on_cancelled(self, call: Call) -> None:
        """The caller has gone, or its deadline has passed. The other calls of its batch are not touched."""
        routed, call.owner = call.owner, None  # or both would wait for the collector
        if not isinstance(routed, RoutedCall) or routed.done:
            return
        late = self._clock() >= routed.deadline - CLOCK_SLACK_SECONDS
        routed.done = True
        if routed.replica is not None:
            routed.replica.queue.remove(routed)
        elif routed.arm.interleave is not None:
            self.interleaving.cancel(routed)
        if late:
            self._records.failed(routed, Code.DEADLINE_EXCEEDED, FailureReason.TIMEOUT)
        else:
            self._records.failed(routed, Code.CANCELLED)
