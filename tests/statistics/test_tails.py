"""Tails of distributions against scipy's, which a report does not import for them."""

import numpy as np
from abfleet_statistics import tails
from scipy import special


def test_normal_tails_agree_with_scipy() -> None:
    """Also where a tail is as small as numbers get, and at the ends."""
    z = np.concatenate([np.linspace(-37, 9, 2001), [-np.inf, np.inf]])
    np.testing.assert_allclose(tails.below(z), special.ndtr(z), rtol=1e-12)
    assert tails.below(0.0) == 0.5
    assert np.isnan(tails.below(np.nan))
    tail = np.concatenate([10.0 ** -np.arange(1, 300, 0.37), np.linspace(0, 1, 999)])
    np.testing.assert_allclose([tails.quantile(one) for one in tail.tolist()], special.ndtri(tail), rtol=1e-12)
    assert np.isnan(tails.quantile(1.5))


def test_log_gamma_agrees_with_scipy() -> None:
    """From nought to more users than there are people, in any shape."""
    x = np.concatenate([[0.0], 10 ** np.linspace(-6, 11, 1001)]).reshape(2, -1)
    np.testing.assert_allclose(tails.log_gamma(x), special.gammaln(x), rtol=1e-12)


def test_chi_square_agrees_with_scipy() -> None:
    """For odd and even degrees, few and many, from nought to where nothing is left of the tail."""
    degrees = np.array([1, 2, 3, 4, 5, 8, 11, 30, 61, 200, 1001])[:, None]
    statistic = np.concatenate([[0.0, np.inf], 10 ** np.linspace(-8, 3.5, 501)])[None]
    expected = special.chdtrc(degrees, statistic)
    found = tails.chi_square_above(degrees, statistic)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-290)
    assert np.isnan(tails.chi_square_above(3, np.nan))
