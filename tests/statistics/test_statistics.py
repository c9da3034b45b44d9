"""The pure statistics against published tables, scipy, statsmodels, tea-tasting and brute force. Knows no log."""

import math

import numpy as np
import pytest
from abfleet_analysis.storage.fetching import storage_of
from abfleet_statistics import guardrails, sequential, srm
from abfleet_statistics.confidence_sequence import half_width
from abfleet_statistics.effects import Comparison, Estimator, compare, contrast_z
from abfleet_statistics.lookwise import LookwiseTest
from abfleet_statistics.moments import Cross, Moments, from_sums, of_users, proportions, side_by_side
from abfleet_statistics.sequential import Boundary, boundaries, spent, two_sided_p, upper
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
EXACT = 1e-9


def compared(control: Moments, treatment: Moments, estimator: Estimator = Estimator.MEAN) -> Comparison:
    return compare(side_by_side([control, treatment]), np.ones((1, 1, 1)), 1, estimator=estimator)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_a_relative_interval_knows_that_control_is_an_estimate() -> None:
    """1,000 of control at 10 %, 9,000 at 15 %: about 29 points each way, not 20, as if control's 10 % were known."""
    control, treatment = np.repeat([1.0, 0.0], [100, 900]), np.repeat([1.0, 0.0], [1350, 7650])
    found = compared(of_users(control), of_users(treatment))
    low, high = (float(end[0]) for end in found.relative_interval(1.96))
    assert (high - low) / 2 == pytest.approx(0.30, abs=0.01)
    for end in (low, high):  # Fieller: the ratios that the data does not refuse
        off = treatment.mean() - (1 + end) * control.mean()
        assert abs(off) == pytest.approx(1.96 * math.hypot(stats.sem(treatment), (1 + end) * stats.sem(control)))


def test_a_relative_interval_covers() -> None:
    """Of 4,000 experiments with few users of control, 95 % of the intervals have the truth inside."""
    random = np.random.default_rng(8)
    users = np.array([400.0, 3600.0])
    converted = random.binomial(users.astype(int), (0.10, 0.12), (4000, 2)).astype(float)
    sums = proportions(np.broadcast_to(users, (4000, 2))[:, None, :], converted[:, None, :])
    low, high = compare(sums, np.ones((4000, 1, 1)), 1).relative_interval(1.96)
    assert 0.94 < float(np.mean((low <= 0.2) & (high >= 0.2))) < 0.96


@pytest.mark.parametrize(("control", "treatment"), [((4, 400), (0, 40)), ((30, 100), (1, 9)), ((5, 5000), (2, 20))])
def test_no_relative_interval_reaches_below_nothing(control: tuple[int, int], treatment: tuple[int, int]) -> None:
    """What is never below 0 is never less by more than all of it. 0 is left out just where the difference does so."""
    groups = [of_users(np.repeat([1.0, 0.0], [x, n - x])) for x, n in (control, treatment)]
    found = compare(side_by_side(groups), np.ones((1, 1, 1)), 1, negative=False)
    low, high = (float(end[0]) for end in found.relative_interval(1.96))
    assert math.isnan(low) or low >= -1
    outside = abs(float(found.difference[0])) > 1.96 * float(found.standard_error[0])
    assert math.isnan(low) or outside == (not low <= 0 <= high)


def test_a_control_that_may_be_nothing_has_no_relative_interval() -> None:
    """3 of 100: any ratio is possible."""
    found = compared(of_users(np.repeat([1.0, 0.0], [3, 97])), of_users(np.repeat([1.0, 0.0], [9, 91])))
    assert np.isnan(found.relative_interval(1.96)).all()


def test_a_control_below_nothing_is_measured_by_its_size() -> None:
    """-9 is a tenth better than -10, as 10 is a tenth worse than 11: what is taken from refunds is a gain."""
    random = np.random.default_rng(5)
    control, treatment = random.normal(10, 3, 2000), random.normal(9, 3, 2000)
    losses, gains = compared(of_users(-control), of_users(-treatment)), compared(of_users(control), of_users(treatment))
    assert losses.relative_difference == pytest.approx(-gains.relative_difference)
    assert 0.05 < losses.relative_difference[0] < 0.15
    low, high = gains.relative_interval(1.96)
    assert losses.relative_interval(1.96) == (pytest.approx(-high), pytest.approx(-low))


# --- boundaries ------------------------------------------------------------------------------------------------------


