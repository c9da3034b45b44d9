"""One one-sided test, repeated at every look. Computes a boundary only where two cheap bounds do not decide."""

from functools import lru_cache

import numpy as np

from abfleet_analysis.statistics.effects import Comparison
from abfleet_analysis.statistics.moments import Floats
from abfleet_analysis.statistics.sequential import SMALLEST_SPEND, Boundary, spent, upper


class LookwiseTest:
    """Whether z has reached its boundary at a look. The boundary is changed only by `_advance_to`, forwards.

    Most looks are decided by two bounds on the boundary that need no integral: it lies between the z of all the alpha
    spent so far and the z of what this look spends.
    """

    def __init__(self, alpha: float, fractions: tuple[float, ...], comparison: Comparison, z: Floats) -> None:
        self.z = z
        self._fractions = fractions
        self._information = comparison.information
        highest = np.maximum.accumulate(np.concatenate([[0.0], self._information]))
        self._grows = highest[1:] > highest[:-1] * (1 + 1e-6)
        self._low, self._high = _bounds(alpha, fractions)
        self._boundary = Boundary(alpha)
        self._known: list[float] = []

    def crosses(self, look: int) -> bool:
        """Whether the boundary is reached at this look."""
        z = self.z[look]
        if not z >= self._low[look]:
            return False
        if self._grows[look] and z >= self._high[look]:
            return True
        return bool(z >= self.boundary(look))

    def boundary(self, look: int) -> float:
        """The boundary at this look, exactly."""
        while len(self._known) <= look:
            index = len(self._known)
            self._known.append(self._boundary.advance(self._fractions[index], float(self._information[index])))
        return self._known[look]


@lru_cache(maxsize=256)
def _bounds(alpha: float, fractions: tuple[float, ...]) -> tuple[Floats, Floats]:
    totals = np.array([spent(alpha, fraction) for fraction in fractions])
    gains = np.diff(totals, prepend=0.0)
    low = np.array([upper(max(total, SMALLEST_SPEND)) for total in totals])
    high = np.array([upper(max(gain, SMALLEST_SPEND)) for gain in gains])
    return low, high
