"""Each rule of outages on calls made to meet it. Knows no log."""

import math

import numpy as np
import pytest
from abfleet_statistics import outages
from abfleet_statistics.outages import SECOND, GroupOutages, counted_of_both
from scipy import stats


def group(*seconds: float) -> GroupOutages:
    """A group whose calls at these seconds found nobody."""
    found = GroupOutages()
    for second in seconds:
        found.see(int(second * SECOND), int(second * SECOND))
    return found


def test_calls_within_a_minute_are_one_outage() -> None:
    """60 s between two calls are one outage, more are two."""
    assert [(one.begin, one.end, one.calls) for one in group(0, 60, 121).outages] == [
        (0, 60 * SECOND, 2),
        (121 * SECOND, 121 * SECOND, 1),
    ]


def test_an_outage_counts_once_in_ten_minutes() -> None:
    """31 calls count once; the next outage counts from 600 s on; one that lasts counts again each 600 s."""
    assert group(*np.linspace(0, 6, 31)).counted().tolist() == [0]
    assert group(0, 300, 599, 900).counted().tolist() == [0, 900 * SECOND]
    assert group(*range(0, 1900, 30)).counted().tolist() == [0, 600 * SECOND, 1200 * SECOND, 1800 * SECOND]


def test_outages_of_both_within_a_minute_are_shared() -> None:
    """They count for neither; those a little further apart count for both."""
    found = counted_of_both(group(0, 1000, 3000), group(60, 1061), 10_000 * SECOND)
    assert (found.at // SECOND).tolist() == [0, 60, 1000, 1061, 3000]
    assert found.of_treatment.tolist() == [True, False, True, False, True]
    assert found.shared.tolist() == [True, True, False, False, False]


def test_a_count_waits_a_minute() -> None:
    """An outage of the last minute may still be shared, so it is not known; one a minute old is certain."""
    treatment, control = group(100), group(150)
    assert counted_of_both(treatment, GroupOutages(), 159 * SECOND).at.tolist() == []
    assert counted_of_both(treatment, control, 160 * SECOND).shared.tolist() == [True]


def test_times_around_outages_are_spans() -> None:
    """60 s before and after; spans that touch are one."""
    at = np.array([1000, 0, 120, 241]) * SECOND
    spans = outages.spans_around(at, at) // SECOND
    assert spans.tolist() == [[-60, 180], [181, 301], [940, 1060]]
    assert outages.spans_around(at[:0], at[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("replicas", "share", "expected"),
    [(None, 0.125, 0.5), ((1, 3), 0.125, 0.5), ((3, 1), 0.125, 0.75), ((1, 1), 0.8, 0.8), ((3, 1), 0.8, 12 / 13)],
)
def test_equal_versions_share_outages_by_replicas_and_traffic(
    replicas: tuple[int, int] | None, share: float, expected: float
) -> None:
    """More replicas and more calls see more outages; less of both is never held against a treatment."""
    found = outages.equal_share(replicas, np.array([share]), np.array([1 - share]))
    assert found == pytest.approx([expected])


def test_the_tolerated_rate_is_a_martingale() -> None:
    """The mean of E over Poisson counts at one a day is 1, and at half of that below."""
    counts = np.arange(400)
    for a_day, expected in ((1.0, 1.0), (0.5, None)):
        for days in (0.5, 2.0, 5.0):
            log_e = outages.log_e_of_rate(counts.astype(float), np.full(400, days))
            mean = float(np.exp(stats.poisson.logpmf(counts, a_day * days) + log_e).sum())
            assert mean == pytest.approx(1.0, rel=1e-6) if expected else mean < 1


def test_fourteen_crashes_act_and_control_takes_them_back() -> None:
    """Without any outage of control 14 pass the threshold at which both halves' mean acts, as in the tables."""
    share = np.full(28, 0.5)
    alone = outages.log_e_of_outages(np.ones(28, dtype=bool), share)
    assert alone[12] < math.log(400) <= alone[13] + 0.05
    both = outages.log_e_of_outages(np.arange(28) % 2 == 0, share)
    assert both[-1] < 0
