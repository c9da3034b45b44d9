"""What follows a failed attempt: another replica, the default version, or an error. Knows no clock, no network."""

from dataclasses import dataclass
from enum import Enum

from abfleet_transport.call import Code

from abfleet_router.fleet.failure import Reason


class Step(Enum):
    """What to do next."""

    RESEND = "resend"
    """Once more, to any replica that is in; costs no budget."""
    RETRY = "retry"
    """Once more, to another replica; costs budget."""
    FALLBACK = "fallback"
    """Ask the default version."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a decision after a failed attempt depends on."""

    reason: Reason
    connection_broke: bool
    """The worker may have died with the call; the call itself is not suspect."""
    resent: bool
    """A free resend was made already."""
    retried: bool
    """A retry on this version was made already."""
    another_replica: bool
    """The pool has a replica that is in and has not just failed this call."""
    time_left: bool
    on_default: bool
    """The version that failed is the default."""
    default_has_room: bool
    """The default can take a call without making it wait too long."""


def next_step(situation: Situation) -> Step:
    """The chain: a free resend after a broken connection, one retry elsewhere, the default version, an error.

    RETRY is subject to the budget; a caller without budget asks again with `retried` set.
    """
    if not situation.time_left:
        return Step.FAIL
    if situation.another_replica:
        if situation.connection_broke and not situation.resent:
            return Step.RESEND
        if not situation.retried and situation.reason is not Reason.OVERLOAD:
            return Step.RETRY
    if situation.reason is Reason.OVERLOAD and not situation.default_has_room:
        return Step.FAIL  # one overload must not become two
    return Step.FAIL if situation.on_default else Step.FALLBACK


def final_status(reason: Reason, *, time_left: bool) -> Code:
    """The status a caller gets when the chain has ended."""
    if not time_left:
        return Code.DEADLINE_EXCEEDED
    return Code.RESOURCE_EXHAUSTED if reason is Reason.OVERLOAD else Code.UNAVAILABLE
