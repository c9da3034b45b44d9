"""What follows a failed attempt: the whole table, and what a chain of steps can cost at most."""

from dataclasses import replace
from itertools import product

from abfleet_log.schema import FALLBACKS
from abfleet_router.calls.fallback import FailedAttempt, NextStep, final_status, next_step
from abfleet_router.fleet.failure import FailureReason
from abfleet_transport.call import Code

FLAGS = (
    "broke",
    "resent",
    "retried",
    "another_replica",
    "same_replica",
    "time_left",
    "on_default",
    "default_has_room",
)
SITUATIONS = [
    FailedAttempt(reason=reason, **dict(zip(FLAGS, flags, strict=True)))
    for reason in FailureReason
    for flags in product([False, True], repeat=len(FLAGS))
]


def wanted(one: FailedAttempt) -> NextStep:
    """The table as the documentation tells it, written the other way round: what each step needs."""
    free = one.broke and not one.resent
    if one.time_left and (one.another_replica or one.same_replica) and free:
        return NextStep.RESEND
    somebody = one.another_replica or (one.same_replica and one.on_default)
    if one.time_left and somebody and not one.retried and one.reason is not FailureReason.OVERLOAD:
        return NextStep.RETRY
    if one.time_left and not one.on_default and (one.default_has_room or one.reason is not FailureReason.OVERLOAD):
        return NextStep.FALLBACK
    return NextStep.FAIL


def test_the_whole_table() -> None:
    """Each of the 1,280 situations has the step that the documentation promises."""
    assert len(SITUATIONS) == 1280
    assert [one for one in SITUATIONS if next_step(one) is not wanted(one)] == []


def test_no_chain_is_endless() -> None:
    """Whatever goes wrong with each attempt: at most a resend and a retry on each of two versions, six attempts."""

    def longest(attempts: int, *, resent: bool, retried: bool, on_default: bool) -> int:
        most = attempts
        for reason, broke in product(FailureReason, [False, True]):
            situation = FailedAttempt(
                reason=reason,
                broke=broke,
                resent=resent,
                retried=retried,
                another_replica=True,
                same_replica=True,
                time_left=True,
                on_default=on_default,
                default_has_room=True,
            )
            match next_step(situation):
                case NextStep.RESEND:
                    ends = longest(attempts + 1, resent=True, retried=retried, on_default=on_default)
                case NextStep.RETRY:
                    ends = longest(attempts + 1, resent=resent, retried=True, on_default=on_default)
                case NextStep.FALLBACK:
                    ends = longest(attempts + 1, resent=False, retried=False, on_default=True)
                case NextStep.FAIL:
                    ends = attempts
            most = max(most, ends)
        return most

    assert longest(1, resent=False, retried=False, on_default=False) == 6


def test_an_overloaded_version_is_not_asked_again() -> None:
    """A retry after an overload would add to it; only a call whose connection broke goes to a neighbour."""
    overloaded = [replace(one, reason=FailureReason.OVERLOAD, broke=False) for one in SITUATIONS]
    assert {next_step(one) for one in overloaded} == {NextStep.FALLBACK, NextStep.FAIL}
    crowded = [replace(one, default_has_room=False) for one in overloaded]
    assert {next_step(one) for one in crowded} == {NextStep.FAIL}, "nor does it spill over into a default without room"


def test_final_status() -> None:
    """No time: DEADLINE_EXCEEDED. Overload: RESOURCE_EXHAUSTED, so that callers hold back. All else: UNAVAILABLE."""
    for reason in FailureReason:
        assert final_status(reason, time_left=False) is Code.DEADLINE_EXCEEDED
    with_time = {reason: final_status(reason, time_left=True) for reason in FailureReason}
    assert with_time.pop(FailureReason.OVERLOAD) is Code.RESOURCE_EXHAUSTED
    assert set(with_time.values()) == {Code.UNAVAILABLE}


def test_reasons_are_those_of_the_log() -> None:
    """What the decision log says in `fallback` is what its schema allows, no more and no less."""
    assert {reason.value for reason in FailureReason} == set(FALLBACKS)
