"""Quantiles of calls, from histograms with bins of 0.1 %.

The variance of a sample quantile is that of the share of calls above it divided by the squared density there. The share
is a ratio of sums over users, which effects.py computes; the density comes from the histogram by Woodruff's interval
(JASA 1952): how far the quantile moves when the share moves by what 1.96 standard errors of it would be.

Limits: a value is exact to 0.1 % (a bin is as wide, and gives the mean of the calls in it), and the share's variance is
taken at a point near the group's quantile at that time. It is scaled to the share that the quantile has above it, as
p (1 - p) is; by a factor of two at most, beyond which the point is not near.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics.effects import QuantileScale, merged
from abfleet_statistics.moments import Floats, Moments

BINS_PER_E: Final = 1000
"""Bins for each factor of e: neighbours are 0.1 % apart."""


def quantile_scale(
    moments: Moments, membership: Floats, counts: Floats, totals: Floats, *, probability: float
) -> QuantileScale:
    """The quantile in each stratum, and how far it moves with the share of calls above it.

    moments: y calls above the point, z calls; counts, totals: float64[times, cells, groups, bins], calls and their
    summed values, cumulative, bins ascending.
    """
    times, strata, _ = membership.shape
    value = np.full((times, strata, moments.n.shape[2]), np.nan)
    per_share = np.full_like(value, np.nan)
    error = np.sqrt(_share_variance(moments, membership, probability))
    for time in range(times):
        calls = np.einsum("sc,cgb->sgb", membership[time], counts[time])
        sums = np.einsum("sc,cgb->sgb", membership[time], totals[time])
        for stratum in range(strata):
            for group in range(value.shape[2]):
                mine = calls[stratum, group]
                if mine.sum() >= 1:
                    means = np.divide(sums[stratum, group], mine, out=np.zeros_like(mine), where=mine > 0)
                    step = 1.96 * error[time, stratum, group]
                    at = np.array([probability, probability - step, probability + step])
                    low, middle, high = _points(mine, means, at)[[1, 0, 2]]
                    value[time, stratum, group] = middle
                    per_share[time, stratum, group] = (high - low) / (2 * step) if step > 0 else 0.0
    return QuantileScale(value, per_share)


def _points(counts: Floats, means: Floats, probabilities: Floats) -> Floats:
    """The mean of the bin in which each quantile lies; nan probabilities give nan."""
    filled = np.flatnonzero(counts)
    ranks = np.clip(np.nan_to_num(probabilities), 0, 1) * counts.sum()
    index = np.searchsorted(counts[filled].cumsum(), ranks - 1e-9)
    result = means[filled[np.minimum(index, len(filled) - 1)]]
    return np.where(np.isnan(probabilities), np.nan, result)


def _share_variance(moments: Moments, membership: Floats, probability: float) -> Floats:
    """Variance of the share of calls above the quantile, clustered by user: float64[times, strata, groups]."""
    n, y, z, yy, yz, zz = (merged(membership, part) for part in moments.sums()[:6])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = y / z
        at_point = np.maximum((yy - 2 * ratio * yz + ratio * ratio * zz) / (n - 1) * n / (z * z), 0)
        scale = probability * (1 - probability) / (ratio * (1 - ratio))
        return np.where((scale >= 0.5) & (scale <= 2), at_point * scale, at_point)


def point(counts: Floats, totals: Floats, probability: float) -> float:
    """One quantile of a histogram: counts and totals are float64[bins]; nan if it is empty."""
    if not counts.sum():
        return float("nan")
    means = np.divide(totals, counts, out=np.zeros_like(totals), where=counts > 0)
    return float(_points(counts, means, np.array([probability]))[0])


def dense(
    bins: NDArray[np.int64], where: tuple[NDArray[np.int64], ...], values: Floats, shape: tuple[int, int, int]
) -> Floats:
    """Sparse counts as cumulative ones: float64[times, cells, groups, bins], with only the bins that occur."""
    unique, index = np.unique(bins, return_inverse=True)
    result = np.zeros((*shape, len(unique)))
    np.add.at(result, (*where, index), values)
    return result.cumsum(axis=0)