def test_boundary_of_28_looks() -> None:
    """The O'Brien-Fleming-like boundary at 0.0125 has the published values at looks 1, 7, 14, 21 and 28."""
    looks = range(1, 29)
    found = boundaries(0.0125, [look / 28 for look in looks], list(looks))
    assert found[[0, 6, 13, 20, 27]] == pytest.approx([7.94, 4.87, 3.41, 2.77, 2.397], abs=0.006)


def test_boundary_of_the_textbook() -> None:
    """Five equal looks at 0.025 give the table of Lan and DeMets' method (ldbounds, PASS)."""
    found = boundaries(0.025, [0.2, 0.4, 0.6, 0.8, 1.0], [1, 2, 3, 4, 5])
    assert found == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)


def test_boundary_is_crossed_as_often_as_was_spent() -> None:
    """With unequal steps of information, P(any crossing) under no effect is alpha."""
    information = np.array([1.0, 1.5, 4.0, 9.0, 10.0])
    found = boundaries(0.05, [0.2, 0.4, 0.6, 0.8, 1.0], information.tolist())
    steps = np.sqrt(np.diff(information, prepend=0.0))
    draws = np.random.default_rng(1).normal(size=(400_000, 5)) * steps
    crossed = (draws.cumsum(axis=1) / np.sqrt(information) > found).any(axis=1).sum()
    assert stats.binomtest(int(crossed), 400_000, 0.05).pvalue > 0.001


def test_a_look_without_information_spends_nothing() -> None:
    """The boundary stays, and what was not spent then can be spent later."""
    stalled = boundaries(0.025, [0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 2.0, 3.0])
    without = boundaries(0.025, [0.25, 0.75, 1.0], [1.0, 2.0, 3.0])
    assert stalled[1] == stalled[0]
    assert stalled[[0, 2, 3]] == pytest.approx(without)


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=12), st.sampled_from([0.005, 0.0125, 0.05]))
@example([3.0] + [1.0] * 11, 0.005)
@settings(max_examples=30, deadline=None)
def test_boundary_lies_in_its_bracket(steps: list[float], alpha: float) -> None:
    """The cheap bounds on a boundary hold whatever the information is, so a test that uses them decides alike."""
    information, looks = np.cumsum(steps), len(steps)
    boundary = Boundary(alpha)
    for look in range(1, looks + 1):
        low, high = boundary.bracket(look / looks)
        assert low <= boundary.advance(look / looks, float(information[look - 1])) <= high


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_lookwise_test_agrees_with_its_boundary(seed: int) -> None:
    """Deciding by bounds first gives the same answer at each look as computing every boundary."""
    random = np.random.default_rng(seed)
    information = random.gamma(2, size=10).cumsum()
    z = random.normal(1.5, 1.5, size=11)
    spread = 1 / np.append(information, information[-1])
    none = np.zeros(11)
    comparison = Comparison(none, none, none + 1, none + 1, spread, none, none, none)
    fractions = tuple(look / 10 for look in range(1, 11))
    lazily = LookwiseTest(0.025, fractions, comparison, z)
    exact = boundaries(0.025, fractions, comparison.information[:10].tolist())
    assert [lazily.crosses(look) for look in range(10)] == [bool(z[look] >= exact[look]) for look in range(10)]


def test_spending_ends_at_alpha() -> None:
    """All of alpha is spent at the horizon, none before the first look, and never less with time."""
    path = [spent(0.02, look / 50) for look in range(51)]
    assert path[0] == 0
    assert path[-1] == pytest.approx(0.02, abs=1e-12)
    assert path == sorted(path)
    assert upper(0.025) == pytest.approx(stats.norm.isf(0.025), abs=EXACT)


# --- effects ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def samples() -> tuple[Floats, Floats]:
    random = np.random.default_rng(7)
    return random.gamma(2.0, 3.0, size=613), random.gamma(2.2, 3.0, size=431)


def test_mean_agrees_with_scipy_and_statsmodels(samples: tuple[Floats, Floats]) -> None:
    """Difference, standard error, p and interval are those of the two-sample z-test with unequal variances."""
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    control, treatment = samples
    found = compared(of_users(control), of_users(treatment))
    oracle = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    z, p = oracle.ztest_ind(usevar="unequal")
    assert float(contrast_z(found)[0]) == pytest.approx(z, abs=EXACT)
    assert float(contrast_z(found)[0]) == pytest.approx(
        stats.ttest_ind(treatment, control, equal_var=False).statistic, abs=EXACT
    )
    assert float(two_sided_p(contrast_z(found))[0]) == pytest.approx(p, abs=EXACT)
    low, high = oracle.zconfint_diff(usevar="unequal")
    half = stats.norm.ppf(0.975) * float(found.standard_error[0])
    assert (found.difference[0] - half, found.difference[0] + half) == pytest.approx((low, high), abs=EXACT)


