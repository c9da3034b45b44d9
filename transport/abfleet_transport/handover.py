"""Hands calls from the thread that receives them to an event loop, and bounds what waits between the two.

Knows counts and bytes, nothing of what a call means. A loop that falls behind has its calls wait in front of it, where
nothing that runs on the loop can refuse them: so they are refused here, by the thread that received them.
"""

from asyncio import AbstractEventLoop
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from abfleet_transport.call import Call, Cancelled, Code, Deliver

MAX_CALLS = 8192
"""Twice what may wait behind the loop: at some 50 µs to refuse a call there, half a second."""
MAX_BYTES = 64 * 1024 * 1024
PUSHBACK_MS = 200
REFUSAL = "overloaded: too many calls wait to be read; try again later"


class Handover:
    """`deliver` and `cancelled` for the receiving thread; what they are given is taken on the loop.

    Each count is changed by one thread alone: what came and what was refused by the receiving thread, what was taken by
    the loop. The difference may be a moment old, never wrong by more than the calls of that moment.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        take: Deliver,
        gone: Cancelled,
        *,
        max_calls: int = MAX_CALLS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """`take` and `gone` run on the loop."""
        self._loop = loop
        self._take = take
        self._gone = gone
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._came_calls = self._came_bytes = 0  # changed only by the receiving thread
        self._taken_calls = self._taken_bytes = 0  # changed only on the loop
        self.refused = 0  # changed only by the receiving thread

    @property
    def waiting_calls(self) -> int:
        """Calls that have been received and not been taken."""
        return self._came_calls - self._taken_calls

    @property
    def waiting_bytes(self) -> int:
        """Their messages."""
        return self._came_bytes - self._taken_bytes

    def deliver(self, calls: list[Call]) -> None:
        """Posts the calls for which there is room, and refuses the others at once."""
        size = sum([len(call.payload) for call in calls])
        if self.waiting_calls + len(calls) > self._max_calls or self.waiting_bytes + size > self._max_bytes:
            calls = self._fitting(calls)
            if not calls:
                return
            size = sum([len(call.payload) for call in calls])
        self._came_calls += len(calls)
        self._came_bytes += size
        self._loop.call_soon_threadsafe(self._on_loop, calls, size)

    def _fitting(self, calls: list[Call]) -> list[Call]:
        """The first ones that fit; the others are answered."""
        free_calls, free_bytes = self._max_calls - self.waiting_calls, self._max_bytes - self.waiting_bytes
        fitting: list[Call] = []
        for call in calls:
            if len(fitting) < free_calls and len(call.payload) <= free_bytes:
                free_bytes -= len(call.payload)
                fitting.append(call)
            else:
                self.refused += 1
                call.fail(Code.RESOURCE_EXHAUSTED, REFUSAL, pushback_ms=PUSHBACK_MS)
        return fitting

    def _on_loop(self, calls: list[Call], size: int) -> None:
        self._taken_calls += len(calls)
        self._taken_bytes += size
        self._take(calls)

    def cancelled(self, call: Call) -> None:
        """The caller of a call that was delivered has gone."""
        self._loop.call_soon_threadsafe(self._gone, call)

    def families(self) -> Iterable[Metric]:
        """What waits, and what was refused before it was read."""
        yield GaugeMetricFamily(
            "abfleet_unread_calls", "Calls received that the event loop has not taken yet.", value=self.waiting_calls
        )
        yield CounterMetricFamily(
            "abfleet_refused_unread",
            "Calls refused before they were read: not assigned, and not in the decision log.",
            value=self.refused,
        )
