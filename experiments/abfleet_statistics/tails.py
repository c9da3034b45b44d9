"""Tails of the normal and chi-square distributions, and ln Gamma, of arrays. Knows no test.

These are Python's own functions of one number, number by number. scipy has all of them, and importing it takes ten
times as long as a report's statistics: with it come numpy's test and Fortran tools.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_NORMAL = NormalDist()


def below(z: ArrayLike) -> Floats:
    """P(Z <= z) of a standard normal, also where it is as small as numbers get."""
    numbers = np.asarray(z, np.float64)
    return np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in numbers.ravel().tolist()]).reshape(numbers.shape)


def quantile(probability: float) -> float:
    """The z below which a standard normal lies with this probability; infinite at 0 and 1, nan outside."""
    if 0 < probability < 1:
        return _NORMAL.inv_cdf(probability)
    return -math.inf if probability == 0 else math.inf if probability == 1 else math.nan


def log_gamma(x: ArrayLike) -> Floats:
    """ln Gamma of numbers from 0 on; infinite at 0."""
    numbers = np.asarray(x, np.float64)
    return np.array([math.lgamma(one) if one else math.inf for one in numbers.ravel().tolist()]).reshape(numbers.shape)


def chi_square_above(degrees: ArrayLike, statistic: ArrayLike) -> Floats:
    """P(a chi-square of so many degrees of freedom, whole ones from 1 on, is larger); nan of nan."""
    k, x = np.broadcast_arrays(np.asarray(degrees), np.asarray(statistic, np.float64))
    pairs = zip(k.ravel().tolist(), x.ravel().tolist(), strict=True)
    return np.array([_chi_square_above(int(k), x) for k, x in pairs]).reshape(x.shape)


def _chi_square_above(degrees: int, statistic: float) -> float:
    """The sum that integration by parts gives; its terms are positive, so that nothing cancels."""
    half = statistic / 2
    if not half > 0:
        return half if math.isnan(half) else 1.0
    if math.isinf(half):
        return 0.0
    first = 0.5 if degrees % 2 else 0.0
    terms = (math.exp((first + n) * math.log(half) - half - math.lgamma(first + n + 1)) for n in range(degrees // 2))
    return min((math.erfc(math.sqrt(half)) if first else 0.0) + math.fsum(terms), 1.0)
