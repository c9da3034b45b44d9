"""Who may be compared with whom when shares change.

Users are compared inside an allocation, a period with one set of shares. When a later allocation gives a bucket to
another group, the bucket is left out whole from the earlier ones, whether or not its users came back: leaving out only
those who did would take the frequent visitors from one group. A user whose window had closed before the move stays; so
that both groups keep the same kind of users then, those who came early enough for that are a stratum of their own.

A cell is the users of one allocation, one fate of their bucket and one span of first exposures. Each moment has its own
strata, made of the cells that count then, and knows no move that comes after it: what a look says never changes later.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from abfleet_experiments.bucketing import BUCKETS
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray

UNKNOWN: Final = -1
MAX_RUNS: Final = 64
"""A split made of more runs than this is no ramp of ours; what was not seen of it is not guessed."""


@dataclass(frozen=True, slots=True)
class AllocationPeriod:
    """One allocation as the log shows it.

    Attributes:
        weights: float64[groups], shares in force, 0 to 1.
        salt: None where the log does not say; then it is taken to be the same as before.
        buckets: int[10000], the group of each, UNKNOWN where nobody knows.
    """

    id: str
    begin: datetime
    weights: Floats
    salt: str | None
    buckets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cell:
    """Users who are kept or left out as one.

    Attributes:
        period: Index of the allocation.
        fate: Index among the moves of the period's buckets; UNKNOWN if these buckets stay.
        span: How many moves the user's window could not close before.
    """

    period: int
    fate: int
    span: int


@dataclass(frozen=True, slots=True)
class Cells:
    """All cells of an experiment.

    Attributes:
        moves: For each period, the later periods that take buckets from its groups, ascending.
        fates: int[periods, 10000], the fate of each bucket: an index into the period's moves, or UNKNOWN if it stays.
    """

    periods: tuple[AllocationPeriod, ...]
    window: timedelta
    cells: tuple[Cell, ...]
    moves: tuple[tuple[int, ...], ...]
    fates: NDArray[np.int64]

    def limits(self, period: int) -> tuple[datetime, ...]:
        """First exposures before these instants have a window that closed before the move, for each move."""
        return tuple(self.periods[move].begin - self.window for move in self.moves[period])

    def known(self, period: int, at: datetime) -> int:
        """How many of a period's moves have happened."""
        return sum(self.periods[move].begin <= at for move in self.moves[period])


def observed_buckets(
    buckets: NDArray[np.int64], groups: NDArray[np.int64], weights: Floats | None = None
) -> NDArray[np.int64]:
    """The group of each of the 10,000 buckets, from those that were seen: int[10000].

    weights: float64[groups], the shares in force; None if nobody knows.
    A bucket that nobody fell into takes the group of its neighbours if both agree: the split is made of few runs. Where
    they do not, the shares say where one run ends and the next one begins, if the run is the group's only one that
    ends among unseen buckets. What they do not say, or a split of many runs, is not guessed: a wrong guess would take
    a bucket that stayed for one that moved, and leave out its users.
    """
    table = np.full(BUCKETS, UNKNOWN, dtype=np.int64)
    table[buckets] = groups
    seen = np.flatnonzero(table != UNKNOWN)
    if not len(seen) or np.count_nonzero(np.diff(table[seen])) >= MAX_RUNS:
        return table
    place = np.searchsorted(seen, np.arange(BUCKETS), side="right")
    below = table[seen[np.maximum(place - 1, 0)]]
    above = table[seen[np.minimum(place, len(seen) - 1)]]
    table = np.where((table == UNKNOWN) & (below == above), below, table)
    if weights is not None:
        while _end_a_run(table, np.rint(weights * BUCKETS).astype(np.int64)):
            pass
    return table


def _end_a_run(table: NDArray[np.int64], sizes: NDArray[np.int64]) -> bool:
    """Gives the unseen buckets between two runs to them, if the size of one of the groups says how many; whether any
    were given. Changes the table."""
    edges = np.flatnonzero(np.diff(table == UNKNOWN, prepend=False, append=False)).reshape(-1, 2)
    gaps = [(begin, end, int(table[begin - 1]), int(table[end])) for begin, end in edges.tolist()]
    beside = Counter(group for gap in gaps for group in gap[2:])
    for begin, end, low, high in gaps:
        for group in (low, high):
            missing = int(sizes[group]) - int(np.count_nonzero(table == group))
            if beside[group] == 1 and 0 <= missing <= end - begin:
                border = begin + missing if group == low else end - missing
                table[begin:border] = low
                table[border:end] = high
                return True
    return False


