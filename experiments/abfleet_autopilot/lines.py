"""What the autopilot needs of the lines of a decision log: values. Knows no file and no experiment."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from abfleet_analysis.decision.metrics import Failure

SECOND_US: Final = 1_000_000
NOT_KNOWN: Final = -1.0
"""The response time of a call whose line says nothing of it."""


class CountedCall(NamedTuple):
    """A call of a group, which counts: allocated by the split, of a known user, not synthetic.

    Attributes:
        at: Microseconds since 1970. user: A hash. latency_ms: NOT_KNOWN where it says nothing of the version.
        own: Whether the assigned version has answered.
        propensity: The group's share as the line has it; NOT_KNOWN without.
        request: A hash of the request id; 0 without one.
    """

    at: int
    router: str
    experiment: str
    group: str
    allocation: str
    user: int
    failure: Failure
    own: bool
    latency_ms: float
    propensity: float
    request: int = 0


class Allocated(NamedTuple):
    """An experiment's shares came into force at a router. weights: Group to share, 0 to 1; traffic: 0 to 100."""

    at: int
    router: str
    experiment: str
    allocation: str
    traffic: float
    weights: Mapping[str, float]
    revision: str


class Reloaded(NamedTuple):
    """A router put a revision in force, or says that it will not."""

    at: int
    router: str
    revision: str
    active: bool


class OutcomeLine(NamedTuple):
    """Somebody told a router what a user did. request: A hash of the id of the call that it belongs to; 0 without."""

    at: int
    router: str
    request: int = 0


class Other(NamedTuple):
    """Any other line: it says that its router writes."""

    at: int
    router: str


Line = CountedCall | Allocated | Reloaded | OutcomeLine | Other


def moment(at_us: int) -> datetime:
    """The instant of so many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=at_us)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
