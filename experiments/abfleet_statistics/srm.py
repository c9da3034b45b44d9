"""Did each group get its share of users?

Two tests of sample-ratio mismatch (Fabijan et al., KDD 2019). The sequential one holds however often one looks: the
multinomial test of Lindon & Malek (arXiv 2011.03567), a Bayes factor with a Dirichlet prior of k = 1,000 pseudo-counts
around the expected shares q:

    ln E = sum(lnGamma(k q_i + n_i) - lnGamma(k q_i)) + lnGamma(k) - lnGamma(k + N) - sum(n_i ln q_i)

P(E ever reaches 1/alpha) <= alpha if the shares are as expected. Over several allocations, whose users are different
ones, the ln E add. The other is Pearson's chi-square, right for one look only.

Limits: with 150,000 users a loss of less than about 3 % of one group's exposures cannot be told from chance.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics.tails import chi_square_above, log_gamma

Floats = NDArray[np.float64]

PRIOR_COUNTS: Final = 1000.0
ALPHA: Final = 0.0005
"""The analysis refuses where E reaches 1/ALPHA."""
ALPHA_AT_SHIPPING: Final = 0.01
"""A chi-square p below this when about to ship asks for a check first."""


def log_e_value(observed: Floats, shares: Floats) -> Floats:
    """ln E of the sequential test: float64[...] from observed users and expected shares, both float64[..., groups].

    Shares are scaled to sum to 1. A group with share 0 takes no part, nor does a row without users.
    """
    n, q = _taking_part(observed, shares)
    a = PRIOR_COUNTS * q
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(q > 0, log_gamma(a + n) - log_gamma(a) - n * np.log(q), 0.0)
    total = n.sum(-1)
    log_e = terms.sum(-1) + log_gamma(PRIOR_COUNTS) - log_gamma(PRIOR_COUNTS + total)
    return np.where(total > 0, log_e, 0.0)


def chi_square(observed: Floats, shares: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Pearson's statistic and its degrees of freedom, each [...], from users and shares, both float64[..., groups]."""
    n, q = _taking_part(observed, shares)
    expected = n.sum(-1, keepdims=True) * q
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(expected > 0, (n - expected) ** 2 / expected, 0.0).sum(-1)
    return statistic, np.maximum((expected > 0).sum(-1) - 1, 0)


def chi_square_p(statistic: Floats, degrees: NDArray[np.int64]) -> Floats:
    """P(a chi-square of these degrees of freedom is larger); 1 where there are none."""
    return np.where(degrees > 0, chi_square_above(np.maximum(degrees, 1), statistic), 1.0)


def _taking_part(observed: Floats, shares: Floats) -> tuple[Floats, Floats]:
    observed, shares = np.broadcast_arrays(np.asarray(observed, np.float64), np.asarray(shares, np.float64))
    total = shares.sum(-1, keepdims=True)
    q = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    return np.where(q > 0, observed, 0.0), q
