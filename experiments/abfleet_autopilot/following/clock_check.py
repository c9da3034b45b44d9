"""Which lines have a time that cannot be right, file by file. Knows times; what is of another clock is counted.

One line that is an hour and more away from those around it is of a wrong clock. After a silence the next line is far
away too: two in a row that agree say how time goes on. Nothing is of the future.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from abfleet_autopilot.lines import SECOND_US, Line

JUMP_US: Final = 3600 * SECOND_US
AHEAD_US: Final = 60 * SECOND_US
"""Clocks of two machines are this far apart at most."""


@dataclass(slots=True)
class FileClock:
    """The clock of one file. Changed only by `agrees` and `right_ones`; `last` is None before the first line."""

    last: int | None = None
    _doubtful: list[tuple[int, Line]] = field(default_factory=list)

    def agrees(self, at: int, latest: int) -> bool:
        """Whether a time is near to the one before, as nearly all are, and nothing is doubtful; then it is the last."""
        last = self.last
        if last is None or self._doubtful or at > latest or not -JUMP_US <= at - last <= JUMP_US:
            return False
        self.last = at
        return True

    def all_agree(self, lines: Sequence[Line], latest: int) -> bool:
        """Whether `agrees` is so for all of these, one after the other; else nothing has changed."""
        last = self.last
        if last is None or self._doubtful:
            return False
        for line in lines:
            at = line[0]
            if at > latest or not -JUMP_US <= at - last <= JUMP_US:
                return False
            last = at
        self.last = last
        return True

    def right_ones(self, number: int, line: Line, latest: int, wrong: Counter[str]) -> Iterator[tuple[int, Line]]:
        """The lines that are right now that this one is known. latest: No line is later; wrong: Counts by router."""
        at = line.at
        if at > latest:
            wrong[line.router] += 1
            return
        if self.last is None or abs(at - self.last) <= JUMP_US:
            self._drop(wrong)
        elif self._doubtful and abs(at - self._doubtful[-1][1].at) <= JUMP_US:
            yield from self._doubtful
            self._doubtful.clear()
        else:
            self._drop(wrong)
            self._doubtful.append((number, line))
            return
        self.last = at
        yield number, line

    def _drop(self, wrong: Counter[str]) -> None:
        if self._doubtful:
            wrong.update(line.router for _, line in self._doubtful)
            self._doubtful.clear()
