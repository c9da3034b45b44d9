"""How often each caller may call: a token bucket for each. The time is an argument."""

from collections import OrderedDict
from dataclasses import dataclass

MOST_CALLERS = 10_000
"""Callers remembered, about 2 MB. Past it the one that has not called for the longest is forgotten, and begins anew."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many calls one caller may make."""

    calls_per_second: float
    burst: float
    """Calls that it may make at once after a pause."""


class RateLimit:
    """Changed only on the event loop, by `wait`."""

    def __init__(self, rate: Rate, most_callers: int = MOST_CALLERS) -> None:
        self._interval = 1.0 / rate.calls_per_second
        self._slack = (rate.burst - 1.0) / rate.calls_per_second
        self._most_callers = most_callers
        self._free_at: OrderedDict[str, float] = OrderedDict()  # oldest call first

    def __len__(self) -> int:
        return len(self._free_at)

    def wait(self, caller: str, now: float) -> float:
        """0.0 when the caller may call now, and then it has; else the seconds until it may.

        The generic cell rate algorithm (ITU-T I.371): a bucket needs one number, the time at which it is full again.
        A call moves it on by an interval; it may be ahead of now by burst - 1 intervals.
        """
        free_at = self._free_at
        at = max(free_at.get(caller, now), now)
        if (early := at - now - self._slack) > 1e-9:  # sums of intervals are not exact
            return early
        free_at[caller] = at + self._interval
        free_at.move_to_end(caller)
        if len(free_at) > self._most_callers:
            free_at.popitem(last=False)
        return 0.0


def host_of(peer: str) -> str:
    """The caller's address without its port, which is another for each connection."""
    return peer.rpartition(":")[0] or peer