def test_proportion_agrees_with_scipy() -> None:
    """A share of users is a mean of zeros and ones."""
    control, treatment = np.repeat([1.0, 0.0], [46, 9954]), np.repeat([1.0, 0.0], [69, 9931])
    found = compared(of_users(control), of_users(treatment))
    assert (found.baseline[0], found.value[0]) == (0.0046, 0.0069)
    t = stats.ttest_ind(treatment, control, equal_var=False)
    assert float(contrast_z(found)[0]) == pytest.approx(t.statistic, abs=EXACT)


def test_ratio_agrees_with_the_delta_method(samples: tuple[Floats, Floats]) -> None:
    """A ratio of means has the variance of its linearisation, computed here from the covariance matrix."""
    random = np.random.default_rng(3)
    variances, ratios, groups = [], [], []
    for calls in (random.poisson(4, size=500) + 1.0, random.poisson(5, size=300) + 1.0):
        clicks = random.binomial(calls.astype(int), 0.1).astype(float)
        ratio, mean = clicks.mean() / calls.mean(), calls.mean()
        gradient = np.array([1 / mean, -ratio / mean])
        variances.append(gradient @ np.cov(clicks, calls) @ gradient / len(calls))
        ratios.append(ratio)
        groups.append(of_users(clicks, calls))
    found = compared(*groups, estimator=Estimator.RATIO)
    assert (found.baseline[0], found.value[0]) == pytest.approx(tuple(ratios), abs=EXACT)
    assert found.standard_error[0] == pytest.approx(math.sqrt(sum(variances)), abs=EXACT)


def test_agrees_with_tea_tasting() -> None:
    """Means, ratios and CUPED give what tea-tasting gives for the same users."""
    import ibis
    import pyarrow as pa
    import tea_tasting as tt

    random = np.random.default_rng(11)
    before = random.gamma(2, size=2000)
    variant = random.binomial(1, 0.3, size=2000)
    revenue = before + random.gamma(2, size=2000) + 0.1 * variant
    calls = random.poisson(3, size=2000) + 1.0
    clicks = random.binomial(calls.astype(int), 0.2).astype(float)
    columns = {"variant": variant, "revenue": revenue, "before": before, "clicks": clicks, "calls": calls}
    table = storage_of(ibis.duckdb.connect()).keep("users", pa.table(columns))
    oracle = tt.Experiment(
        mean=tt.Mean("revenue", use_t=False),
        cuped=tt.Mean("revenue", covariate="before", use_t=False),
        ratio=tt.RatioOfMeans("clicks", "calls", use_t=False),
    ).analyze(table)

    def split(y: Floats, z: Floats | None, estimator: Estimator) -> Comparison:
        groups = [of_users(y[variant == g], None if z is None else z[variant == g]) for g in (0, 1)]
        return compared(groups[0], groups[1], estimator)

    for name, found in {
        "mean": split(revenue, None, Estimator.MEAN),
        "cuped": split(revenue, before, Estimator.CUPED),
        "ratio": split(clicks, calls, Estimator.RATIO),
    }.items():
        expected = oracle[name]
        assert (found.baseline[0], found.value[0]) == pytest.approx((expected.control, expected.treatment), abs=EXACT)
        assert float(contrast_z(found)[0]) == pytest.approx(expected.statistic, abs=EXACT)
        assert float(two_sided_p(contrast_z(found))[0]) == pytest.approx(expected.pvalue, abs=EXACT)


def test_strata_are_standardised_by_the_same_weights() -> None:
    """Two strata with different base rates and shares: no effect in either gives none together (Simpson)."""
    n = np.array([[[900.0, 100.0], [500.0, 500.0]]])
    y = n * np.array([[[0.10, 0.10], [0.30, 0.30]]])
    none = np.zeros_like(n)
    moments = from_sums([n, y, none, y, none, none, y])
    found = compare(moments, np.eye(2)[None], 1)
    assert found.difference[0] == pytest.approx(0, abs=1e-15)
    weights = n[0].prod(axis=1) / n[0].sum(axis=1)
    assert found.value[0] == pytest.approx((weights * [0.1, 0.3]).sum() / weights.sum())


