"""Puts the lines of several files into one order: by time, file and number. Knows what lines are, and no clock.

A line waits until nothing earlier is to be expected, PATIENCE_US after its time. One that comes later than that is
counted and left out: what has been concluded stands.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
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

    __slots__ = ("_lines", "_sorted", "_taken", "late")

    def __init__(self) -> None:
        # A list that is nearly in order is sorted in less time than a heap takes for it.
        self._lines: list[tuple[int, str, int, Line]] = []
        self._sorted = True
        self._taken = (0, "", 0)
        self.late = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, file: str, number: int, line: Line) -> None:
        """A line of a file; its number in it makes it the only one of this key."""
        at = line.at
        if at <= self._taken[0] and (at, file, number) < self._taken:
            self.late += 1
        else:
            self._lines.append((at, file, number, line))
            self._sorted = False

    def add_all(self, file: str, first: int, lines: Sequence[Line]) -> None:
        """Lines of a file that follow each other, the first with this number."""
        if min((line[0] for line in lines), default=0) <= self._taken[0]:
            for number, line in enumerate(lines, first):
                self.add(file, number, line)
            return
        self._lines += [(line[0], file, number, line) for number, line in enumerate(lines, first)]
        self._sorted = False

    def until(self, bound: int) -> Iterator[Line]:
        """Takes the lines whose time is not after the bound, in order."""
        lines = self._lines
        if not self._sorted:
            lines.sort()
            self._sorted = True
        end = max(bisect_right(lines, bound, key=_time), len(lines) - MOST_WAITING)
        if not end:
            return
        taken = lines[:end]
        del lines[:end]
        self._taken = taken[-1][:3]
        for one in taken:
            yield one[3]


def _time(one: tuple[int, str, int, Line]) -> int:
    return one[0]
