"""What happens to a call next: its first attempt, another one after a failure, or its end. Decided in fallback.py."""

from collections.abc import Callable

from abfleet_transport.call import Code

from abfleet_router.balancing.queue_delay import MAX_WAIT_SECONDS
from abfleet_router.calls.call_records import CallRecords
from abfleet_router.calls.fallback import FailedAttempt, NextStep, final_status, next_step
from abfleet_router.calls.retry_budget import RetryBudget
from abfleet_router.calls.routed_call import RoutedCall, TeamCall
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.fleet.pool import Pool
from abfleet_router.fleet.replica import Replica
from abfleet_router.metrics import RouterMetrics
from abfleet_router.settings import RoutingSettings

PUSHBACK_MS = 200
"""When the caller of a shed call may call again: about the time in which a full backlog clears."""


class Attempts:
    """Acts on what fallback.py decides. Changed only on the event loop: the budget, and the calls it is given."""

    def __init__(
        self, records: CallRecords, metrics: RouterMetrics, settings: RoutingSettings, clock: Callable[[], float]
    ) -> None:
        self.budget = RetryBudget(
            per_call=settings.retry_per_call, per_second=settings.retry_per_second, banked=settings.retry_banked
        )
        self._records = records
        self._metrics = metrics
        self._settings = settings
        self._clock = clock

    def enqueue(self, routed: RoutedCall, pool: Pool, replica: Replica, now: float) -> None:
        """Lets the call wait for a replica of a pool, with the time that this attempt has."""
        left, most = routed.deadline - now, self._settings.attempt_timeout_seconds
        if pool is not routed.snapshot.default_pool or (len(pool.picker.available) > 1 and not routed.retried):
            left /= 2  # so that there is time for another attempt; where there is none to make, this one has it all
        routed.attempt_until = now + (left if left < most else most)
        routed.pool, routed.replica = pool, replica
        routed.version = pool.version
        replica.queue.append(routed)

    def send_again(self, routed: RoutedCall, pool: Pool, reason: FailureReason) -> None:
        """What was never begun is sent as if for the first time; the call goes on as failed where nobody is in."""
        now = self._clock()
        replica = pool.picker.pick_other(routed.replica) or self._still_in(routed, pool)
        if replica is None or routed.deadline <= now:
            self.after_failure(routed, pool, reason, broke=True)
        else:
            self.enqueue(routed, pool, replica, now)

    def _still_in(self, routed: RoutedCall, pool: Pool) -> Replica | None:
        """The replica that has just failed the call, where it may get calls."""
        return routed.replica if routed.replica in pool.available else None

    def after_failure(
        self,
        routed: RoutedCall,
        pool: Pool,
        reason: FailureReason,
        *,
        broke: bool,
        whole: bool = False,
        said: tuple[Code, str] | None = None,
    ) -> None:
        """An attempt on `pool` failed: makes the next one, or ends the call.

        `broke`: nothing was answered; `whole`: the batch failed as one, which says nothing of this call; `said`: the
        error of a server whose words the caller gets where nobody else can answer.
        """
        now = self._clock()
        default = routed.snapshot.default_pool
        on_default = pool.version == default.version
        other = pool.picker.pick_other(routed.replica if pool.version == routed.version else None)
        if not on_default and default.available and pool.circuit_open(now):
            other = None
        same = self._still_in(routed, pool) if other is None and (broke or whole) else None
        time_left = routed.deadline - now > self._settings.least_attempt_seconds
        failed = FailedAttempt(
            reason=reason,
            broke=broke,
            resent=routed.resent,
            retried=routed.retried,
            another_replica=other is not None,
            same_replica=same is not None,
            time_left=time_left,
            on_default=on_default,
            default_has_room=reason is not FailureReason.OVERLOAD or has_room(default),
        )
        step = next_step(failed)
        if step is NextStep.RETRY and not self.spend_retry():
            step = NextStep.FAIL if on_default else NextStep.FALLBACK
        replica = other or same
        if step is NextStep.RESEND and replica is not None:
            routed.resent = True
            self.enqueue(routed, pool, replica, now)
        elif step is NextStep.RETRY and replica is not None:
            routed.retried = True
            self.enqueue(routed, pool, replica, now)
        elif step is NextStep.FALLBACK:
            self.fall_back(routed, default, reason, now)
        else:
            code = final_status(reason, time_left=time_left)
            text = f"version {pool.version} failed ({reason.value}), and no other replica or version can answer"
            if said is not None and time_left:
                code, text = said
            self.fail(routed, code, text, failure=reason)

    def spend_retry(self) -> bool:
        """Whether the budget has one more retry, which is counted then."""
        allowed = self.budget.spend()
        self._metrics.retries += allowed
        return allowed

    def fall_back(self, routed: RoutedCall, default: Pool, reason: FailureReason, now: float) -> None:
        """Lets the default version answer, and says so in the log."""
        self.note_fallback(routed, reason)
        routed.resent = routed.retried = False
        replica = default.picker.pick(now)
        if replica is None:
            self.after_failure(routed, default, default.unavailable_reason, broke=False)
        else:
            self.enqueue(routed, default, replica, now)

    def note_fallback(self, routed: RoutedCall, reason: FailureReason) -> None:
        """Counts that another answers than was assigned, and has the log say so."""
        routed.fallback = reason
        fallbacks = routed.snapshot.routes[routed.arm.index].stats.fallbacks
        fallbacks[reason.value] = fallbacks.get(reason.value, 0) + 1

    def fail(
        self,
        routed: RoutedCall,
        code: Code,
        text: str,
        pushback_ms: int = PUSHBACK_MS,
        *,
        failure: FailureReason | None = None,
    ) -> None:
        """Ends the call with an error, counts it and logs it. RESOURCE_EXHAUSTED carries the pushback.

        What one of two versions was asked ends without an answer to the caller: the other may have one.

        failure: Of the version asked last; None where none is to blame.
        """
        routed.done = True
        if isinstance(routed, TeamCall):
            routed.pair.on_lost(routed, code, text, failure)
            return
        routed.call.fail(code, text, pushback_ms=pushback_ms if code is Code.RESOURCE_EXHAUSTED else None)
        self._records.failed(routed, code, failure)


def has_room(pool: Pool) -> bool:
    """Whether one of its replicas could take a call without making it wait too long."""
    return any(replica.queue.expected_wait < MAX_WAIT_SECONDS for replica in pool.available)
