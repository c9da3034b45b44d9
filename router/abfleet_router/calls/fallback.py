"""What follows a failed attempt: another replica, the default version, or an error. Knows no clock, no network."""

from dataclasses import dataclass
from enum import Enum

from abfleet_transport.call import Code

from abfleet_router.fleet.failure import FailureReason


class NextStep(Enum):
    """What to do with a call whose attempt failed."""

    RESEND = "resend"
    """Once more, to another replica, or to the same one where it is the only one; costs no budget."""
    RETRY = "retry"
    """Once more, to another replica, or to the only one of the default version; costs budget."""
    FALLBACK = "fallback"
    """Send it to the default version; the log gets the reason."""
    FAIL = "fail"
    """End it with `final_status`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """What a decision after a failed attempt depends on."""

    reason: FailureReason
    broke: bool
    """The connection or the stream ended without an answer; the call itself is not suspect."""
    resent: bool
    """A free resend was made already."""
    retried: bool
    """A retry on this version was made already."""
    another_replica: bool
    """The pool has a replica that is in and has not just failed this call."""
    same_replica: bool
    """Nobody else is in, and the one that failed the whole batch still is and may do better."""
    time_left: bool
    on_default: bool
    """The version that failed is the default."""
    default_has_room: bool
    """The default can take a call without making it wait too long."""


def next_step(failed: FailedAttempt) -> NextStep:
    """The chain: a free resend after a break, one retry elsewhere, the default version, an error.

    RETRY is subject to the budget; a caller without budget asks again with `retried` set.
    """
    if not failed.time_left:
        return NextStep.FAIL
    if failed.broke and not failed.resent and (failed.another_replica or failed.same_replica):
        return NextStep.RESEND
    somebody = failed.another_replica or (failed.same_replica and failed.on_default)
    if somebody and not failed.retried and failed.reason is not FailureReason.OVERLOAD:
        return NextStep.RETRY
    if failed.reason is FailureReason.OVERLOAD and not failed.default_has_room:
        return NextStep.FAIL  # one overload must not become two
    return NextStep.FAIL if failed.on_default else NextStep.FALLBACK


def final_status(reason: FailureReason, *, time_left: bool) -> Code:
    """The status a caller gets when the chain has ended."""
    if not time_left:
        return Code.DEADLINE_EXCEEDED
    return Code.RESOURCE_EXHAUSTED if reason is FailureReason.OVERLOAD else Code.UNAVAILABLE
