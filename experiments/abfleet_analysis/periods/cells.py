"""Who may be compared with whom when shares change.

Users are compared inside an allocation, a period with one set of shares. When a later allocation gives a bucket to
another group, the bucket is left out whole from the earlier ones, whether or not its users came back: leaving out only
those who did would take the frequent visitors from one group. A user whose window had closed before the move stays; so
that both groups keep the same kind of users then, those who came early enough for that are a stratum of their own.

An allocation that comes back after another one, as where shares are changed and changed back, moves buckets once more,
and takes nothing back: who was known before stays left out with the bucket. Who came first after the return has seen
one group alone, and counts; so that both groups have such users alike, they are a stratum of their own, in all buckets.

A cell is the users of one part of an allocation, one fate of their bucket and one span of first exposures. Each moment
has its own strata, made of the cells that count then, and knows no move that comes after it: what a look says never
changes later.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

import numpy as np
from abfleet_experiments.bucketing import BUCKETS
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray

UNKNOWN: Final = -1
MOVED_BEFORE: Final = -2
"""The fate of a bucket whose users had been in another group before their allocation came back."""
MAX_RUNS: Final = 64
"""A split made of more runs than this is no ramp of ours; what was not seen of it is not guessed."""


@dataclass(frozen=True, slots=True)
class AllocationPeriod:
    """One allocation, from when it came into force until another did.

    Attributes:
        id: The same for each time that the allocation is in force.
        weights: float64[groups], shares in force, 0 to 1.
        salt: Equal where the users of a bucket are the same.
        buckets: int[10000], the group of each, UNKNOWN where nobody knows.
        known_since: Since when it is known whose salt is the same, and whose bucket is whose; None where it always was.
    """

    id: str
    begin: datetime
    weights: Floats
    salt: str
    buckets: NDArray[np.int64]
    known_since: datetime | None = None

    @property
    def known(self) -> datetime:
        """When its begin, its salt and its buckets were known."""
        return self.begin if self.known_since is None else max(self.begin, self.known_since)


class Newcomers(IntEnum):
    """Which users of an allocation are in a part of it."""

    EVERYBODY = -1
    KNOWN = 0
    NEW = 1


@dataclass(frozen=True, slots=True)
class Part:
    """The users who are first seen in an allocation in one of its periods.

    Attributes:
        period: Index of the period; one that is not followed by a part of its own goes on with the one before.
        who: Where buckets moved before an allocation came back, those known before and the others apart.
    """

    period: int
    who: Newcomers = Newcomers.EVERYBODY


@dataclass(frozen=True, slots=True)
class Cell:
    """Users who are kept or left out as one.

    Attributes:
        part: Index of the part.
        fate: Index among the moves of the part's buckets; UNKNOWN if these buckets stay, or MOVED_BEFORE.
        span: How many moves the user's window could not close before.
    """

    part: int
    fate: int
    span: int


@dataclass(frozen=True, slots=True)
class Cells:
    """All cells of an experiment.

    Attributes:
        periods: In order of time; an allocation may have several.
        parts: In order of their periods; without moves one for each allocation.
        moves: For each part, the later periods that take buckets from its groups, ascending.
        fates: int[parts, 10000], the fate of each bucket: an index into the part's moves, UNKNOWN if it stays, or
            MOVED_BEFORE.
    """

    periods: tuple[AllocationPeriod, ...]
    window: timedelta
    parts: tuple[Part, ...]
    cells: tuple[Cell, ...]
    moves: tuple[tuple[int, ...], ...]
    fates: NDArray[np.int64]

    def of(self, part: int) -> AllocationPeriod:
        """A part's period."""
        return self.periods[self.parts[part].period]

    def limits(self, part: int) -> tuple[datetime, ...]:
        """First exposures before these instants have a window that closed before the move, for each move."""
        return tuple(self.periods[move].begin - self.window for move in self.moves[part])

    def known(self, part: int, at: datetime) -> int:
        """How many of a part's moves are known to have happened."""
        first = self.parts[part].period
        return sum(max(one.known for one in self.periods[first : move + 1]) <= at for move in self.moves[part])


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
    """The cells of an experiment whose allocations were in force in this order, neighbours being different ones."""
    parts = _parts(periods)
    fates = np.full((len(parts), BUCKETS), UNKNOWN, dtype=np.int64)
    all_moves: list[tuple[int, ...]] = []
    cells: list[Cell] = []
    for index, part in enumerate(parts):
        first_move = np.full(BUCKETS, UNKNOWN, dtype=np.int64)
        for later in range(len(periods) - 1, part.period, -1):
            first_move[_moved(periods, part.period, later)] = later
        moves = tuple(int(move) for move in np.unique(first_move[first_move != UNKNOWN]))
        for fate, move in enumerate(moves):
            fates[index, first_move == move] = fate
        known = [UNKNOWN, *range(len(moves))]
        if part.who is Newcomers.KNOWN:
            fates[index, _away(periods, part.period)] = MOVED_BEFORE
            known.insert(0, MOVED_BEFORE)
        all_moves.append(moves)
        cells += [Cell(index, fate, span) for fate in known for span in range(len(moves) + 1)]
    return Cells(tuple(periods), window, tuple(parts), tuple(cells), tuple(all_moves), fates)


