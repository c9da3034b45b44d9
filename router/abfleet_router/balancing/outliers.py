"""Takes those replicas of a version out that fail, for a while, and lets them in again. Knows no connection.

On suspicion no more than half of them are out, for whatever reason; where the last that may not be taken out fails too,
the circuit of the version opens.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

import structlog

from abfleet_router.balancing.circuit import Circuit
from abfleet_router.balancing.ejection import (
    EjectionPolicy,
    EjectionRecord,
    eject,
    failed,
    is_ejected,
    is_failing,
    may_eject_on_suspicion,
    succeeded,
)

log = structlog.get_logger("abfleet.router.pool")


class Member(Protocol):
    """A replica that may be taken out."""

    @property
    def address(self) -> str: ...

    @property
    def record(self) -> EjectionRecord:
        """Changed only by Outliers."""

    def is_in(self, now: float) -> bool:
        """Whether it may get calls at `now`."""


R = TypeVar("R", bound=Member)


class Members(Protocol[R]):
    """The replicas of a version."""

    @property
    def version(self) -> str: ...

    @property
    def replicas(self) -> Collection[R]:
        """All that belong to it, those that are out included."""

    @property
    def available(self) -> Collection[R]:
        """Those that may get calls."""

    def on_ejected(self, replica: R) -> None:
        """It gets no calls from now on."""

    def refresh(self) -> None:
        """One that was ejected may get calls again."""


@dataclass(slots=True)
class EjectionCounters:
    """Changed only by Outliers; read at scrape."""

    detected: int = 0
    enforced: int = 0


class Outliers(Generic[R]):
    """Changed only on the event loop."""

    def __init__(
        self, members: Members[R], circuit: Circuit, policy: EjectionPolicy, clock: Callable[[], float]
    ) -> None:
        self.counters = EjectionCounters()
        self._members = members
        self._circuit = circuit
        self._policy = policy
        self._clock = clock

    def note_success(self, replica: R) -> None:
        """A batch came back from it."""
        record = replica.record
        if record.failures_in_a_row or record.ejections_in_a_row:
            succeeded(record)
            self._members.refresh()
        if self._circuit.close():
            log.info("version answers again", version=self._members.version)

    def note_failure(self, replica: R, reason: Enum, *, proven: bool, suspicious: bool = False, calls: int = 1) -> None:
        """`calls` of it failed. `proven`: one failure is proof. `suspicious`: one is suspicion enough."""
        now, members = self._clock(), self._members
        enough = proven or suspicious
        due = [failed(replica.record, self._policy, now, proven=enough) for _ in range(calls)]
        if not any(due):
            return
        self.counters.detected += 1
        if self._policy.detect_only:
            return
        # Those that are dead count too: half of a pool is no place for all its calls because the other half has gone.
        out = sum(not other.is_in(now) for other in members.replicas)
        if proven or may_eject_on_suspicion(len(members.replicas), out):
            self._eject(replica, reason, now)
        elif (
            all(is_failing(other.record, now) for other in members.available)
            and (seconds := self._circuit.open(now)) is not None
        ):
            log.warning(
                "no replica answers", version=members.version, reason=reason.value, circuit_seconds=round(seconds, 1)
            )

    def _eject(self, replica: R, reason: Enum, now: float) -> None:
        until = eject(replica.record, self._policy, now)
        self.counters.enforced += 1
        log.warning(
            "replica ejected",
            version=self._members.version,
            address=replica.address,
            reason=reason.value,
            seconds=round(until - now, 1),
        )
        asyncio.get_running_loop().call_later(until - now, self.readmit, replica)
        self._members.on_ejected(replica)

    def readmit(self, replica: R) -> None:
        """Its ejection ends about now; a timer of whole milliseconds may come a little early, and then comes again."""
        now, until = self._clock(), replica.record.ejected_until
        if until is not None and is_ejected(replica.record, now):
            asyncio.get_running_loop().call_later(until - now + 0.001, self.readmit, replica)
        else:
            self._members.refresh()
