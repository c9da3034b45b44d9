"""The group of each bucket in an allocation. Knows shares and how many users of which bucket were in which group.

The file proves it for its own allocations, and an `allocation` line for its own where no ramp went before. Of others
the shares are mostly known: a split that follows from them, by itself or after those of the allocations before, is
taken if it is what users met. Else the buckets are those that were seen. Either is decided once, as soon as there are
users enough: who comes later changes nothing of what a look has said.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
LEAST_USERS: Final = 3
"""Of each group that has a share, before a split is taken for what they met."""
LEAST_OBSERVED: Final = 100
"""The same before buckets are told from users alone."""
MOST_ORDERS: Final = 3
"""Treatments of which every order is tried, where no file says in which order they took their buckets."""


@dataclass(frozen=True, slots=True)
class BucketMap:
    """Which group has which bucket.

    Attributes:
        buckets: int[10000], -1 where nobody knows.
        known: Since when; None where it always was, or never is.
    """

    buckets: NDArray[np.int64]
    known: datetime | None = None


NOBODY_KNOWS: Final = BucketMap(np.full(BUCKETS, UNKNOWN, dtype=np.int64))
Columns = Mapping[str, NDArray[np.int64]]


def bucket_map(
    found: Sequence[LoggedAllocation], period: int, moments: Iterable[tuple[datetime, Columns]], *, ordered: bool
) -> BucketMap:
    """The buckets of an allocation while it was in force once.

    found: All allocations in order of time, of which `period` is asked for. moments: In order of time, and not after
    the next allocation began, the users who had come to this one by then: `n` of each `bucket` and group `g`.
    ordered: Whether groups are in the file's order, after the control.
    """
    one = found[period]
    if one.buckets is not None and proven_at_once(one):
        return BucketMap(one.buckets)
    splits = _splits([one.weights for one in found[: period + 1]], ordered=ordered)
    for at, columns in moments:
        if one.told is not None and one.buckets is not None and one.told <= at:
            break
        votes = np.zeros((BUCKETS, len(one.weights)))
        np.add.at(votes, (columns["bucket"], columns["g"]), columns["n"])
        least = votes.sum(axis=0)[one.weights > 0].min(initial=np.inf)
        if least < LEAST_USERS:
            continue
        agreements = [_agreement(split, votes) for split in splits]
        most = max(agreements, default=0.0)
        if most >= AGREEING and agreements.count(most) == 1:  # of two alike, later users will show which it is
            return BucketMap(splits[agreements.index(most)], at)
        if least >= LEAST_OBSERVED:
            voted = np.flatnonzero(votes.sum(axis=1))
            return BucketMap(observed_buckets(voted, votes[voted].argmax(axis=1), one.weights), at)
    return NOBODY_KNOWS if one.buckets is None else BucketMap(one.buckets, one.told)


def proven_at_once(one: LoggedAllocation) -> bool:
    """Whether its buckets were known before its users came, so that nothing is told from these."""
    return one.buckets is not None and (one.told is None or one.told <= one.begin)


def _splits(weights: Sequence[Floats], *, ordered: bool) -> list[NDArray[np.int64]]:
    """The different splits that these shares, the last of which are in force, may have led to."""
    found: dict[bytes, NDArray[np.int64]] = {}
    rows = [np.rint(one * BUCKETS).astype(int).tolist() for one in weights]
    treatments = range(1, len(rows[-1]))
    weighted = [group for group in treatments if any(row[group] for row in rows)]
    orders = [tuple(treatments)] if ordered or len(weighted) > MOST_ORDERS else permutations(weighted)
    for order in orders:
        names = [0, *order, *(group for group in treatments if group not in order)]
        placed = [[row[group] for group in names] for row in rows]
        for history in (placed[-1:], placed):
            if all(sum(row) == BUCKETS for row in history):
                split = np.array(names)[np.frombuffer(table(fold(history, control=0)), dtype=np.uint8)]
                found.setdefault(split.tobytes(), split)
    return list(found.values())


def _agreement(split: NDArray[np.int64], votes: Floats) -> float:
    """The part of users who are where a split has them, of the group of which it is least.

    votes: float64[10000, groups], users.
    """
    users = votes.sum(axis=0)
    there = np.array([votes[split == group, group].sum() for group in range(len(users))])
    return float((there[users > 0] / users[users > 0]).min(initial=1.0))
