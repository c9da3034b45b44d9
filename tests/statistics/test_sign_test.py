"""The exact sign test against SciPy's binomial."""

import math

import pytest
from abfleet_statistics.sign_test import at_least, interval, two_sided_p, z_of_sign
from scipy.stats import binom, binomtest, norm

COUNTS = [
    (0, 1),
    (1, 1),
    (3, 4),
    (9, 9),
    (0, 9),
    (5, 10),
    (12, 20),
    (57, 100),
    (310, 540),
    (5_200, 10_000),
    (500_900, 1_000_000),
]


@pytest.mark.parametrize(("count", "of"), COUNTS)
def test_tails_and_p_are_scipys(count: int, of: int) -> None:
    """Both tails at several shares, and the two-sided p of the sign test."""
    for share in (0.5, 0.3, 0.9):
        assert at_least(count, of, share) == pytest.approx(float(binom.sf(count - 1, of, share)), rel=1e-8)
    assert two_sided_p(count, of) == pytest.approx(binomtest(count, of).pvalue, rel=1e-8)


@pytest.mark.parametrize(("count", "of"), COUNTS)
@pytest.mark.parametrize("tail", [0.025, 1e-5, 1e-12])
def test_the_interval_is_clopper_and_pearsons(count: int, of: int, tail: float) -> None:
    """Whatever its tails, which early looks make very small."""
    wanted = binomtest(count, of).proportion_ci(1 - 2 * tail, method="exact")
    assert interval(count, of, tail) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_z_is_that_of_the_exact_tail() -> None:
    """Nine of nine is 1 in 512; of nobody there is none."""
    assert z_of_sign(9, 9) == pytest.approx(float(norm.isf(0.5**9)))
    assert z_of_sign(0, 0) == -math.inf
