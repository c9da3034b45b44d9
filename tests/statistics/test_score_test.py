"""The null distribution of a difference, against enumeration, brute force and other engines; and what it lets count."""

from itertools import combinations

import numpy as np
import pytest
from abfleet_statistics.effects import Estimator
from abfleet_statistics.moments import Moments, of_users, proportions, side_by_side
from abfleet_statistics.score_test import (
    NullMoments,
    nearer_to_0,
    null_moments,
    restricted_by_points,
    restricted_by_ratio,
)
from scipy import stats

ONE = np.ones((1, 1, 1))
EXACT = 1e-9
RANDOM = np.random.default_rng(3)


def two_groups(control: tuple[float, float], treatment: tuple[float, float]) -> Moments:
    """Users and how many of them converted, of each group."""
    users, converted = (np.array([[[a, b]]], dtype=float) for a, b in zip(control, treatment, strict=True))
    return proportions(users, converted)


@pytest.mark.parametrize("estimator", list(Estimator))
@pytest.mark.parametrize("treated", [2, 3, 5])
def test_every_way_to_deal_the_labels(estimator: Estimator, treated: int) -> None:
    """Over all deals of nine users' labels, the difference has the mean 0, the error and the skewness that are said."""
    y, z = RANDOM.lognormal(size=9), RANDOM.integers(1, 5, 9).astype(float)
    differences, said = [], None
    for chosen in combinations(range(9), treated):
        rest = [index for index in range(9) if index not in chosen]
        groups = [of_users(y[of], None if estimator is Estimator.MEAN else z[of]) for of in (rest, list(chosen))]
        said = null_moments(side_by_side(groups), ONE, 1, estimator=estimator)
        differences.append(float(said.difference[0]))
    assert said is not None
    assert np.mean(differences) == pytest.approx(0, abs=EXACT)
    assert np.std(differences) == pytest.approx(float(said.error[0]), rel=EXACT)
    assert stats.skew(differences) == pytest.approx(float(said.skewness[0]), rel=1e-7)


@pytest.mark.parametrize(
    ("x0", "n0", "x1", "n1"),
    [
        (10, 1000, 3, 200),
        (0, 50, 2, 20),
        (5, 30, 0, 40),
        (100, 120, 5, 9),
        (60, 100, 60, 100),
    ],
)
@pytest.mark.parametrize(("ratio", "points"), [(1.25, 0.0), (0.75, 0.0), (1.0, 0.002), (1.0, -0.01), (1.0, 0.1)])
def test_restricted_proportions_are_the_likeliest(
    x0: float, n0: float, x1: float, n1: float, ratio: float, points: float
) -> None:
    """No proportions of a fine grid that keep the margin are likelier."""
    arrays = [np.array([float(one)]) for one in (x0, n0, x1, n1)]
    if points:
        p0, p1 = (float(one[0]) for one in restricted_by_points(*arrays, np.array([points])))
    else:
        p0, p1 = (float(one[0]) for one in restricted_by_ratio(*arrays, np.array([ratio])))
    assert p1 == pytest.approx(ratio * p0 + points, abs=EXACT)
    grid = np.linspace(1e-6, 1 - 1e-6, 400_001)
    other = ratio * grid + points
    inside = (other > 0) & (other < 1)
    likelihood = (
        x0 * np.log(grid[inside])
        + (n0 - x0) * np.log1p(-grid[inside])
        + x1 * np.log(other[inside])
        + (n1 - x1) * np.log1p(-other[inside])
    )
    assert p0 == pytest.approx(float(grid[inside][likelihood.argmax()]), abs=5e-6)


@pytest.mark.parametrize(
    ("control", "treatment"), [((1000, 100), (500, 60)), ((4000, 40), (1000, 18)), ((90, 9), (80, 3))]
)
def test_against_statsmodels(control: tuple[int, int], treatment: tuple[int, int]) -> None:
    """Difference over error is the score test of two proportions, without a margin and with one that is a factor.

    For a margin in points statsmodels 0.14 has a slip in the cubic, `count0` where n0 belongs; the brute force above is
    the judge there.
    """
    from statsmodels.stats.proportion import score_test_proportions_2indep

    for ratio in (1.0, 1.25, 0.8):
        said = null_moments(two_groups(control, treatment), ONE, 1, binary=True, factor=np.array([ratio]))
        other = score_test_proportions_2indep(
            treatment[1], treatment[0], control[1], control[0], value=ratio, compare="ratio", correction=True
        )
        assert float(said.difference[0] / said.error[0]) == pytest.approx(other.statistic, rel=1e-6)


