"""Which of two versions do users prefer? The sign test of users, repeated at looks at which a user may change sides.

Each user has a sign: that of the credits for the first version less those for the second, up to a look. Without a
preference a user's signs at all looks together are as likely as the same signs turned round, whatever the user does. So
with s_u(j) for user u's sign at look j, T(j) = sum_u s_u(j) has, given what is left when every user is turned round or
not by a fair coin, mean 0 and exactly

    Cov(T(j), T(k)) = sum_u s_u(j) s_u(k)        r(j, k) = Cov(T(j), T(k)) / sqrt(n(j) n(k))

with n(k) users who have a sign at look k. A user who changes sides makes r(j, k) smaller than sqrt(n(j) / n(k)), which
it would be if increments were independent. A boundary that takes them for independent is crossed too often (Slepian,
Bell System Technical Journal 1962: of normal variables the maximum is the larger the less they correlate).

The same inequality mends it. A Markov chain with correlations rho(k) from look to look has r'(j, k) = rho(j+1) ...
rho(k). With the largest rho(k) for which r' is nowhere above r, the boundary of the chain (sequential.py) is crossed at
most as often as promised. It is that of independent increments where users keep their side. Where no chain is below r,
as a pair of looks disagrees (r < 0), a look is tested alone with what it spends (Bonferroni), which holds whatever
depends on what.

At each look z is that of the exact binomial tail, so that few users prove nothing. A look without a user who has a sign
does not count, and spends nothing; that depends on nobody's side.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics import tails
from abfleet_statistics.sequential import SMALLEST_SPEND, Boundary, Floats, spent, upper
from abfleet_statistics.sign_test import interval, two_sided_p, z_of_sign

MOST_CHAINED: Final = 1_000
"""Looks; a later one is tested alone, since each asks of every earlier one."""


@dataclass(frozen=True)
class Preferences:
    """Users by the version that they prefer, at each time.

    Attributes:
        first, second: int64[times], users whose credits are more for the first version, or for the second.
        together: float64[times, times], sum over users of the signs at both; of the first MOST_CHAINED times alone.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    together: Floats

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """Users with a preference: int64[times]."""
        return self.first + self.second

    def value(self, time: int) -> float:
        """The mean sign, -1 to 1, above 0 where more prefer the first version; nan where nobody has a preference."""
        users = int(self.users[time])
        return (int(self.first[time]) - int(self.second[time])) / users if users else math.nan

    def p_value(self, time: int) -> float:
        """Two-sided, for one look at a fixed sample."""
        return two_sided_p(int(self.first[time]), int(self.users[time]))

    def interval(self, time: int, tail: float) -> tuple[float, float]:
        """Of the mean sign, with this probability of error on each side; nan where nobody has a preference."""
        if not self.users[time]:
            return math.nan, math.nan
        low, high = interval(int(self.first[time]), int(self.users[time]), tail)
        return 2 * low - 1, 2 * high - 1

    def z(self, time: int) -> float:
        """Of the exact test, above 0 where more prefer the first version; 0 where nobody has a preference."""
        first, second = int(self.first[time]), int(self.second[time])
        if first == second:
            return 0.0
        z = max(z_of_sign(max(first, second), first + second), 0.0)
        return z if first > second else -z


class PreferenceTest:
    """The two-sided test at every look. Its boundary is changed only by `boundary`, forwards."""

    def __init__(self, found: Preferences, fractions: tuple[float, ...], *, alpha: float = 0.05) -> None:
        """fractions: float[looks], the part of the calendar at each; times beyond them are no looks."""
        self._found = found
        self._fractions = fractions
        self._alpha = alpha / 2
        self.counts = found.users[: len(fractions)] > 0
        self.z = np.array([found.z(look) for look in range(len(fractions))])
        self._boundary = Boundary(self._alpha)
        self._known: list[float] = []
        self._chained: list[int] = []
        self._spreads = np.zeros(0)
        """Of each look of the chain, the product of the correlations from it to the last one."""
        totals = np.maximum.accumulate([spent(self._alpha, at) for at in fractions]) if fractions else np.zeros(0)
        self._low = np.array([upper(max(total, SMALLEST_SPEND)) for total in totals])

    def crossed(self, look: int) -> int:
        """1 if the first version has crossed the boundary at this look, -1 if the second has, 0 if none."""
        z = self.z[look]
        # No boundary is below the z of all the alpha that is spent so far, and that needs no integral.
        if not self.counts[look] or abs(z) < self._low[look] or abs(z) < self.boundary(look):
            return 0
        return 1 if z > 0 else -1

    def boundary(self, look: int) -> float:
        """What |z| must reach at this look; that of the last look that counts where it does not, infinite before."""
        while len(self._known) <= look:
            self._known.append(self._next(len(self._known)))
        return self._known[look]

    def interval(self, look: int) -> tuple[float, float]:
        """Of the mean sign at this look; those of all looks hold together. nan before a look counts."""
        boundary = self.boundary(look)
        if not math.isfinite(boundary):
            return math.nan, math.nan
        return self._found.interval(look, float(tails.below(-boundary)))

    def _next(self, look: int) -> float:
        if not self.counts[look]:
            return self._known[-1] if self._known else math.inf
        fraction = self._fractions[look]
        if not self._chained:
            self._chained, self._spreads = [look], np.ones(1)
            return self._boundary.advance_by(fraction, 0.0)
        if look >= MOST_CHAINED:
            return self._boundary.spend_alone(fraction)
        users = self._found.users
        r = self._found.together[self._chained, look] / np.sqrt(users[self._chained] * float(users[look]))
        if r.min() < 0:
            return self._boundary.spend_alone(fraction)
        reaching = self._spreads > 0
        correlation = float(min((r[reaching] / self._spreads[reaching]).min(), 1.0))
        boundary = self._boundary.advance_by(fraction, correlation)
        self._chained.append(look)
        self._spreads = np.append(self._spreads * correlation, 1.0)
        return boundary