def _parts(periods: Sequence[AllocationPeriod]) -> list[Part]:
    """The parts of all allocations; a period adds some if its allocation is new, or comes back after a move."""
    parts = []
    for index, period in enumerate(periods):
        if all(one.id != period.id for one in periods[:index]):
            parts.append(Part(index))
        elif _away(periods, index).any():
            parts += [Part(index, Newcomers.NEW), Part(index, Newcomers.KNOWN)]
    return parts


def _away(periods: Sequence[AllocationPeriod], index: int) -> NDArray[np.bool_]:
    """Which buckets were in another group since the allocation of a period was in force before: bool[10000]."""
    before = max((k for k in range(index) if periods[k].id == periods[index].id), default=index)
    moved = [
        _moved(periods, before, between)
        for between in range(before + 1, index)
        if max(one.known for one in periods[before : between + 1]) <= periods[index].begin
    ]
    return np.any(moved, axis=0) if moved else np.zeros(BUCKETS, dtype=bool)


def _moved(periods: Sequence[AllocationPeriod], earlier: int, later: int) -> NDArray[np.bool_]:
    """Which buckets are in another group in a later period: bool[10000]; none where users were dealt anew."""
    here, there = periods[earlier].buckets, periods[later].buckets
    same_salt = len({period.salt for period in periods[earlier : later + 1]}) == 1
    return np.asarray(same_salt & (there != UNKNOWN) & (here != UNKNOWN) & (there != here))


def membership(cells: Cells, times: Sequence[datetime]) -> Floats:
    """Which cell is in which stratum at each time: float64[times, strata, cells], 0 or 1.

    There are as many strata as cells whose buckets stay: one for each part and span.
    """
    strata = {(cell.part, cell.span): index for index, cell in enumerate(_staying(cells))}
    result = np.zeros((len(times), len(strata), len(cells.cells)))
    for time, at in enumerate(times):
        for index, cell in enumerate(cells.cells):
            known = cells.known(cell.part, at)
            if not _left_out(cell, known):
                result[time, strata[cell.part, min(cell.span, known)], index] = 1
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
            known = cells.known(cell.part, at)
            if cell.span <= known:
                fates = range(UNKNOWN, len(cells.moves[cell.part]))
                counted = [f for f in fates if not _left_out(Cell(cell.part, f, cell.span), known)]
                result[time, stratum] = _share(cells, cell.part, counted, groups)
    return result


def left_out(cells: Cells, at: datetime) -> NDArray[np.bool_]:
    """Which cells do not count any more at an instant, because their buckets have moved: bool[cells]."""
    return np.array([_left_out(cell, cells.known(cell.part, at)) for cell in cells.cells], dtype=bool)


def in_newest(cells: Cells, users: Floats) -> Floats:
    """How many of `users`, float64[cells, groups], are in the newest part of the newest allocation: float64[groups]."""
    allocation = cells.periods[-1].id
    period = max(part.period for part in cells.parts if cells.periods[part.period].id == allocation)
    newest = [cells.parts[cell.part].period == period for cell in cells.cells]
    return np.asarray(users[newest].sum(axis=0))


def _staying(cells: Cells) -> list[Cell]:
    return [cell for cell in cells.cells if cell.fate == UNKNOWN]


def _left_out(cell: Cell, moves_so_far: int) -> bool:
    if cell.fate == MOVED_BEFORE:
        return True
    return cell.fate != UNKNOWN and cell.fate < moves_so_far and cell.span > cell.fate


def _share(cells: Cells, part: int, fates: list[int], groups: int) -> Floats:
    """The part of all users that each group has in the buckets of these fates: float64[groups]."""
    buckets, weights = cells.of(part).buckets, cells.of(part).weights
    counted = np.isin(cells.fates[part], fates)
    result = np.zeros(groups)
    for group in range(groups):
        mine = buckets == group
        result[group] = weights[group] * (float((mine & counted).sum() / mine.sum()) if mine.any() else 1.0)
    return result
