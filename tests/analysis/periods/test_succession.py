"""When allocations were in force, and which of them deal users alike. Times and buckets only."""

from datetime import timedelta
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest
from abfleet_analysis.periods.allocation_periods import LoggedAllocation, Looks, looks_until, microseconds
from abfleet_analysis.periods.succession import dealt, in_force
from abfleet_analysis.storage.fetching import storage_of
from abfleet_experiments.config import AnalysisPlan

from tests.analysis.log_lines import DAY, START

HOUR = timedelta(hours=1)
LOOKS = looks_until(START, START + DAY * 9, AnalysisPlan())
Call = tuple[timedelta, int]


def kept(columns: dict[str, list[Any]]) -> Any:
    """A table with these columns."""
    return storage_of(ibis.duckdb.connect()).keep("kept", pa.table(columns))


def found(*begins: timedelta, salts: tuple[str | None, ...] = ()) -> list[LoggedAllocation]:
    """Allocations that begin then."""
    listed = salts or ("s",) * len(begins)
    pairs = enumerate(zip(begins, listed, strict=True))
    return [LoggedAllocation(str(index), START + at, np.array([0.5, 0.5]), salt) for index, (at, salt) in pairs]


def force(calls: list[Call]) -> list[tuple[int, timedelta]]:
    """When which allocation was in force, by these calls: how long after the start, and of which allocation."""
    begins = [min(at for at, period in calls if period == one) for one in sorted({period for _, period in calls})]
    table = kept({"at": [microseconds(START + at) for at, _ in calls], "period": [one for _, one in calls]})
    return [(index, at - START) for index, at in in_force(table, found(*begins), LOOKS)]


def each(begin: float, end: float, period: int, every: float = 0.25) -> list[Call]:
    """A call each so many hours, from one hour to another."""
    return [(HOUR * (begin + every * n), period) for n in range(int((end - begin) / every))]


def test_an_allocation_comes_back() -> None:
    """As where shares are changed and changed back, once or oftener, within an hour too."""
    assert force([*each(0, 30, 0), *each(30, 50, 1)]) == [(0, HOUR * 0), (1, HOUR * 30)]
    there_and_back = [*each(0, 30.5, 0), *each(30.5, 50.25, 1), *each(50.25, 70, 0)]
    assert force(there_and_back) == [(0, HOUR * 0), (1, HOUR * 30.5), (0, HOUR * 50.25)]
    assert [index for index, _ in force([*there_and_back, *each(70, 80, 1)])] == [0, 1, 0, 1]
    rare = [(HOUR * 0, 0), (HOUR * 30, 0), (HOUR * 60, 1), (HOUR * 90, 0)]
    assert force(rare) == [(0, HOUR * 0), (1, HOUR * 60), (0, HOUR * 90)]


def test_a_router_that_is_late_with_the_file_brings_nothing_back() -> None:
    """One call in twenty of a hundred hours; nor do clocks that are a few seconds apart."""
    late = [*each(0, 30, 0), *each(30, 130, 1, 1 / 19), *each(30, 130, 0, 1)]
    assert force(late) == [(0, HOUR * 0), (1, HOUR * 30)]
    apart = [*each(0, 30.001, 0, 1 / 3600), *each(29.999, 60, 1, 1 / 3600)]
    assert [index for index, _ in force(apart)] == [0, 1]


def test_what_comes_later_changes_no_order() -> None:
    """The allocations up to a look are those that calls up to it show."""
    calls = [*each(0, 30.5, 0), *each(30.5, 50.25, 1), *each(50.25, 70, 0), *each(70, 90, 2)]
    for day in (1, 2, 3):
        known = [call for call in calls if call[0] <= DAY * day]
        assert force(known) == [one for one in force(calls) if one[1] <= DAY * day]


def users(*rows: tuple[str, int, int, float]) -> Any:
    """Units: user, allocation, bucket, and on which day they came."""
    return kept(
        {
            "user": [row[0] for row in rows],
            "period": [row[1] for row in rows],
            "bucket": [row[2] for row in rows],
            "first": [microseconds(START + DAY * row[3]) for row in rows],
        }
    )


@pytest.mark.parametrize(
    ("salts", "buckets", "same"),
    [
        ((None, None), (5, 5), 3),
        ((None, None), (5, 8), None),
        (("a", None), (5, 5), 3),
        (("a", "a"), (5, 5), 1),
        (("a", "b"), (5, 5), None),
    ],
)
def test_users_who_come_back_say_whether_the_salt_is_another(
    salts: tuple[str | None, str | None], buckets: tuple[int, int], same: int | None
) -> None:
    """Under the same salt a user has the same bucket. It is known from the first look on that knows such a user; or
    from the begin on, where lines say so."""
    units = users(("u", 0, buckets[0], 0.2), ("v", 0, 7, 0.1), ("w", 1, 9, 1.5), ("u", 1, buckets[1], 2.5))
    one, other = dealt(units, found(HOUR, DAY, salts=salts), LOOKS)
    assert (one.salt == other.salt) == (same is not None)
    if same is not None:
        assert other.known == START + DAY * same


def test_most_users_decide_about_the_salt() -> None:
    """By chance one has the same bucket under another salt. Where nobody came back, nothing was moved."""
    again = [(f"u{n}", 1, 100 + n, 1.5) for n in range(9)] + [("lucky", 1, 3, 1.2)]
    before = [(f"u{n}", 0, 900 + n, 0.5) for n in range(9)] + [("lucky", 0, 3, 0.2)]
    several = found(HOUR, DAY, salts=(None, None))
    for rows in ([*before, *again], [*before, ("somebody", 1, 3, 1.2)]):
        one, other = dealt(users(*rows), several, LOOKS)
        assert one.salt != other.salt


def test_looks_of_minutes_have_hours_of_their_own() -> None:
    """No look is amid what is counted together."""
    looks = Looks((START, START + DAY), microseconds(START), 90 * 60 * 10**6, LOOKS.calendar)
    calls = kept({"at": [microseconds(START), microseconds(START + DAY)], "period": [0, 1]})
    assert [one for one, _ in in_force(calls, found(HOUR * 0, DAY), looks)] == [0, 1]
