"""Allocation: exact shares, and movement that is counted from the buckets themselves, not from the algorithm."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from abfleet_experiments.allocate import BucketRange, fold, table
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.experiments.strategies import ramps, shares

Moves = Counter[tuple[int, int]]


def _moves(before: Sequence[int], after: Sequence[int]) -> Moves:
    """How many buckets go from which group to which."""
    return Counter((source, sink) for source, sink in zip(before, after, strict=True) if source != sink)


@settings(max_examples=300, deadline=None)
@given(ramps())
def test_ramp_moves_the_minimum(ramp: tuple[int, list[tuple[int, ...]]]) -> None:
    """A row has its shares exactly, moves the sum of the increases, and takes from none that does not shrink."""
    control, rows = ramp
    before: bytes | None = None
    for count, row in enumerate(rows, start=1):
        after = table(fold(rows[:count], control=control))
        assert [after.count(group) for group in range(len(row))] == list(row)
        if before is not None:
            was = rows[count - 2]
            moves = _moves(before, after)
            assert moves.total() == sum(max(0, new - old) for old, new in zip(was, row, strict=True))
            assert all(row[source] < was[source] for source, _ in moves)
            assert all(row[sink] > was[sink] for _, sink in moves)
        before = after


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_plain_edit_of_two_treatments_is_bounded(data: st.DataObject) -> None:
    """Without history none leaves a treatment that does not shrink, and the two exchange only what exceeds 100 %."""
    control = data.draw(st.integers(0, 2))
    old, new = data.draw(shares(3)), data.draw(shares(3))
    first, second = (group for group in range(3) if group != control)
    moves = _moves(table(fold([old], control=control)), table(fold([new], control=control)))
    for (source, _), count in moves.items():
        assert source == control or new[source] < old[source] or not count
    assert moves[first, second] == max(0, old[first] + new[second] - 10_000)
    assert moves[second, first] == max(0, old[second] + new[first] - 10_000)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_treatment_alone_moves_the_minimum_on_a_plain_edit(data: st.DataObject) -> None:
    """With control and one treatment, an edit moves exactly the difference."""
    old, new = data.draw(st.integers(0, 10_000)), data.draw(st.integers(0, 10_000))
    before, after = (table(fold([(10_000 - share, share)], control=0)) for share in (old, new))
    assert _moves(before, after).total() == abs(new - old)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((1, 2)), st.integers(0, 5000)), min_size=1, max_size=6))
def test_history_does_not_matter_while_treatments_meet_control_only(steps: list[tuple[int, int]]) -> None:
    """Two treatments that grow and shrink one at a time, up to half each, are where a plain split would put them."""
    rows, shares_now = [(10_000, 0, 0)], [0, 0]
    for treatment, share in steps:
        shares_now[treatment - 1] = share
        rows.append((10_000 - sum(shares_now), *shares_now))
    assert fold(rows, control=0) == fold(rows[-1:], control=0)


@settings(max_examples=200, deadline=None)
@given(ramps(most_groups=12))
def test_position_of_control_means_nothing(ramp: tuple[int, list[tuple[int, ...]]]) -> None:
    """Where control stands among the groups does not change anyone's group; the order of treatments does."""
    control, rows = ramp
    expected = table(fold(rows, control=control))
    names = [group for group in range(len(rows[0])) if group != control]
    first = [tuple(row[group] for group in (control, *names)) for row in rows]
    moved = table(fold(first, control=0))
    assert bytes((control, *names)[group] for group in moved) == expected


@settings(deadline=None)
@given(ramps(most_groups=100))
def test_runs_cover_every_bucket_once(ramp: tuple[int, list[tuple[int, ...]]]) -> None:
    """Runs lie end to end from 0 to 10,000, none is empty, and neighbours are of different groups."""
    control, rows = ramp
    runs = fold(rows, control=control)
    assert [run.start for run in runs] == [0, *(run.end for run in runs[:-1])]
    assert runs[-1].end == 10_000
    assert all(run.start < run.end for run in runs)
    assert all(one.group != other.group for one, other in pairwise(runs))


def test_thirty_groups_of_two_decimals() -> None:
    """30 groups with shares such as 3.33 % get exactly these."""
    row = [333] * 29 + [10_000 - 333 * 29]
    held = Counter(table(fold([row], control=29)))
    assert [held[group] for group in range(30)] == row


def test_where_treatments_begin() -> None:
    """The first starts at 0 going up, the second at the top going down, the next at 5000, 2500 and 7500 going up."""
    runs = fold([(5000, 1000, 1000, 1000, 1000, 1000)], control=0)
    places = {run.group: (run.start, run.end) for run in runs if run.group}
    assert places == {1: (0, 1000), 2: (9000, 10000), 3: (5000, 6000), 4: (2500, 3500), 5: (7500, 8500)}


def test_a_third_treatment_goes_round_what_is_taken() -> None:
    """What stands in a treatment's way is passed by, past the top to the bottom."""
    runs = fold([(0, 500, 4000, 5500)], control=0)
    assert runs == (BucketRange(0, 500, 1), BucketRange(500, 6000, 3), BucketRange(6000, 10000, 2))


def test_history_is_part_of_the_state() -> None:
    """Two ways to the same shares may give different buckets: past rows must not be deleted unseen."""
    direct = table(fold([(0, 5000, 5000)], control=0))
    roundabout = table(fold([(0, 9000, 1000), (0, 1000, 9000), (0, 5000, 5000)], control=0))
    assert Counter(direct) == Counter(roundabout)
    three = [(1000, 3000, 3000, 3000)]
    assert table(fold([(0, 0, 0, 10_000), *three], control=0)) != table(fold(three, control=0))


@pytest.mark.parametrize("row", [(5000, 4999), (5000, 5001), (10_001, -1)])
def test_rows_that_do_not_sum_are_refused(row: tuple[int, int]) -> None:
    """A caller's mistake does not become a wrong split."""
    with pytest.raises(ValueError, match="sum to 10000"):
        fold([row], control=0)


def test_rows_of_different_length_are_refused() -> None:
    """Every row names every group."""
    with pytest.raises(ValueError, match="must be 2 numbers"):
        fold([(10_000, 0), (10_000,)], control=0)
