"""The group of each bucket in an allocation. Knows shares and how many users of which bucket were in which group.

The file proves it for its own allocations, and an `allocation` line for its own where no ramp went before. Of others
the shares are mostly known: a split that follows from them, by itself or after those of the allocations before, is
taken if it is what users met. Else the buckets are those that were seen.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Final

import numpy as np
from abfleet_experiments.allocate import fold, table
from abfleet_experiments.bucketing import BUCKETS
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray

from abfleet_analysis.periods.allocation_periods import LoggedAllocation
from abfleet_analysis.periods.cells import UNKNOWN, observed_buckets

AGREEING: Final = 0.75
"""Of each group's users, to be where a split has the group. Of another split's treatment hardly any would be."""
MOST_ORDERS: Final = 3
"""Treatments of which every order is tried, where no file says in which order they took their buckets."""


def bucket_map(
    found: Sequence[LoggedAllocation], period: int, columns: Mapping[str, NDArray[np.int64]], *, ordered: bool
) -> NDArray[np.int64]:
    """The group of each bucket: int[10000], -1 where nobody knows.

    found: All allocations in order of time, of which `period` is asked for. columns: `n` users of each `period`,
    `bucket` and group `g`. ordered: Whether groups are in the file's order, after the control.
    """
    proven, weights = found[period].buckets, found[period].weights
    if proven is not None:
        return proven
    mine = (columns["period"] == period) & (columns["bucket"] >= 0) & (columns["bucket"] < BUCKETS)
    votes = np.zeros((BUCKETS, len(weights)))
    np.add.at(votes, (columns["bucket"][mine], columns["g"][mine]), columns["n"][mine])
    voted = np.flatnonzero(votes.sum(axis=1))
    if found[period].guessed:
        seen = np.full(BUCKETS, UNKNOWN, dtype=np.int64)
        seen[voted] = votes[voted].argmax(axis=1)
        return seen
    for split in _splits([one.weights for one in found[: period + 1]], ordered=ordered):
        if _agrees(split, votes):
            return split
    return observed_buckets(voted, votes[voted].argmax(axis=1), weights)


def _splits(weights: Sequence[Floats], *, ordered: bool) -> Iterator[NDArray[np.int64]]:
    """The splits that these shares, the last of which are in force, may have led to; the plain one first."""
    rows = [np.rint(one * BUCKETS).astype(int).tolist() for one in weights]
    treatments = range(1, len(rows[-1]))
    weighted = [group for group in treatments if any(row[group] for row in rows)]
    orders = [tuple(treatments)] if ordered or len(weighted) > MOST_ORDERS else permutations(weighted)
    for order in orders:
        names = [0, *order, *(group for group in treatments if group not in order)]
        placed = [[row[group] for group in names] for row in rows]
        for history in (placed[-1:], placed):
            if all(sum(row) == BUCKETS for row in history):
                runs = fold(history, control=0)
                yield np.array(names)[np.frombuffer(table(runs), dtype=np.uint8)]


def _agrees(split: NDArray[np.int64], votes: Floats) -> bool:
    """Whether most users of each group are where a split has it. votes: float64[10000, groups], users."""
    users = votes.sum(axis=0)
    there = np.array([votes[split == group, group].sum() for group in range(len(users))])
    return bool((there >= AGREEING * users).all())