def test_the_correction_makes_a_gamma_normal() -> None:
    """z of a gamma's upper and lower tail, corrected for its skewness, has the tail's own normal probability."""
    for skewness in (0.2, 0.5, 1.0):
        gamma = stats.gamma(4 / skewness**2)
        for tail in (1e-2, 1e-3, 1e-5):
            at = (gamma.isf(tail) - gamma.mean()) / gamma.std()
            said = NullMoments(*(np.array([one]) for one in (at, 1.0, skewness, 0.0, 1.0, 1.0)))
            assert float(said.z(1)[0]) == pytest.approx(stats.norm.isf(tail), rel=0.02)
            low = (gamma.ppf(tail) - gamma.mean()) / gamma.std()
            said = NullMoments(*(np.array([one]) for one in (low, 1.0, skewness, 0.0, 1.0, 1.0)))
            assert float(said.z(-1)[0]) == pytest.approx(stats.norm.isf(tail), rel=0.09)


def test_a_small_group_proves_nothing() -> None:
    """5 users of whom none converts, against a tenth of 1,000: by their own variance sure, by everybody's nothing."""
    said = null_moments(two_groups((1000, 100), (5, 0)), ONE, 1, binary=True)
    assert not said.counts[0]
    assert float(said.z(-1)[0]) < 1
    assert null_moments(two_groups((1000, 100), (500, 20)), ONE, 1, binary=True).counts[0]


@pytest.mark.parametrize("moments", [two_groups((1000, 0), (1000, 0)), two_groups((10, 10), (20, 20))])
def test_where_nobody_differs_no_look_counts(moments: Moments) -> None:
    """Without any variance in both groups together there is nothing to test."""
    assert not null_moments(moments, ONE, 1, binary=True).counts[0]


def test_a_margin_in_points_can_be_held_without_an_event() -> None:
    """No user of 5,000 a group fails: a rise of 0.2 points would have shown; of ten users it would not."""
    points = np.array([0.002])
    many = null_moments(two_groups((5000, 0), (5000, 0)), ONE, 1, binary=True, points=points)
    assert many.counts[0]
    assert float(many.z(-1)[0]) > 2
    few = null_moments(two_groups((10, 0), (10, 0)), ONE, 1, binary=True, points=points)
    assert not few.counts[0]
    assert not null_moments(two_groups((5000, 0), (5000, 0)), ONE, 1, binary=True, factor=np.array([1.25])).counts[0], (
        "a relative margin of nothing is nothing"
    )


def test_a_margin_of_a_ratio_is_the_test_of_the_divided_values() -> None:
    """A treatment that is exactly 10 % slower is exactly at a margin of 10 %."""
    y, z = RANDOM.lognormal(size=(2, 400)), RANDOM.integers(1, 5, (2, 400)).astype(float)
    groups = side_by_side([of_users(y[0], z[0]), of_users(1.1 * y[1], z[1])])
    plain = null_moments(side_by_side([of_users(y[0], z[0]), of_users(y[1], z[1])]), ONE, 1, estimator=Estimator.RATIO)
    margin = null_moments(groups, ONE, 1, estimator=Estimator.RATIO, factor=np.array([1.1]))
    for name in ("difference", "error", "skewness", "continuity", "information"):
        assert getattr(margin, name) == pytest.approx(getattr(plain, name), rel=EXACT)


def test_strata_are_combined_by_their_weights() -> None:
    """Two strata with the same users give the same difference, an error smaller by the root of 2, and less skewness."""
    one = proportions(np.array([[[900.0, 100.0]]]), np.array([[[90.0, 5.0]]]))
    two = proportions(np.array([[[900.0, 100.0]] * 2]).reshape(1, 2, 2), np.array([[[90.0, 5.0]] * 2]).reshape(1, 2, 2))
    alone = null_moments(one, ONE, 1, binary=True)
    both = null_moments(two, np.eye(2)[None], 1, binary=True)
    assert both.difference == pytest.approx(alone.difference, rel=EXACT)
    assert both.error == pytest.approx(alone.error / np.sqrt(2), rel=EXACT)
    assert both.skewness == pytest.approx(alone.skewness / np.sqrt(2), rel=EXACT)


def test_of_two_z_the_smaller_is_taken() -> None:
    """Both must cross; where they disagree about the direction, neither does."""
    first, second = np.array([3.0, -3.0, 3.0, np.inf, np.nan]), np.array([2.0, -4.0, -1.0, 5.0, 1.0])
    assert nearer_to_0(first, second)[:4].tolist() == [2.0, -3.0, 0.0, 5.0]
    assert np.isnan(nearer_to_0(first, second)[4])
