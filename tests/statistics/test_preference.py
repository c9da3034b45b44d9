"""The sign test of users, repeated at looks: its covariance, its boundary, and what it promises."""

import math

import numpy as np
import pytest
from abfleet_statistics.preference import MOST_CHAINED, Preferences, PreferenceTest
from abfleet_statistics.sequential import boundaries, spent, upper
from numpy.typing import NDArray

LOOKS = 28
FRACTIONS = tuple((look + 1) / LOOKS for look in range(LOOKS))


def preferences(signs: NDArray[np.float64]) -> Preferences:
    """Of users' signs at each look: [users, looks]."""
    return Preferences((signs > 0).sum(axis=0), (signs < 0).sum(axis=0), signs.T @ signs)


def turning(random: np.random.Generator, users: int) -> NDArray[np.float64]:
    """Users who act at every look, without any preference, so that they change sides often."""
    return np.sign(random.normal(size=(users, LOOKS)).cumsum(axis=1))


def staying(random: np.random.Generator, users: int) -> NDArray[np.float64]:
    """As many new users at every look, who never change sides."""
    first = np.arange(users) % LOOKS
    return np.where(np.arange(LOOKS) >= first[:, None], random.choice([-1.0, 1.0], size=(users, 1)), 0.0)


def crossed(signs: NDArray[np.float64]) -> bool:
    """Whether a boundary was crossed at any look."""
    test = PreferenceTest(preferences(signs), FRACTIONS)
    return any(test.crossed(look) for look in range(signs.shape[1]))


def test_users_who_stay_have_the_boundary_of_independent_increments() -> None:
    """Nothing is lost where nobody changes sides: it is that of every other metric."""
    signs = staying(np.random.default_rng(1), LOOKS * 40)
    test = PreferenceTest(preferences(signs), FRACTIONS)
    found = [test.boundary(look) for look in range(LOOKS)]
    assert found == pytest.approx(boundaries(0.025, FRACTIONS, (np.abs(signs).sum(axis=0)).tolist()), abs=2e-3)


def test_users_who_change_sides_have_a_higher_boundary() -> None:
    """And never one above what each look spends alone."""
    test = PreferenceTest(preferences(turning(np.random.default_rng(1), 2_000)), FRACTIONS)
    found = np.array([test.boundary(look) for look in range(LOOKS)])
    usual = boundaries(0.025, FRACTIONS, list(FRACTIONS))
    alone = [upper(gain) for gain in np.diff([0.0, *(spent(0.025, at) for at in FRACTIONS)])]
    assert (found[12:] > usual[12:] + 0.1).all()
    assert (found <= np.minimum(alone, 7.95) + 1e-6).all()


def test_the_chain_correlates_at_no_two_looks_more_than_users_do() -> None:
    """Which is what Slepian's inequality asks for."""
    found = preferences(turning(np.random.default_rng(3), 500))
    test = PreferenceTest(found, FRACTIONS)
    for look in range(LOOKS):
        test.boundary(look)
        chained = test._chained
        if chained[-1] == look:
            users = found.users
            of_users = found.together[chained, look] / np.sqrt(users[chained] * users[look])
            assert (test._spreads <= of_users + 1e-9).all()


@pytest.mark.parametrize(("draw", "users"), [(turning, 300), (staying, 300), (turning, 12), (staying, 40)])
def test_without_a_preference_a_boundary_is_crossed_as_seldom_as_promised(draw, users: int) -> None:  # type: ignore[no-untyped-def]
    """At any of 28 looks in at most 5 % of 400 experiments, allowing for chance at 0.1 %."""
    count = sum(crossed(draw(np.random.default_rng([5, run]), users)) for run in range(400))
    assert count <= 34


def test_independent_increments_would_not_keep_the_promise() -> None:
    """With the usual boundary, users who change sides make a false preference of one in ten experiments or more."""
    usual, runs, count = boundaries(0.025, FRACTIONS, list(FRACTIONS)), 1_000, 0
    for run in range(runs):
        found = preferences(turning(np.random.default_rng([7, run]), 300))
        z = (found.first - found.second) / np.sqrt(found.users)
        count += bool((np.abs(z) >= usual).any())
    assert count / runs > 0.065


def test_a_look_at_which_nobody_has_a_side_does_not_count() -> None:
    """It spends nothing, so the next look has all of it."""
    signs = np.concatenate([np.zeros((50, 1)), np.ones((50, 1))], axis=1)
    test = PreferenceTest(preferences(signs), (0.5, 1.0))
    assert (test.crossed(0), test.boundary(0)) == (0, math.inf)
    assert test.boundary(1) == pytest.approx(upper(0.025))
    assert test.crossed(1) == 1


def test_few_users_prove_nothing() -> None:
    """Five of five are 1 in 32, whatever a standard error of 0 says; six of six are 1 in 64, less than 2.5 %."""
    assert [PreferenceTest(preferences(np.ones((users, 1))), (1.0,)).crossed(0) for users in (5, 6)] == [0, 1]


def test_looks_that_disagree_are_tested_alone() -> None:
    """Where most users have changed sides no chain is below them; what is spent is spent once."""
    half = np.array([[1.0, -1.0]] * 30 + [[1.0, 1.0]] * 10)
    test = PreferenceTest(preferences(half), (0.5, 1.0))
    assert test.boundary(1) == pytest.approx(upper(0.025 - spent(0.025, 0.5)))


def test_more_looks_than_a_chain_has() -> None:
    """Later ones are tested alone, and need no sums of all earlier ones."""
    looks = MOST_CHAINED + 5
    few = Preferences(np.full(looks, 80), np.full(looks, 60), np.full((MOST_CHAINED, MOST_CHAINED), 140.0))
    test = PreferenceTest(few, tuple((look + 1) / looks for look in range(looks)))
    assert test.boundary(looks - 1) > 3
    assert test.crossed(looks - 1) == 0


def test_the_interval_leaves_out_none_just_where_the_boundary_is_crossed() -> None:
    """A verdict never contradicts the interval beside it."""
    random = np.random.default_rng(11)
    for _ in range(20):
        signs = np.sign(random.normal(0.12, 1, size=(400, LOOKS)).cumsum(axis=1))
        test = PreferenceTest(preferences(signs), FRACTIONS)
        for look in (5, 14, 27):
            low, high = test.interval(look)
            assert (low > 0) == (test.crossed(look) == 1)
            assert (high < 0) == (test.crossed(look) == -1)
