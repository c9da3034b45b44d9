"""The buckets of an allocation that neither the file nor a line proves, from the users who were seen."""

from collections.abc import Sequence

import numpy as np
from abfleet_analysis.periods.allocation_periods import LoggedAllocation
from abfleet_analysis.periods.bucket_maps import BucketMap, Columns, bucket_map
from abfleet_experiments.allocate import fold, table
from abfleet_experiments.bucketing import BUCKETS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.log_lines import DAY, START


def found(*shares: tuple[float, ...]) -> list[LoggedAllocation]:
    """Allocations with these shares."""
    pairs = enumerate(shares)
    return [LoggedAllocation(str(n), START, np.array(one), None) for n, one in pairs]


def split(*rows: tuple[int, ...]) -> np.ndarray:
    """The router's own buckets after these rows of percents, control first."""
    return np.frombuffer(table(fold([[one * 100 for one in row] for row in rows], control=0)), np.uint8).astype(int)


def seen(truth: np.ndarray, buckets: Sequence[int]) -> Columns:
    """One user in each of these buckets."""
    listed = np.array(buckets)
    return {"bucket": listed, "g": truth[listed], "n": np.ones(len(listed), int)}


def map_of(
    periods: list[LoggedAllocation], truth: np.ndarray, *looks: Sequence[int], ordered: bool = True
) -> BucketMap:
    """Of the last allocation, which has so many looks, at each of which so many users have come by then."""
    moments = [(START + DAY * (1 + number), seen(truth, buckets)) for number, buckets in enumerate(looks)]
    return bucket_map(periods, len(periods) - 1, moments, ordered=ordered)


@given(st.lists(st.integers(0, BUCKETS - 1), min_size=1, max_size=20, unique=True), st.sampled_from([1, 10, 50, 90]))
@settings(max_examples=40, deadline=None)
def test_shares_say_where_the_groups_are(buckets: list[int], share: int) -> None:
    """Of a plain split every bucket is known once a few users of each group have come, and none before."""
    truth = split((100 - share, share))
    one = found(((100 - share) / 100, share / 100))
    made = map_of(one, truth, buckets, [*buckets, 0, 1, 2, 9997, 9998, 9999])
    few = min(np.bincount(truth[buckets], minlength=2)) < 3
    assert (made.buckets == truth).all()
    assert made.known == START + DAY * (2 if few else 1)
    assert (map_of(one, truth, buckets).buckets == -1).all() == few


def test_what_is_known_stays() -> None:
    """Users who come later, wherever they are, change nothing of what looks have said."""
    truth = split((80, 20))
    later = np.where(np.arange(BUCKETS) % 2, truth, 1 - truth)
    moments = [(START, seen(truth, range(0, BUCKETS, 500))), (START + DAY, seen(later, range(0, BUCKETS, 7)))]
    made = bucket_map(found((0.8, 0.2)), 0, moments, ordered=True)
    assert (made.known, (made.buckets == truth).all()) == (START, True)


def test_what_a_line_proves_is_known_since_the_line() -> None:
    """Of what the file proves it is known since ever, and so where the line came first; until a line that comes late
    it is what users show."""
    truth = split((80, 20))
    users = seen(truth, range(0, BUCKETS, 500))
    for told, come, known in (
        (None, None, None),
        (START - DAY, START, None),
        (START + DAY * 3, START + DAY * 4, START + DAY * 3),
        (START + DAY * 3, START + DAY, START + DAY),
    ):
        one = LoggedAllocation("a", START, np.array([0.8, 0.2]), "salt", truth, told=told)
        made = bucket_map([one], 0, [] if come is None else [(come, users)], ordered=True)
        assert (made.known, (made.buckets == truth).all()) == (known, True)


def test_a_ramp_leads_to_another_split_than_its_shares_alone() -> None:
    """Where its users are nowhere near the plain split, that after the allocations before is taken."""
    rows = ((10, 60, 30, 0), (10, 20, 50, 20), (10, 30, 30, 30))
    truth = split(*rows)
    assert (truth != split(rows[-1])).any()
    periods = found(*(tuple(one / 100 for one in row) for row in rows))
    assert (map_of(periods, truth, range(0, BUCKETS, 20)).buckets == truth).all()


def test_while_users_are_where_two_splits_have_them_nothing_is_known() -> None:
    """The plain split and that after a ramp have much in common; who comes to the rest tells them apart."""
    rows = ((40, 40, 20), (40, 30, 30))
    truth, plain = split(*rows), split(rows[-1])
    periods = found(*(tuple(one / 100 for one in row) for row in rows))
    both = [bucket for group in range(3) for bucket in np.flatnonzero((truth == plain) & (truth == group))[:5]]
    assert {int(truth[bucket]) for bucket in both} == {0, 1, 2}
    assert (map_of(periods, truth, both).buckets == -1).all()
    made = map_of(periods, truth, both, [*both, *np.flatnonzero(truth != plain)[:1]])
    assert (made.known, (made.buckets == truth).all()) == (START + DAY * 2, True)


def test_without_a_file_the_order_of_treatments_is_what_users_show() -> None:
    """The names of the groups in order of the alphabet are not those of the file."""
    truth = split((50, 20, 30))
    renamed = np.array([0, 2, 1])[truth]
    made = map_of(found((0.5, 0.3, 0.2)), renamed, range(0, BUCKETS, 500), ordered=False)
    assert (made.buckets == renamed).all()


def test_groups_that_are_somewhere_else_are_what_was_seen() -> None:
    """A split that users do not show is not taken; what takes its place needs more of them. Nor is one of shares that
    nobody knows, because a group that has some was not seen yet."""
    truth = split((80, 20))[::-1].copy()
    few, many = range(0, BUCKETS, 100), range(0, BUCKETS, 20)
    made = map_of(found((0.8, 0.2)), truth, few, many)
    assert (made.buckets[many] == truth[many]).all()
    assert (made.known, np.count_nonzero(made.buckets == -1)) == (START + DAY * 2, 0)
    assert map_of(found((0.8, 0.2)), truth, few).known is None
    assert map_of(found((0.6, 0.2, 0.2)), truth, few, many).known is None
