"""When a version was not there, and whether that is more often than control. Knows unanswered calls, not their cause.

An outage gives all who call meanwhile a failure of one cause: it counts once, however many they are. It is counted at
its first call, at most once in 600 s, so one that lasts is counted again each 600 s. Where outages of both groups are
counted within 60 s of each other something else has failed, and they count for nobody; so a count waits 60 s.

Of outages that count, x = 1 if one is the treatment's, with the share p = max(1/2, o / (1 + o)) for equal versions:

    o = replicas of the treatment / replicas of control x max(1, share of the treatment / share of control)

since each replica fails by itself, and who has more calls sees more of the short outages. E_B is guardrails.py's with
that share. One of three replicas is out once a day, all three hardly ever, so that what control's redundancy hides
would be held against a treatment with one. Hence a tolerated rate, a = 1 a day or what the file says, beside it: with N
outages of the treatment in t days

    E_rate = mean over R of R^N exp(-(R - 1) a t)

is a supermartingale if they are a day at most (Poisson). The smaller of both is false in at most alpha if either holds.

Around an outage, 60 s before and after, timeouts and slow answers of both groups say nothing of the version.
Times are microseconds since 1970.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics import guardrails
from abfleet_statistics.guardrails import Floats

Times = NDArray[np.int64]
SECOND: Final = 1_000_000
GAP_US: Final = 60 * SECOND
"""Unanswered calls no further apart are one outage: longer than a restart, with ejection's back-off and probing."""
AGAIN_US: Final = 600 * SECOND
"""From one counted outage of a group to its next."""
NEAR_US: Final = 60 * SECOND
"""Counted outages of two groups so near are shared; timeouts and slow answers so near to one do not count."""
DAY_US: Final = 86_400 * SECOND
TOLERATED_A_DAY: Final = 1.0
"""Outages of a treatment that are nobody's concern, where the file says nothing. A policy, not a law of nature."""
RATE_BETS: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Outage:
    """A run of unanswered calls. Changed only by GroupOutages.

    Attributes:
        calls: Those that were not answered. counted: When it was counted; empty if too soon after another.
    """

    begin: int
    end: int
    calls: int
    counted: list[int] = field(default_factory=list)


class GroupOutages:
    """The outages of one group as they come. Changed only by `see`."""

    __slots__ = ("_last", "outages")

    def __init__(self) -> None:
        self.outages: list[Outage] = []
        self._last: int | None = None

    def see(self, begin: int, end: int, calls: int = 1) -> bool:
        """Calls from one moment to another, of which none was answered, in order of time; whether that is counted."""
        if not self.outages or begin - self.outages[-1].end > GAP_US:
            self.outages.append(Outage(begin, begin, 0))
        outage = self.outages[-1]
        outage.end, outage.calls = max(outage.end, end), outage.calls + calls
        if self._last is not None and begin - self._last < AGAIN_US:
            return False
        self._last = begin
        outage.counted.append(begin)
        return True

    def counted(self) -> Times:
        """When outages were counted: int64[counted], ascending."""
        return np.array([at for outage in self.outages for at in outage.counted], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class CountedOutages:
    """Those of a treatment and of control in order of time.

    Attributes:
        at: int64[counted], when they began or were counted again. known: int64[counted], when that is certain.
        of_treatment: bool[counted]. shared: bool[counted], whether the other group had one near to it.
    """

    at: Times
    known: Times
    of_treatment: NDArray[np.bool_]
    shared: NDArray[np.bool_]


def counted_of_both(treatment: GroupOutages, control: GroupOutages, until: int) -> CountedOutages:
    """The counted outages of two groups that are certain at a moment, NEAR_US after each."""
    times = [group.counted() for group in (treatment, control)]
    shared = np.concatenate([near(times[0], times[1]), near(times[1], times[0])])
    at = np.concatenate(times)
    of_treatment = np.repeat([True, False], [len(one) for one in times])
    order = np.argsort(at, kind="stable")
    order = order[at[order] + NEAR_US <= until]
    return CountedOutages(at[order], at[order] + NEAR_US, of_treatment[order], shared[order])


def near(times: Times, others: Times) -> NDArray[np.bool_]:
    """Of each time whether one of the others, which ascend, is within NEAR_US: bool[times]."""
    return np.searchsorted(others, times - NEAR_US, side="left") < np.searchsorted(
        others, times + NEAR_US, side="right"
    )


def spans_around(begin: Times, end: Times) -> Times:
    """The times within NEAR_US of any of these spans, as spans that do not touch: int64[spans, 2], both included."""
    if not len(begin):
        return np.zeros((0, 2), dtype=np.int64)
    order = np.argsort(begin, kind="stable")
    low, high = begin[order] - NEAR_US, np.maximum.accumulate(end[order] + NEAR_US)
    starts = np.flatnonzero(np.concatenate([[True], low[1:] > high[:-1]]))
    return np.stack([low[starts], high[np.append(starts[1:], len(low)) - 1]], axis=1)


def equal_share(replicas: tuple[int, int] | None, treatment: Floats, control: Floats) -> Floats:
    """The part of counted outages that is a treatment's if its version is as good as control's.

    replicas: Of the treatment and of control; None, as equal, where nobody knows. treatment, control: Shares of users.
    """
    odds = (1.0 if replicas is None else replicas[0] / replicas[1]) * np.maximum(1.0, treatment / control)
    return np.maximum(0.5, odds / (1 + odds))


def log_e_of_outages(of_treatment: NDArray[np.bool_], share: Floats) -> Floats:
    """ln E after each counted outage, without the tolerated rate: float64[outages]; share: as of `equal_share`."""
    mine = of_treatment.astype(np.float64)
    return guardrails.log_e_process(mine, 1 - mine, share)


def log_e_of_rate(count: Floats, days: Floats, *, tolerated: float = TOLERATED_A_DAY) -> Floats:
    """ln E of a treatment having had so many counted outages in so many days: float64[moments].

    tolerated: Outages a day.
    """
    bets = np.array(RATE_BETS)[:, None]
    return guardrails.log_mean(count * np.log(bets) - (bets - 1) * tolerated * days)
