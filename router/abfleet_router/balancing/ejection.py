"""When a replica is taken out and let back in: three short routines over one record. Knows no clock, no connection.

After Envoy's outlier detection (consecutive failures, exponential ejection time) and Linkerd's failure accrual
(probation: one failure after re-admission ejects again).
"""

from dataclasses import dataclass

from abfleet_process.backoff import backoff_seconds

FORGET_SECONDS = 60.0
"""Without a call that failed or was answered: then a record says nothing of the replica as it is now, and it is treated
as a new one. Where there are calls, the longest ejection ends and is followed by the next long before that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EjectionPolicy:
    """When to eject; every time in seconds."""

    consecutive_failures: int = 5
    """Failures in a row that make a replica suspect; fewer would eject on a burst of bad luck."""
    base_seconds: float = 1.0
    """How long the first ejection lasts; doubled by each one that follows without a success between."""
    max_seconds: float = 8.0
    detect_only: bool = False
    """Count what would be ejected, and eject nothing."""


@dataclass(slots=True)
class EjectionRecord:
    """One replica's history; changed only by the functions of this module."""

    failures_in_a_row: int = 0
    failed_at: float = float("-inf")
    """When the last of them was, in seconds of the caller's clock."""
    ejections_in_a_row: int = 0
    ejected_until: float | None = None
    """In seconds of the caller's clock; None while the replica is in."""


def is_ejected(record: EjectionRecord, now: float) -> bool:
    """Whether the replica is out at this moment."""
    return record.ejected_until is not None and now < record.ejected_until


def is_forgotten(record: EjectionRecord, now: float) -> bool:
    """Whether whatever the record holds is too old to count."""
    last = record.failed_at if record.ejected_until is None else max(record.failed_at, record.ejected_until)
    return now - last > FORGET_SECONDS


def is_failing(record: EjectionRecord, now: float) -> bool:
    """Whether the last that is known is a failure, not long ago."""
    return record.failures_in_a_row > 0 and not is_forgotten(record, now)


def succeeded(record: EjectionRecord) -> None:
    """A call was answered: the replica is trusted again, and the next ejection starts from the base."""
    record.failures_in_a_row = 0
    record.failed_at = float("-inf")
    record.ejections_in_a_row = 0
    record.ejected_until = None


def failed(record: EjectionRecord, policy: EjectionPolicy, now: float, *, proven: bool) -> bool:
    """A call failed; says whether that is reason to eject.

    `proven`: one failure of this kind is enough. A replica on probation (ejected before, no success since) is ejected
    by one failure of any kind.
    """
    if is_ejected(record, now):
        return False  # calls sent before the ejection still come back
    if is_forgotten(record, now):
        succeeded(record)
    record.failures_in_a_row += 1
    record.failed_at = now
    on_probation = record.ejections_in_a_row > 0
    return proven or on_probation or record.failures_in_a_row >= policy.consecutive_failures


def eject(record: EjectionRecord, policy: EjectionPolicy, now: float) -> float:
    """Takes the replica out; returns until when."""
    if is_forgotten(record, now):
        record.ejections_in_a_row = 0
    record.ejections_in_a_row += 1
    record.failures_in_a_row = 0
    seconds = backoff_seconds(record.ejections_in_a_row, first=policy.base_seconds, most=policy.max_seconds)
    record.ejected_until = now + seconds
    return record.ejected_until


def may_eject_on_suspicion(pool_size: int, out: int) -> bool:
    """On suspicion at most half of a pool, floor(n / 2), is out: a fault that all replicas share is not theirs.

    `out`: how many are, for whatever reason.
    """
    return out < pool_size // 2
