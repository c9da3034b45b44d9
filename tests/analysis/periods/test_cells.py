"""Who may be compared with whom when shares change. Buckets and times only."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from abfleet_analysis.periods import cells as cells_of
from abfleet_analysis.periods.cells import (
    MOVED_BEFORE,
    UNKNOWN,
    AllocationPeriod,
    Newcomers,
    divide,
    observed_buckets,
)
from abfleet_experiments.bucketing import BUCKETS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.log_lines import DAY, START

WEEK = timedelta(days=7)


def period(identity: str, day: float, share: float, salt: str = "s") -> AllocationPeriod:
    """The treatment has the buckets below its share."""
    buckets = (np.arange(BUCKETS) < share * BUCKETS).astype(np.int64)
    return AllocationPeriod(identity, START + DAY * day, np.array([1 - share, share]), salt, buckets)


def test_one_allocation_is_one_cell() -> None:
    """Without a change of shares everybody counts, always, with the weights as shares."""
    cells = divide([period("a", 0, 0.2)], WEEK)
    assert cells_of.membership(cells, [START, START + DAY]).tolist() == [[[1]], [[1]]]
    assert cells_of.expected_shares(cells, [START])[0].tolist() == [[0.8, 0.2]]
    assert not cells_of.left_out(cells, START + DAY).any()


def test_a_moved_bucket_is_left_out_whole_from_the_moment_it_moves() -> None:
    """From 10 to 50 %: control's moved buckets count until then, and later only their users with closed windows."""
    cells = divide([period("a", 0, 0.1), period("b", 10, 0.5)], WEEK)
    before, after = START + DAY * 9, START + DAY * 10
    assert not cells_of.left_out(cells, before).any()
    out = [cell for cell, gone in zip(cells.cells, cells_of.left_out(cells, after), strict=True) if gone]
    assert [(cell.part, cell.fate, cell.span) for cell in out] == [(0, 0, 1)]
    assert cells.limits(0) == (START + DAY * 3,)
    member, shares = cells_of.membership(cells, [before, after]), cells_of.expected_shares(cells, [before, after])
    assert (member.sum(axis=1) <= 1).all(), "a cell is in one stratum at most"
    assert shares[1][member[1].any(axis=1)] == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.1], [0.5, 0.5]]))
    assert shares[0][0] == pytest.approx([0.9, 0.1])


def test_a_new_salt_moves_no_buckets() -> None:
    """Under a new salt buckets hold other users, so their groups say nothing of a move."""
    assert divide([period("a", 0, 0.1, "one"), period("b", 10, 0.5, "two")], WEEK).moves == ((), ())
    assert divide([period("a", 0, 0.1, "one"), period("b", 10, 0.5, "one")], WEEK).moves == ((1,), ())


def test_an_allocation_that_comes_back_has_newcomers_apart() -> None:
    """10, 50 and 10 %: after the return all buckets' newcomers are a stratum, and of those known before the buckets
    that stayed; nobody of the moved ones comes back."""
    cells = divide([period("a", 0, 0.1), period("b", 10, 0.5), period("a", 20, 0.1)], WEEK)
    assert [(part.period, part.who) for part in cells.parts] == [
        (0, -1),
        (1, -1),
        (2, Newcomers.NEW),
        (2, Newcomers.KNOWN),
    ]
    assert cells.moves == ((1,), (2,), (), ())
    at = START + DAY * 20
    member, shares = cells_of.membership(cells, [at])[0], cells_of.expected_shares(cells, [at])[0]
    (new,) = np.flatnonzero(member[:, cells.cells.index(cells_of.Cell(2, UNKNOWN, 0))])
    (known,) = np.flatnonzero(member[:, cells.cells.index(cells_of.Cell(3, UNKNOWN, 0))])
    assert shares[new] == pytest.approx([0.9, 0.1])
    assert shares[known] == pytest.approx([0.5, 0.1])
    assert not member[:, cells.cells.index(cells_of.Cell(3, MOVED_BEFORE, 0))].any()
    assert (cells.fates[3] == MOVED_BEFORE).sum() == 4_000


def test_an_allocation_that_comes_back_without_a_move_is_one() -> None:
    """Where traffic or the salt was another meanwhile, no bucket has moved."""
    for salt in ("s", "other"):
        share = 0.1 if salt == "s" else 0.5
        cells = divide([period("a", 0, 0.1), period("b", 10, share, salt), period("a", 20, 0.1)], WEEK)
        assert [part.period for part in cells.parts] == [0, 1]
        assert cells.moves == ((), ())


def test_a_move_is_known_when_the_salt_is() -> None:
    """Where users who came back have shown that it was the same, nothing is left out before they came."""
    shown = replace(period("b", 10, 0.5), known_since=START + DAY * 12)
    cells = divide([period("a", 0, 0.1), shown], WEEK)
    assert not cells_of.left_out(cells, START + DAY * 11).any()
    assert cells_of.left_out(cells, START + DAY * 12).any()


@given(st.lists(st.floats(0.05, 0.9), min_size=2, max_size=4), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_what_a_look_says_never_changes_later(shares: list[float], day: int) -> None:
    """The users who count at a time, and in which strata together, do not depend on allocations that come after it."""
    periods = [period(str(index), index * 9, share) for index, share in enumerate(shares)]
    at = START + DAY * day
    past = [one for one in periods if one.begin <= at]
    whole, known = divide(periods, WEEK), divide(past, WEEK)

    def strata(cells: cells_of.Cells) -> set[tuple[tuple[int, int], ...]]:
        """Each stratum as the (period, bucket, day of entry) it is made of, thinned out."""
        member = cells_of.membership(cells, [at])[0]
        lookup = {cell: index for index, cell in enumerate(cells.cells)}
        found: dict[int, list[tuple[int, int, int]]] = {}
        for index in range(len(past)):
            for bucket in range(0, BUCKETS, 250):
                for entry in range(index * 9, min(index * 9 + 9, day + 1)):
                    came = START + DAY * entry
                    span = sum(limit <= came for limit in cells.limits(index))
                    column = member[:, lookup[cells_of.Cell(index, int(cells.fates[index, bucket]), span)]]
                    for stratum in np.flatnonzero(column):
                        found.setdefault(int(stratum), []).append((index, bucket, entry))
        return {tuple(sorted(users)) for users in found.values()}  # type: ignore[arg-type]

    assert strata(whole) == strata(known)


@given(st.lists(st.integers(0, BUCKETS - 1), min_size=1, max_size=400, unique=True), st.integers(1, BUCKETS - 1))
@settings(max_examples=40, deadline=None)
def test_unseen_buckets_follow_their_neighbours(seen: list[int], cut: int) -> None:
    """Of a split in two runs, every bucket that has seen neighbours of one group on both sides is known rightly."""
    buckets = np.array(sorted(seen))
    truth = (np.arange(BUCKETS) < cut).astype(np.int64)
    table = observed_buckets(buckets, truth[buckets])
    inside = [b for low, high in pairwise(buckets) if truth[low] == truth[high] for b in range(low, high + 1)]
    assert (table[inside] == truth[inside]).all()
    assert (table[buckets] == truth[buckets]).all()


def test_a_split_of_many_runs_is_not_guessed() -> None:
    """Where groups alternate from bucket to bucket, only what was seen is known."""
    seen = np.arange(0, BUCKETS, 10)
    table = observed_buckets(seen, np.arange(len(seen)) % 2)
    assert np.count_nonzero(table == UNKNOWN) == BUCKETS - len(seen)