def divide(periods: Sequence[AllocationPeriod], window: timedelta) -> Cells:
    """The cells of an experiment whose allocations began in this order."""
    fates = np.full((len(periods), BUCKETS), UNKNOWN, dtype=np.int64)
    all_moves: list[tuple[int, ...]] = []
    cells: list[Cell] = []
    for index, period in enumerate(periods):
        first_move = np.full(BUCKETS, UNKNOWN, dtype=np.int64)
        for later in range(len(periods) - 1, index, -1):
            if _same_salt(periods[index : later + 1]):
                there = periods[later].buckets
                first_move[(there != UNKNOWN) & (period.buckets != UNKNOWN) & (there != period.buckets)] = later
        moves = tuple(int(move) for move in np.unique(first_move[first_move != UNKNOWN]))
        for fate, move in enumerate(moves):
            fates[index, first_move == move] = fate
        all_moves.append(moves)
        cells += [Cell(index, fate, span) for fate in range(UNKNOWN, len(moves)) for span in range(len(moves) + 1)]
    return Cells(tuple(periods), window, tuple(cells), tuple(all_moves), fates)


def membership(cells: Cells, times: Sequence[datetime]) -> Floats:
    """Which cell is in which stratum at each time: float64[times, strata, cells], 0 or 1.

    There are as many strata as cells whose buckets stay: one for each period and span.
    """
    strata = {(cell.period, cell.span): index for index, cell in enumerate(_staying(cells))}
    result = np.zeros((len(times), len(strata), len(cells.cells)))
    for time, at in enumerate(times):
        for index, cell in enumerate(cells.cells):
            known = cells.known(cell.period, at)
            if not _left_out(cell, known):
                result[time, strata[cell.period, min(cell.span, known)], index] = 1
    return result


def expected_shares(cells: Cells, times: Sequence[datetime]) -> Floats:
    """The groups' shares among the buckets that count: float64[times, strata, groups].

    Sums to 1 for a stratum whose buckets all count, to less where some are left out.
    """
    groups = len(cells.periods[0].weights)
    staying = _staying(cells)
    result = np.zeros((len(times), len(staying), groups))
    for time, at in enumerate(times):
        for stratum, cell in enumerate(staying):
            known = cells.known(cell.period, at)
            if cell.span <= known:
                fates = range(UNKNOWN, len(cells.moves[cell.period]))
                counted = [f for f in fates if not _left_out(Cell(cell.period, f, cell.span), known)]
                result[time, stratum] = _share(cells, cell.period, counted, groups)
    return result


def left_out(cells: Cells, at: datetime) -> NDArray[np.bool_]:
    """Which cells do not count any more at an instant, because their buckets have moved: bool[cells]."""
    return np.array([_left_out(cell, cells.known(cell.period, at)) for cell in cells.cells], dtype=bool)


def in_newest(cells: Cells, users: Floats) -> Floats:
    """How many of `users`, float64[cells, groups], are in the newest allocation: float64[groups]."""
    newest = [cell.period == len(cells.periods) - 1 for cell in cells.cells]
    return np.asarray(users[newest].sum(axis=0))


def _staying(cells: Cells) -> list[Cell]:
    return [cell for cell in cells.cells if cell.fate == UNKNOWN]


def _left_out(cell: Cell, moves_so_far: int) -> bool:
    return cell.fate != UNKNOWN and cell.fate < moves_so_far and cell.span > cell.fate


def _share(cells: Cells, period: int, fates: list[int], groups: int) -> Floats:
    """The part of all users that each group has in the buckets of these fates: float64[groups]."""
    buckets = cells.periods[period].buckets
    counted = np.isin(cells.fates[period], fates)
    result = np.zeros(groups)
    for group in range(groups):
        mine = buckets == group
        part = float((mine & counted).sum() / mine.sum()) if mine.any() else 1.0
        result[group] = cells.periods[period].weights[group] * part
    return result


def _same_salt(periods: Sequence[AllocationPeriod]) -> bool:
    return len({period.salt for period in periods if period.salt is not None}) <= 1