@pytest.mark.parametrize("estimator", [Estimator.MEAN, Estimator.RATIO])
def test_users_in_two_strata_enter_with_their_covariance(estimator: Estimator) -> None:
    """The variance over two allocations is that of each user's summed influence, computed here user by user."""
    random = np.random.default_rng(5)
    groups: list[tuple[Floats, Floats, Floats]] = []
    for size in (400, 300):
        level = random.gamma(2, size=(size, 1))
        z = random.poisson(4, size=(size, 2)) + 1.0
        here = random.random((size, 2)) < [0.9, 0.6]
        groups.append(((level + random.gamma(1, size=(size, 2))) * here, z * here, here.astype(float)))
    sums = [
        np.stack([values(g) for g in groups], axis=1)[None]
        for values in (
            lambda g: g[2].sum(axis=0),
            lambda g: g[0].sum(axis=0),
            lambda g: g[1].sum(axis=0),
            lambda g: (g[0] ** 2).sum(axis=0),
            lambda g: (g[0] * g[1]).sum(axis=0),
            lambda g: (g[1] ** 2).sum(axis=0),
            lambda g: (g[0] != 0).sum(axis=0).astype(float),
        )
    ]

    def both(first: int, second: int) -> Floats:
        totals = [(g[first][:, 0] * g[2][:, 1] * g[second][:, 1] * g[2][:, 0]).sum() for g in groups]
        return np.array([[totals]])

    cross = Cross(
        np.array([0]),
        np.array([1]),
        both(2, 2),
        both(0, 2),
        both(1, 2),
        both(2, 0),
        both(2, 1),
        both(0, 0),
        both(0, 1),
        both(1, 0),
        both(1, 1),
    )
    found = compare(from_sums(sums, cross), np.eye(2)[None], 1, estimator=estimator)
    alone = compare(from_sums(sums), np.eye(2)[None], 1, estimator=estimator)
    n = sums[0][0]
    weights = n.prod(axis=1) / n.sum(axis=1)
    weights = weights / weights.sum()
    expected = []
    for index, (y, z, here) in enumerate(groups):
        influence = np.zeros(len(y))
        for stratum in range(2):
            inside = here[:, stratum] > 0
            if estimator is Estimator.RATIO:
                ratio = y[inside, stratum].sum() / z[inside, stratum].sum()
                part = (y[:, stratum] - ratio * z[:, stratum]) / z[inside, stratum].mean()
            else:
                part = y[:, stratum] - y[inside, stratum].mean()
            influence += weights[stratum] * np.where(inside, part, 0) / n[stratum, index]
        expected.append((influence**2).sum())
    assert found.variance[0] == pytest.approx(expected[1], rel=0.005)
    assert found.baseline_variance[0] == pytest.approx(expected[0], rel=0.005)
    if estimator is Estimator.MEAN:
        assert alone.variance[0] < 0.9 * found.variance[0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_moments_add(seed: int, cut: int) -> None:
    """The moments of two sets of users add up to those of all of them, in any order."""
    random = np.random.default_rng(seed)
    y, z = random.normal(size=50), random.normal(size=50)
    whole = of_users(y, z)
    first, second = of_users(y[:cut], z[:cut]), of_users(y[cut:], z[cut:])
    for total in (first + second, second + first):
        assert np.allclose(total.sums(), whole.sums())


def test_no_variance_and_no_difference_is_no_evidence() -> None:
    """Two constant groups: z is 0 where they agree, and infinite where they do not."""
    same = compared(of_users(np.ones(10)), of_users(np.ones(20)))
    other = compared(of_users(np.ones(10)), of_users(np.full(20, 2.0)))
    assert contrast_z(same)[0] == 0
    assert contrast_z(other)[0] == np.inf


# --- shares, guardrails and intervals --------------------------------------------------------------------------------


def test_chi_square_agrees_with_scipy() -> None:
    """Statistic and p are scipy's."""
    observed, shares = np.array([6983.0, 2071.0, 946.0]), np.array([0.7, 0.2, 0.1])
    statistic, degrees = srm.chi_square(observed, shares)
    oracle = stats.chisquare(observed, shares * observed.sum())
    assert float(statistic) == pytest.approx(oracle.statistic, abs=EXACT)
    assert float(srm.chi_square_p(statistic, degrees)) == pytest.approx(oracle.pvalue, abs=EXACT)


def test_log_e_value_is_the_ratio_of_likelihoods() -> None:
    """ln E is the log of the Dirichlet-multinomial probability over the multinomial one."""
    observed, shares = np.array([70.0, 25.0, 9.0]), np.array([0.7, 0.2, 0.1])
    alternative = stats.dirichlet_multinomial.logpmf(observed.astype(int), srm.PRIOR_COUNTS * shares, 104)
    null = stats.multinomial.logpmf(observed, 104, shares)
    assert float(srm.log_e_value(observed, shares)) == pytest.approx(alternative - null, abs=1e-9)


def test_shares_need_not_sum_to_one_in_floating_point() -> None:
    """[.7, .2, .1] sums to 0.9999…; a group with share 0 takes no part, and nobody is no evidence."""
    assert np.isfinite(srm.log_e_value(np.array([7.0, 2.0, 1.0]), np.array([0.7, 0.2, 0.1])))
    with_empty = srm.log_e_value(np.array([7.0, 3.0, 5.0]), np.array([0.7, 0.3, 0.0]))
    assert float(with_empty) == pytest.approx(float(srm.log_e_value(np.array([7.0, 3.0]), np.array([0.7, 0.3]))))
    assert float(srm.log_e_value(np.zeros(2), np.array([0.5, 0.5]))) == 0.0


def test_guardrail_is_a_supermartingale_at_the_tolerated_ratio() -> None:
    """E's mean after one event is 1 at the tolerated ratio and below 1 under it, whatever the share."""
    for share in (0.05, 0.3, 0.5):
        for ratio in (1.0, 1.25):
            theta = share * ratio / (1 - share + share * ratio)
            one = np.array([1.0])
            up = np.exp(guardrails.log_e_process(one, one * 0, np.array([share])))[0]
            down = np.exp(guardrails.log_e_process(one * 0, one, np.array([share])))[0]
            mean = theta * up + (1 - theta) * down
            assert mean == pytest.approx(1.0) if ratio == 1.25 else mean < 1


def test_guardrail_seldom_cries_wolf_and_always_finds_a_fault() -> None:
    """Over 2,000 events at the tolerated ratio E reaches 1/alpha in at most alpha of paths; at five times, always."""
    random = np.random.default_rng(2)
    share = np.full(2000, 0.125)

    def acted(ratio: float) -> int:
        theta = 0.125 * ratio / (0.875 + 0.125 * ratio)
        count = 0
        for _ in range(400):
            x = (random.random(2000) < theta).astype(float)
            count += bool(guardrails.acts(guardrails.log_e_process(x, 1 - x, share))[-1])
        return count

    assert acted(1.25) <= stats.binom.ppf(0.999, 400, guardrails.ALPHA)
    assert acted(5 * 1.25) == 400


def test_guardrail_without_events_neither_acts_nor_passes() -> None:
    """No data leaves E at 1."""
    assert guardrails.log_e_process(np.zeros(0), np.zeros(0), np.zeros(0)).tolist() == []
    assert guardrails.log_e_process(np.zeros(1), np.zeros(1), np.array([0.2])).tolist() == [0.0]


def test_confidence_sequence_covers_at_every_look() -> None:
    """Over 400 paths of 10,000 users the interval ever leaves out the truth in at most 5 %."""
    random = np.random.default_rng(4)
    users = np.arange(500, 10_001, 100)
    ever = 0
    for _ in range(400):
        sums = random.normal(size=10_000).cumsum()[users - 1]
        half = half_width(1 / np.sqrt(users), users.astype(float), 10_000)
        ever += bool((np.abs(sums / users) > half).any())
    assert ever <= stats.binom.ppf(0.999, 400, 0.05)
    assert half_width(np.array([0.01]), np.array([10_000.0]), 10_000)[0] == pytest.approx(0.01 * 3.0, rel=0.05)
    assert np.isnan(half_width(np.array([0.01]), np.array([10.0]), math.nan)[0])


@pytest.mark.parametrize("count", [16, 48, 112, 512])
def test_points_of_the_integral_are_numpys(count: int) -> None:
    """The rule of Gauss and Legendre: numpy finds it as eigenvalues, in a time that grows with the third power."""
    nodes, weights = sequential._legendre(count)
    right_nodes, right_weights = np.polynomial.legendre.leggauss(count)
    np.testing.assert_allclose(nodes, right_nodes, rtol=0, atol=1e-15)
    np.testing.assert_allclose(weights, right_weights, rtol=1e-8)


def test_points_of_the_finest_integral_are_exact() -> None:
    """A rule of 2,000 points integrates polynomials of degree 3,999 exactly; even powers are 2 / (k + 1)."""
    nodes, weights = sequential._legendre(2000)
    for power in (0, 2, 40, 1000, 3998):
        assert weights @ nodes**power == pytest.approx(2 / (power + 1), rel=1e-11)
