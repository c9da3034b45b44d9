"""The buckets of an allocation that neither the file nor a line proves, from the users who were seen."""

import numpy as np
import pytest
from abfleet_analysis.periods.allocation_periods import LoggedAllocation
from abfleet_analysis.periods.bucket_maps import bucket_map
from abfleet_experiments.allocate import fold, table
from abfleet_experiments.bucketing import BUCKETS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.log_lines import START


def found(*shares: tuple[float, ...], guessed: bool = False) -> list[LoggedAllocation]:
    """Allocations with these shares."""
    pairs = enumerate(shares)
    return [LoggedAllocation(str(n), START, np.array(one), None, guessed=guessed) for n, one in pairs]


def split(*rows: tuple[int, ...]) -> np.ndarray:
    """The router's own buckets after these rows of percents, control first."""
    return np.frombuffer(table(fold([[one * 100 for one in row] for row in rows], control=0)), np.uint8).astype(int)


def seen(truth: np.ndarray, buckets: list[int]) -> dict[str, np.ndarray]:
    """One user in each of these buckets of the last allocation."""
    listed = np.array(buckets)
    ones = np.ones(len(listed), int)
    return {"period": ones * 0, "bucket": listed, "g": truth[listed], "n": ones}


@given(st.lists(st.integers(0, BUCKETS - 1), min_size=1, max_size=20, unique=True), st.sampled_from([1, 10, 50, 90]))
@settings(max_examples=40, deadline=None)
def test_shares_say_where_the_groups_are(buckets: list[int], share: int) -> None:
    """Of a plain split every bucket is known, whoever has come: nobody who comes later changes a look before."""
    truth = split((100 - share, share))
    one = found(((100 - share) / 100, share / 100))
    assert (bucket_map(one, 0, seen(truth, buckets), ordered=True) == truth).all()


def test_a_ramp_leads_to_another_split_than_its_shares_alone() -> None:
    """Where its users are nowhere near the plain split, that after the allocations before is taken."""
    rows = ((10, 60, 30, 0), (10, 20, 50, 20), (10, 30, 30, 30))
    truth = split(*rows)
    assert (truth != split(rows[-1])).any()
    periods = found(*(tuple(one / 100 for one in row) for row in rows))
    columns = seen(truth, list(range(0, BUCKETS, 20)))
    columns["period"] += 2
    assert (bucket_map(periods, 2, columns, ordered=True) == truth).all()


def test_without_a_file_the_order_of_treatments_is_what_users_show() -> None:
    """The names of the groups in order of the alphabet are not those of the file."""
    truth = split((50, 20, 30))
    renamed = np.array([0, 2, 1])[truth]
    one = found((0.5, 0.3, 0.2))
    columns = seen(renamed, list(range(0, BUCKETS, 900)))
    assert (bucket_map(one, 0, columns, ordered=False) == renamed).all()


@pytest.mark.parametrize("guessed", [False, True])
def test_groups_that_are_somewhere_else_are_what_was_seen(guessed: bool) -> None:
    """A split that users do not show is not taken; nor one of shares that nobody knows."""
    truth = split((80, 20))[::-1].copy()
    buckets = list(range(0, BUCKETS, 100))
    map_of = bucket_map(found((0.8, 0.2), guessed=guessed), 0, seen(truth, buckets), ordered=True)
    assert (map_of[buckets] == truth[buckets]).all()
    assert np.count_nonzero(map_of == -1) == (BUCKETS - len(buckets) if guessed else 0)
