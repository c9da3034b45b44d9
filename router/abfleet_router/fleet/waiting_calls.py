"""Calls that wait to be sent: those of one queue, and the sum of all queues of a router."""

import math
from collections import deque
from typing import Generic

from abfleet_router.fleet.batch import C, Hop


class Backlog:
    """What waits in all queues of a router, in calls and in bytes of their requests. Changed only by the queues."""

    __slots__ = ("bytes", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self.bytes = 0


class WaitingCalls(Generic[C]):
    """The calls that wait in one queue, in the order in which they came; all of them count in the backlog."""

    __slots__ = ("_backlog", "calls")

    def __init__(self, backlog: Backlog) -> None:
        self.calls: deque[C] = deque()
        """One that is done stays until it is passed over. Changed only here."""
        self._backlog = backlog

    def append(self, routed: C) -> None:
        """Puts a call at the end."""
        self.calls.append(routed)
        self._backlog.calls += 1
        self._backlog.bytes += len(routed.call.payload)

    def forget(self, routed: C) -> None:
        """A call waits no more; it is passed over once it is `done`."""
        self._backlog.calls -= 1
        self._backlog.bytes -= len(routed.call.payload)

    def take(self, most: int, now: float, *, one_by_one: bool = False) -> tuple[list[C], list[C]]:
        """Takes out (at most so many that can be sent together, what has no time left).

        What is sent together is of one hop and within its bytes; with `one_by_one`, of a hop that has calls alone, one.
        """
        waiting, backlog = self.calls, self._backlog
        calls: list[C] = []
        expired: list[C] = []
        hop: Hop | None = None
        room = taken = 0  # bytes; without a bound there is no room to keep to
        while waiting and len(calls) < most:
            routed = waiting.popleft()
            if routed.done:
                continue
            size = len(routed.call.payload)
            if routed.attempt_until <= now:
                expired.append(routed)
            else:
                taken += size
                if routed.hop is not hop:
                    if hop is None:
                        hop = routed.hop
                        room = hop.most_bytes
                        if one_by_one and hop.alone:
                            most = 1
                    else:
                        waiting.appendleft(routed)
                        break
                elif taken > room > 0:
                    waiting.appendleft(routed)
                    break
                calls.append(routed)
            backlog.calls -= 1
            backlog.bytes -= size
        return calls, expired

    def take_expired(self, now: float) -> tuple[list[C], float]:
        """Takes out what has no time left; also gives when that is so of the next one, inf where none waits."""
        live = [routed for routed in self.calls if not routed.done]
        expired = [routed for routed in live if routed.attempt_until <= now]
        self.calls = deque(routed for routed in live if routed.attempt_until > now)
        due = min((routed.attempt_until for routed in self.calls), default=math.inf)
        for routed in expired:
            self.forget(routed)
        return expired, due

    def take_all(self) -> list[C]:
        """Takes out every call that is not done."""
        calls = [routed for routed in self.calls if not routed.done]
        self.calls.clear()
        for routed in calls:
            self.forget(routed)
        return calls
