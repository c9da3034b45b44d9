"""The mean over requests and its error, where requests of one user are not independent.

The mean is a ratio, sum of values over number of requests, and users are what is drawn: the delta method (Deng,
Knoblich & Lu, KDD 2018) with each user's sum of distances from the mean as the influence.

The interval of a mean of bounded values is Wilson's (JASA 1927) with as many requests as independent ones would need to
be for this error, and, where users do not differ, with as many as there are users: all of ten alike do not prove all.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """A mean over requests.

    Attributes:
        n: Requests. clusters: Users.
        variance: Of the mean, as an estimate; nan for fewer than two users.
    """

    mean: float
    variance: float
    n: int
    clusters: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The normal interval; nan where there is no error."""
        width = _width(confidence) * self.variance**0.5
        return self.mean - width, self.mean + width

    def bounded_interval(self, low: float, high: float, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's interval for values from `low` to `high`; both ends where nothing is known."""
        if not self.clusters:
            return low, high
        share = min(max((self.mean - low) / (high - low), 0.0), 1.0)
        variance = self.variance / (high - low) ** 2
        size = share * (1 - share) / variance if variance > 0 and 0 < share < 1 else float(self.clusters)
        squared = _width(confidence) ** 2
        centre = (share + squared / (2 * size)) / (1 + squared / size)
        width = (
            _width(confidence) * (share * (1 - share) / size + squared / (4 * size**2)) ** 0.5 / (1 + squared / size)
        )
        return low + (high - low) * max(centre - width, 0.0), low + (high - low) * min(centre + width, 1.0)


def clustered_mean(values: Floats, users: NDArray[np.integer]) -> ClusteredMean:
    """values: float64[requests]; users: int[requests], whose request each is. nan for no request."""
    n = len(values)
    if not n:
        return ClusteredMean(float("nan"), float("nan"), 0, 0)
    mean = float(values.mean())
    _, index = np.unique(users, return_inverse=True)
    sums = np.bincount(index, weights=values - mean)
    clusters = len(sums)
    variance = float(clusters / (clusters - 1) * (sums @ sums) / n**2) if clusters > 1 else float("nan")
    return ClusteredMean(mean, variance, n, clusters)


def _width(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
