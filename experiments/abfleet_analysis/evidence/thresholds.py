"""Where values are cut at each look, from what was known then alone: what a report says of a look never changes later.

A new threshold at every look would need all users' sums anew for each. One is kept as long as it is near enough, so
that there are few; the sums are made once for each, and every look takes those of its own. Knows no log.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from abfleet_statistics.moments import Cross, Floats, Moments, ThirdMoments, from_sums
from numpy.typing import NDArray

NEAR: Final = math.sqrt(2)
"""A threshold is kept while what lies above it is neither more nor less than wanted by this factor."""
DIGITS: Final = 12
"""The last bits of a mean depend on the order in which rows were added up."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of a metric.

    Attributes:
        values: Each that is used, once. index: int[times, groups], which of them.
    """

    values: tuple[float, ...]
    index: NDArray[np.int64]

    @property
    def last(self) -> Floats:
        """Those of the last time: float64[groups]."""
        return np.asarray(np.array(self.values)[self.index[-1]], dtype=np.float64)


def thresholds(by_group: Sequence[Floats]) -> Thresholds:
    """From each group's threshold at each time, float64[times]."""
    stacked = np.stack(by_group, axis=1)
    values, index = np.unique(stacked, return_inverse=True)
    return Thresholds(tuple(values.tolist()), index.reshape(stacked.shape))


def at_each_time(counts: Floats, totals: Floats, above: Floats) -> Floats:
    """The value that so many lie above, at each time: float64[times]; infinite where fewer than one should.

    counts, totals: float64[times, bins], how many values there are and their sum, cumulative, bins ascending. above:
    float64[times]. A bin is as narrow as thresholds are exact.
    """
    result = np.full(len(above), np.inf)
    chosen, value = -1, math.inf
    for time, wanted in enumerate(above):
        if wanted < 1 and chosen < 0:
            continue
        if chosen >= 0 and wanted / NEAR <= counts[time, chosen + 1 :].sum() <= wanted * NEAR:
            result[time] = value
            continue
        if wanted < 1 or not counts[time].any():
            chosen, value = -1, math.inf
            continue
        filled = np.flatnonzero(counts[time] > 0)
        ranks = counts[time, filled].cumsum()
        place = int(np.searchsorted(ranks, ranks[-1] - wanted - 1e-9))
        chosen = int(filled[min(place, len(filled) - 1)])
        value = float(f"{totals[time, chosen] / counts[time, chosen]:.{DIGITS}g}")
        result[time] = value
    return result


def of_each_time(variants: Sequence[Moments], index: NDArray[np.int64]) -> Moments:
    """Of the sums with each threshold those that each time and group has. index: int[times, groups]."""
    first = variants[0]
    if len(variants) == 1:
        return first

    def picked(parts: Sequence[Floats]) -> Floats:
        return np.asarray(np.take_along_axis(np.stack(parts), index[None, :, None, :], axis=0)[0])

    sums = [picked(parts) for parts in zip(*(one.sums() for one in variants), strict=True)]
    crosses = [one.cross for one in variants if one.cross is not None]
    thirds = [one.third for one in variants if one.third is not None]
    cross = third = None
    if len(crosses) == len(variants):
        names = [field.name for field in fields(Cross)[2:]]
        parts = [picked([getattr(one, name) for one in crosses]) for name in names]
        cross = Cross(crosses[0].first, crosses[0].second, *parts)
    if len(thirds) == len(variants):
        names = [field.name for field in fields(ThirdMoments)]
        third = ThirdMoments(*(picked([getattr(one, name) for one in thirds]) for name in names))
    return from_sums(sums, cross, third)
