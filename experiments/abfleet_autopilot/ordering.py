"""Puts the lines of several files into one order: by time, file and number. Knows what lines are, and no clock.

A line waits until nothing earlier is to be expected, PATIENCE_US after its time. One that comes later than that is
counted and left out: what has been concluded stands.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final

from abfleet_autopilot.lines import SECOND_US, Line

PATIENCE_US: Final = 5 * SECOND_US
MOST_WAITING: Final = 2_000_000
"""Lines that wait at most; beyond it the earliest go first, whatever may still come."""


class OrderedLines:
    """The lines that wait. Changed only by `add` and `until`.

    Attributes:
        late: How many came when later ones had been taken.
    """

    __slots__ = ("_heap", "_taken", "late")

    def __init__(self) -> None:
        self._heap: list[tuple[int, str, int, Line]] = []
        self._taken = (0, "", 0)
        self.late = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, file: str, number: int, line: Line) -> None:
        """A line of a file; its number in it makes it the only one of this key."""
        if (line.at, file, number) < self._taken:
            self.late += 1
        else:
            heappush(self._heap, (line.at, file, number, line))

    def until(self, bound: int) -> Iterator[Line]:
        """Takes the lines whose time is not after the bound, in order."""
        heap = self._heap
        while heap and (heap[0][0] <= bound or len(heap) > MOST_WAITING):
            at, file, number, line = heappop(heap)
            self._taken = (at, file, number)
            yield line
