"""Boundaries for a test that is repeated at every look.

A Lan-DeMets boundary (Lan & DeMets, Biometrika 1983) spends the error rate over the looks by a function fixed in
advance, here the one that resembles O'Brien and Fleming's: `alpha(t) = 2 - 2 Phi(z(1 - alpha/2) / sqrt(t))`, with t the
part of the calendar that has passed. The boundary at look k is the c for which P(first crossing at k) is what alpha(t)
has gained since look k - 1. The statistics at looks j < k have correlation sqrt(I_j / I_k), I being their information,
so they form a Markov chain, and the crossing probability follows by one integral a look (Armitage, McPherson & Rowe,
1969; Jennison & Turnbull, Group Sequential Methods, 2000, chapter 19).

Limits: the statistics must be normal with independent increments, which sums over many users are. A look that adds no
information spends nothing and keeps the boundary of the look before.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics import tails

Floats = NDArray[np.float64]

SMALLEST_SPEND: Final = 1e-15
"""Less than this cannot be told from rounding: such a look spends this much, and its boundary is 7.94."""
_NEWTON_STEPS: Final = 3
"""The guesses are good to 1e-5 of the distance between points at least, and each step doubles the digits."""
LOWEST: Final = -6.0
"""Paths below this are left out; they come back to any boundary with a probability that no result shows."""


def spent(alpha: float, fraction: float) -> float:
    """How much of a one-sided alpha may be spent when this fraction (0 to 1) of the calendar has passed."""
    if fraction <= 0:
        return 0.0
    return float(2 * tails.below(-quantile(1 - alpha / 2) / math.sqrt(min(fraction, 1.0))))


def quantile(probability: float) -> float:
    """The z below which a standard normal lies with this probability; the inverse of Phi."""
    return tails.quantile(probability)


def upper(tail: float) -> float:
    """The z that a standard normal exceeds with this probability."""
    return -tails.quantile(tail)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """What one look leaves for the next.

    Attributes:
        nodes, weights: float64[m]: the look before, as points z and their sub-probabilities of not having crossed.
        correlation, spread: From those points to this look: z' = correlation z + spread e.
    """

    spent: float
    boundary: float
    nodes: Floats
    weights: Floats
    correlation: float
    spread: float


_START: Final = _State(0.0, math.inf, np.zeros(1), np.ones(1), 0.0, 1.0)


class Boundary:
    """The upper boundary of one test, look by look. Changed only by `advance`; `alpha` by its test, between looks."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._state = _START
        self._information = 0.0

    def bracket(self, fraction: float) -> tuple[float, float]:
        """Two values between which the boundary lies at a look that adds information; no integral is needed.

        P(crossed by now) is alpha(t) and at least P(Z > c); P(first crossing now) is the gain and at most P(Z > c).
        """
        total = spent(self.alpha, fraction)
        gain = max(total - self._state.spent, SMALLEST_SPEND)
        return upper(max(total, SMALLEST_SPEND)), upper(gain)

    def advance(self, fraction: float, information: float) -> float:
        """The boundary at the next look, after `fraction` of the calendar and with this much information.

        The unit of information has no meaning, only its ratio between looks.
        """
        variance = 1 - self._information / information if information > 0 else 0.0
        if variance <= 1e-9 or not math.isfinite(information) or information <= 0:
            return self._state.boundary
        # Three digits of the new part's variance: finer ones do not move a boundary, and would never be met twice.
        self._state = _advance(self._state, self.alpha, fraction, float(f"{variance:.3g}"))
        self._information = information
        return self._state.boundary

    def advance_by(self, fraction: float, correlation: float) -> float:
        """The same, for a look that has this correlation, 0 to 1, with the one before. A boundary takes one of both."""
        variance = 1 - correlation * correlation
        if variance > 1e-9:
            self._state = _advance(self._state, self.alpha, fraction, float(f"{variance:.3g}"))
        return self._state.boundary

    def spend_alone(self, fraction: float) -> float:
        """The boundary of a look that is tested as if it were the only one, with what has not been spent by then.

        It holds whatever the look has to do with others, and takes no part in the chain of those before and after.
        """
        total = max(spent(self.alpha, fraction), self._state.spent)
        gain = max(total - self._state.spent, SMALLEST_SPEND)
        self._state = replace(self._state, spent=total)
        return upper(gain)


