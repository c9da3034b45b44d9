"""One one-sided test, repeated at every look. Computes a boundary only where two cheap bounds do not decide."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics.effects import Comparison
from abfleet_statistics.moments import Floats
from abfleet_statistics.score_test import NullMoments
from abfleet_statistics.sequential import SMALLEST_SPEND, Boundary, spent, upper


class LookwiseTest:
    """Whether z has reached its boundary at a look. The boundary is changed only by `_advance_to`, forwards.

    Most looks are decided by two bounds on the boundary that need no integral: it lies between the z of all the alpha
    spent so far and the z of what this look spends.
    """

    def __init__(
        self,
        alpha: float | tuple[float, ...],
        fractions: tuple[float, ...],
        comparison: Comparison,
        z: Floats,
        *,
        null: NullMoments | None = None,
    ) -> None:
        """alpha: One-sided, of each look where it changes, as in shared_alpha.py. null: Which looks count, and their
        information; None: all of them, with the comparison's own.

        A look whose z is no number, or infinite because nothing varies, does not count either.
        """
        self.null = null
        self.counts: NDArray[np.bool_] = np.isfinite(z) if null is None else null.counts & np.isfinite(z)
        self.z = np.where(self.counts, z, -np.inf)
        self._fractions = fractions
        self._information = comparison.information if null is None else _of_counted(null, self.counts)
        highest = np.maximum.accumulate(np.concatenate([[0.0], self._information]))
        self._grows = highest[1:] > highest[:-1] * (1 + 1e-6)
        self._alphas = (alpha,) * len(fractions) if isinstance(alpha, float) else alpha
        self._low, self._high = _bounds(self._alphas, fractions)
        self._boundary = Boundary(self._alphas[0] if self._alphas else 0.0)
        self._known: list[float] = []

    def crosses(self, look: int) -> bool:
        """Whether the boundary is reached at this look."""
        z = self.z[look]
        if not z >= self._low[look]:
            return False
        if self._grows[look] and z >= self._high[look]:
            return True
        return bool(z >= self.boundary(look))

    def last_growth(self, look: int) -> int:
        """The newest look up to this one that added information; 0 if none did. Later ones keep its boundary."""
        return int(np.flatnonzero(self._grows[: look + 1])[-1:].sum())

    def boundary(self, look: int) -> float:
        """The boundary at this look, exactly."""
        while len(self._known) <= look:
            index = len(self._known)
            self._boundary.alpha = self._alphas[index]
            self._known.append(self._boundary.advance(self._fractions[index], float(self._information[index])))
        return self._known[look]


def _of_counted(null: NullMoments, counts: NDArray[np.bool_]) -> Floats:
    """The information at each look; one that does not count has that of the last that did, and so spends nothing."""
    information = null.information.copy()
    for time in range(1, len(information)):
        # Users who come take no information away, as they would seem to where they lower the level by doing nothing.
        if null.pairs[time - 1] > 0:
            grown = information[time - 1] * null.pairs[time] / null.pairs[time - 1]
            information[time] = max(information[time], grown)
    last = np.maximum.accumulate(np.where(counts, np.arange(len(counts)), -1))
    return np.where(last >= 0, information[np.maximum(last, 0)], 0.0)


@lru_cache(maxsize=256)
def _bounds(alphas: tuple[float, ...], fractions: tuple[float, ...]) -> tuple[Floats, Floats]:
    by_look = [spent(alpha, fraction) for alpha, fraction in zip(alphas, fractions, strict=True)]
    totals = np.maximum.accumulate(np.array(by_look, np.float64))
    gains = np.diff(totals, prepend=0.0)
    low = np.array([upper(max(total, SMALLEST_SPEND)) for total in totals])
    high = np.array([upper(max(gain, SMALLEST_SPEND)) for gain in gains])
    return low, high
