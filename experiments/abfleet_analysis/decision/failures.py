"""What became of a call, by the words of its line: the one table that databases and the autopilot go by.

The assigned version's own reason goes before the status. Older lines have it only where there was a fallback, and of
the default version there is none: they do not say why it failed once an attempt was made, which is AMBIGUOUS. A call
that was never sent, because its time was up or the router failed, is nobody's failure, unless no version was there to
ask.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from abfleet_analysis.decision.metrics import FAILURES, TIMED_STATUSES, Failure


@dataclass(frozen=True, slots=True)
class FailureRule:
    """One row of the table.

    Attributes:
        causes: What the line says of the assigned version, "" for nothing; None: whatever it says.
        statuses: None: any.
        unsent: Whether only calls that no worker was asked about.
    """

    failure: Failure
    causes: tuple[str, ...] | None = ("",)
    statuses: tuple[str, ...] | None = None
    unsent: bool = False


CERTAIN: Final = tuple(cause for cause, failure in FAILURES.items() if failure is not Failure.LATE)
"""Causes of which it does not matter whether the call was sent."""
NOT_SENT: Final = ("DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN")
"""Statuses that say nothing of a version where the call was not sent."""
FAILURE_RULES: Final = (
    *(FailureRule(FAILURES[cause], (cause,)) for cause in CERTAIN),
    FailureRule(Failure.NONE, None, NOT_SENT, unsent=True),
    *(FailureRule(failure, (cause,)) for cause, failure in FAILURES.items() if cause not in CERTAIN),
    FailureRule(Failure.WRONG, statuses=("INTERNAL", "UNKNOWN")),
    FailureRule(Failure.LATE, statuses=("DEADLINE_EXCEEDED",)),
    FailureRule(Failure.ABSENT, statuses=("UNAVAILABLE",), unsent=True),
    FailureRule(Failure.AMBIGUOUS, statuses=("UNAVAILABLE",)),
)
"""The first that fits; none: no failure."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """What the words of one call say.

    Attributes:
        own: Whether the assigned version has answered. timed: Whether the response time says something of it.
    """

    failure: Failure
    own: bool
    timed: bool


@lru_cache(maxsize=4096)
def call_result(status: str | None, fallback: str | None, failure: str | None, *, sent: bool) -> CallResult:
    """The result of a call with these words in its line; sent: Whether a worker was asked about it."""
    plain = "OK" if status is None else status
    cause = failure or fallback or ""
    nobodys = not sent and plain in NOT_SENT and cause not in CERTAIN
    found = next((rule.failure for rule in FAILURE_RULES if _fits(rule, plain, cause, sent=sent)), Failure.NONE)
    return CallResult(found, plain == "OK" and fallback is None, plain in TIMED_STATUSES and not nobodys)


def _fits(rule: FailureRule, status: str, cause: str, *, sent: bool) -> bool:
    return (
        (rule.causes is None or cause in rule.causes)
        and (rule.statuses is None or status in rule.statuses)
        and not (rule.unsent and sent)
    )