@lru_cache(maxsize=20_000)
def _advance(state: _State, alpha: float, fraction: float, variance: float) -> _State:
    """One look further; `variance` is the part of this look's statistic that is new, 1 at the first look."""
    total = max(spent(alpha, fraction), state.spent)
    gain = max(total - state.spent, SMALLEST_SPEND)
    spread = math.sqrt(variance)
    correlation = math.sqrt(1 - variance)
    if state is _START:
        return _State(total, upper(gain), np.zeros(1), np.ones(1), 0.0, 1.0)
    nodes, weights = _points(state, spread / max(correlation, 1e-9))

    def excess(boundary: float) -> tuple[float, float]:
        beyond = (correlation * nodes - boundary) / spread
        slope = -float(weights @ np.exp(-0.5 * beyond * beyond)) / (spread * math.sqrt(2 * math.pi))
        crossed = max(float(weights @ tails.below(beyond)), sys.float_info.min)
        return math.log(crossed / gain), slope / crossed  # the logarithm of a tail is almost a parabola

    # The integral has five digits where less than 1e-10 is spent; the bracket is exact everywhere.
    low, high = upper(max(total, SMALLEST_SPEND)), upper(gain)
    return _State(total, _root(excess, low, high), nodes, weights, correlation, spread)


def _root(falling: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """Where a falling function of value and slope is 0, to 1e-10; the end of the bracket that is nearer, if nowhere.

    Newton's steps, and halves of the bracket where these leave it. Importing scipy.optimize for it takes longer than
    all the roots of a report.
    """
    if falling(high)[0] >= 0:
        return high
    if falling(low)[0] <= 0:
        return low
    at = (low + high) / 2
    while high - low > 1e-10:
        value, slope = falling(at)
        low, high = (at, high) if value > 0 else (low, at)
        step = at - value / slope if slope < 0 else math.nan
        after = step if low <= step <= high else (low + high) / 2
        if abs(after - at) <= 1e-10:
            return after
        at = after
    return (low + high) / 2


def _points(state: _State, smoothness: float) -> tuple[Floats, Floats]:
    """The look of a state as points and sub-probabilities, fine enough for a kernel of this width."""
    count = int(min(max(48, 1.8 * (min(state.boundary, 8.0) - LOWEST) / min(smoothness, 1.0)), 2000))
    unit, unit_weights = _legendre(-(-count // 16) * 16)
    top = min(state.boundary, 8.0)
    half = (top - LOWEST) / 2
    nodes = LOWEST + half * (unit + 1)
    standardised = (nodes[:, None] - state.correlation * state.nodes[None, :]) / state.spread
    density = np.exp(-0.5 * standardised * standardised) @ state.weights / (state.spread * math.sqrt(2 * math.pi))
    return nodes, half * unit_weights * density


@lru_cache(maxsize=128)
def _legendre(count: int) -> tuple[Floats, Floats]:
    """Points and weights of the Gauss-Legendre rule from -1 to 1, for an even count.

    Newton's steps from Tricomi's first guesses (Hale & Townsend, SIAM J. Sci. Comput. 2013): the eigenvalues by which
    numpy finds them take `count` times as long, seconds for a rule of 2,000 points.
    """
    angles = math.pi * (np.arange(count // 2, 0, -1) - 0.25) / (count + 0.5)
    points = (1 - (count - 1) / (8 * count**3)) * np.cos(angles)
    for _ in range(_NEWTON_STEPS):
        value, slope = _legendre_polynomial(count, points)
        points = points - value / slope
    _, slope = _legendre_polynomial(count, points)
    weights = 2 / ((1 - points) * (1 + points) * slope * slope)
    return np.concatenate((-points[::-1], points)), np.concatenate((weights[::-1], weights))


def _legendre_polynomial(degree: int, x: Floats) -> tuple[Floats, Floats]:
    """The polynomial of this degree and its slope, at each x within -1 and 1."""
    before, value = np.ones_like(x), x
    for n in range(2, degree + 1):
        before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
    return value, degree * (before - x * value) / ((1 - x) * (1 + x))


def boundaries(alpha: float, fractions: Sequence[float], information: Sequence[float]) -> Floats:
    """The upper boundary at each of the looks: float64[looks]."""
    boundary = Boundary(alpha)
    return np.array([boundary.advance(f, i) for f, i in zip(fractions, information, strict=True)])


def two_sided_p(z: Floats | float) -> Floats:
    """P(|Z| > |z|), unadjusted and for a sample whose size was fixed in advance."""
    return 2 * tails.below(-np.abs(z))
