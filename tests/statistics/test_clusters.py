"""The mean over requests with an error that is clustered by user, and its intervals."""

import math

import numpy as np
import pytest
from abfleet_statistics.clusters import clustered_mean


def test_the_error_is_that_of_a_cluster_robust_regression() -> None:
    """On a constant alone, as statsmodels has it, but for its factor (n - 1) / n."""
    import statsmodels.api as sm

    random = np.random.default_rng(1)
    users = random.integers(0, 40, 500)
    values = random.normal(size=500) + random.normal(size=40)[users]
    found = clustered_mean(values, users)
    fit = sm.OLS(values, np.ones(500)).fit(cov_type="cluster", cov_kwds={"groups": users, "use_correction": False})
    assert found.mean == pytest.approx(values.mean())
    assert found.variance == pytest.approx(fit.bse[0] ** 2 * found.clusters / (found.clusters - 1))
    assert (found.n, found.clusters) == (500, len(np.unique(users)))


def test_requests_of_one_user_are_one_observation() -> None:
    """Each request ten times over says no more."""
    random = np.random.default_rng(2)
    values, users = random.random(100), np.arange(100)
    once, often = clustered_mean(values, users), clustered_mean(np.repeat(values, 10), np.repeat(users, 10))
    assert often.variance == pytest.approx(once.variance)
    assert once.variance == pytest.approx(values.var(ddof=1) / 100)


@pytest.mark.parametrize(("rate", "users", "each"), [(0.5, 60, 4), (0.97, 80, 3), (0.1, 100, 1)])
def test_the_bounded_interval_covers(rate: float, users: int, each: int) -> None:
    """Close to 95 % of 2,000 experiments, users' own rates varying, also near an end."""
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(2000):
        own = random.beta(rate * 8, (1 - rate) * 8, users)
        values = (random.random((users, each)) < own[:, None]).astype(float).ravel()
        low, high = clustered_mean(values, np.repeat(np.arange(users), each)).bounded_interval(0, 1)
        covered += low <= rate <= high
    assert 0.925 <= covered / 2000 <= 0.985


def test_all_alike_is_no_proof() -> None:
    """Ten users with one value each leave room; many leave less; one or none leave most or all."""

    def of(users: int) -> tuple[float, float]:
        return clustered_mean(np.ones(users), np.arange(users)).bounded_interval(0, 1)

    assert 0.6 < of(10)[0] < 0.8
    assert of(10)[0] < of(1000)[0] < of(1000)[1] == 1
    assert of(1)[0] < 0.25
    assert clustered_mean(np.zeros(0), np.zeros(0, int)).bounded_interval(-1, 1) == (-1, 1)
    low, high = clustered_mean(np.full(50, -1.0), np.arange(50)).bounded_interval(-1, 1)
    assert low == -1
    assert high < -0.8


def test_no_request_and_one_user() -> None:
    """Nothing is made up where nothing is known."""
    assert math.isnan(clustered_mean(np.zeros(0), np.zeros(0, int)).mean)
    one = clustered_mean(np.array([1.0, 2.0]), np.array([7, 7]))
    assert one.mean == 1.5
    assert all(map(math.isnan, one.interval()))
