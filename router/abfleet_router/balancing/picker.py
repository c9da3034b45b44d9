"""The replicas of a version that may get calls, and which of them takes the next one."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from abfleet_router.balancing.balance import BurstPicker, Loaded, pick, slow_start_factor

SLOW_START_SECONDS = 3.0
"""A worker warms its model up before it serves; what is left are cold caches, a processor that idled, and the doubt
about a replica that was out. That is over in a second or two, and each second more leaves the load on the others."""


class OfferedReplica(Loaded, Protocol):
    """A replica that may get calls."""

    in_since: float
    """When it was last let in, in seconds of the picker's clock; changed only by Picker."""


R = TypeVar("R", bound=OfferedReplica)


class Picker(Generic[R]):
    """`available` is kept up to date by whoever knows the replicas, so that a pick reads a list."""

    def __init__(
        self,
        clock: Callable[[], float],
        draw: Callable[[], float],
        *,
        slow_start_seconds: float = SLOW_START_SECONDS,
    ) -> None:
        self.available: list[R] = []
        self._clock = clock
        self._draw = draw
        self._bursts: BurstPicker[R] = BurstPicker(draw)
        self.learn = self._bursts.learn
        self._slow_start_seconds = slow_start_seconds
        self._full_share_at = float("-inf")  # when every replica that is in has its full share

    def offer(self, candidates: list[R]) -> None:
        """These may get calls from now on; those that are new get their full share after a while."""
        now = self._clock()
        self._bursts.forget()
        for replica in candidates:
            if replica not in self.available:
                replica.in_since = now
                self._full_share_at = now + self._slow_start_seconds
        self.available = candidates

    def pick(self, turn: float) -> R | None:
        """The replica for a call, or None when nobody is in; the calls of a burst share a `turn`."""
        if turn < self._full_share_at:
            return self._bursts.pick(self.available, turn, self._slow_start_factor)
        return self._bursts.pick(self.available, turn)

    def pick_other(self, than: R | None) -> R | None:
        """A replica that is in and is not this one."""
        others = [replica for replica in self.available if replica is not than]
        return pick(others, self._draw, self._slow_start_factor) if others else None

    def _slow_start_factor(self, replica: R) -> float:
        return slow_start_factor(self._clock() - replica.in_since, self._slow_start_seconds)
