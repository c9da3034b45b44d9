"""Draws experiments without looking at the analysis: users who convert, click or buy, as sums at every look.

Only who does something is drawn one by one. Clicks are few kinds of users (lists, clicks), in multinomial numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from abfleet_statistics.moments import Floats, Moments, ThirdMoments, from_sums, proportions
from numpy.typing import NDArray
from scipy.stats import betabinom

LOOKS: Final = 28
MOST_LISTS: Final = 24
"""Of a user of clicks; more than this have one in 16 million."""
MOST_CUT: Final = 1_000
"""Amounts of a run among which those above any look's quantile are."""
Ends = NDArray[np.int64]
"""int[groups, looks]: users who have come by each look."""
Draw = Callable[[np.random.Generator, int, Ends, Floats], Moments]
"""Sums of so many runs, [runs * looks, 1, groups]; the last argument is float64[groups], what changes each group's
rate."""


def ends_of(shares: tuple[float, ...], users: int) -> Ends:
    """So many users over equal looks, in groups of these shares."""
    return np.array([[int(users * share * look / LOOKS) for look in range(1, LOOKS + 1)] for share in shares])


def conversion(rate: float) -> Draw:
    """Users who convert with this probability."""

    def draw(random: np.random.Generator, runs: int, ends: Ends, factors: Floats) -> Moments:
        come = np.diff(ends, axis=1, prepend=0)
        converted = random.binomial(come, (rate * factors)[:, None], (runs, *come.shape)).cumsum(axis=2)
        return proportions(_stacked(np.broadcast_to(ends, converted.shape)), _stacked(converted))

    return draw


def points(rate: float, more: float) -> Draw:
    """The same, where a factor of 1 is the rate and any other has so many points more."""

    def draw(random: np.random.Generator, runs: int, ends: Ends, factors: Floats) -> Moments:
        rates = np.where(factors == 1, rate, rate + more)
        return conversion(1.0)(random, runs, ends, rates)

    return draw


def clicks(rate: float) -> Draw:
    """Users with a geometric number of lists, 2 on average, and an inclination of their own to click."""

    def draw(random: np.random.Generator, runs: int, ends: Ends, factors: Floats) -> Moments:
        come = np.diff(ends, axis=1, prepend=0)
        sums = np.zeros((9, runs, *come.shape))
        for group, factor in enumerate(factors):
            chances, products = _kinds_of_users(rate * float(factor))
            counts = random.multinomial(np.broadcast_to(come[group], (runs, LOOKS)), chances)
            sums[:, :, group] = np.moveaxis(counts @ products, -1, 0)
        return _moments(ends, runs, sums.cumsum(axis=3))

    return draw


@cache
def _kinds_of_users(rate: float) -> tuple[Floats, Floats]:
    """The chance of each number of lists and clicks, and y, z, yy, yz, zz, yyy, yyz, yzz, zzz of such a user."""
    chances, kinds = [], []
    for lists in range(1, MOST_LISTS + 1):
        chance = 0.5 ** min(lists, MOST_LISTS - 1)
        chances += [chance * betabinom.pmf(y, lists, 20 * rate, 20 * (1 - rate)) for y in range(lists + 1)]
        kinds += [(y, lists) for y in range(lists + 1)]
    y, z = np.array(kinds, dtype=np.float64).T
    order = np.argsort(chances)[::-1]  # the likely ones first, so that a draw is done soon
    products = np.stack([y, z, y * y, y * z, z * z, y**3, y * y * z, y * z * z, z**3], axis=1)
    return np.array(chances)[order] / sum(chances), products[order]


@dataclass(frozen=True, slots=True)
class Amounts:
    """What buyers spend: lognormal with this sigma, or Pareto with this shape, which has no variance below 2."""

    sigma: float = 0.0
    shape: float = 0.0

    def draw(self, random: np.random.Generator, number: int) -> Floats:
        """So many amounts."""
        if self.shape:
            return np.asarray(random.random(number) ** (-1 / self.shape))
        return np.asarray(np.exp(self.sigma * random.standard_normal(number)))


def revenue(buyers: float, amounts: Amounts, cap: float | None = None) -> Draw:
    """Buyers and their amounts, cut at this quantile of the users who have come by each look."""

    def draw(random: np.random.Generator, runs: int, ends: Ends, factors: Floats) -> Moments:
        come = np.diff(ends, axis=1, prepend=0)
        bought = random.binomial(come, (buyers * factors)[:, None], (runs, *come.shape))
        place = np.repeat(np.arange(bought.size), bought.reshape(-1))
        spent = amounts.draw(random, len(place))
        sums = _cumulative(place, spent, bought.shape) if cap is None else _capped(place, spent, cap, ends, runs)
        y, yy, yyy = sums
        none = np.zeros_like(y)
        return _moments(ends, runs, np.stack([y, none, yy, none, none, yyy, none, none, none]))

    return draw


def _capped(place: NDArray[np.int64], spent: Floats, cap: float, ends: Ends, runs: int) -> Floats:
    """Sums of the amounts, their squares and cubes, each look with the quantile of its own users: [3, runs, groups,
    looks]. Only a run's largest amounts are ever cut, so that the others are added up once."""
    shape = (runs, *ends.shape)
    run = place // (len(ends) * LOOKS)
    begin = np.searchsorted(run, np.arange(runs + 1))
    order = np.concatenate([_largest(spent, *span) for span in pairwise(begin.tolist())])
    rest = np.ones(len(spent), bool)
    rest[order] = False
    result = _cumulative(place[rest], spent[rest], shape)
    place, run, spent = place[order], run[order], spent[order]
    begin = np.searchsorted(run, np.arange(runs))
    size = np.diff(np.append(begin, len(run)))
    look, group = place % LOOKS, place // LOOKS % len(ends)
    for at in range(LOOKS):
        here = look <= at
        count = np.cumsum(here)
        rank = count - np.concatenate([[0], count])[begin][run]  # 1 for the run's first that is here
        everyone = int(ends[:, at].sum())
        above = int(np.floor((1 - cap) * everyone + 1e-9))
        limit = np.full(runs, np.inf)
        if above:
            found = here & (rank == above + 1)
            limit[run[found]] = spent[found]
            assert np.isfinite(limit[size == MOST_CUT]).all(), "the largest amounts are enough to find the limit"
        mine = np.minimum(spent[here], limit[run[here]])
        index = run[here] * len(ends) + group[here]
        for power, values in enumerate(_powers(mine)):
            result[power, :, :, at] += np.bincount(index, values, runs * len(ends)).reshape(shape[:2])
    return result


def _largest(spent: Floats, begin: int, end: int) -> NDArray[np.int64]:
    """Where the largest amounts of a run are, which has those from `begin` up to `end`; the largest first."""
    places = np.arange(begin, end)
    if len(places) > MOST_CUT:
        places = begin + np.argpartition(-spent[begin:end], MOST_CUT - 1)[:MOST_CUT]
    return places[np.argsort(-spent[places])]


def durations(spread: float) -> Draw:
    """Users with a geometric number of calls, 2 on average, whose time is mostly the user's own; the factor makes them
    slower."""

    def draw(random: np.random.Generator, runs: int, ends: Ends, factors: Floats) -> Moments:
        sums = np.zeros((9, runs, *ends.shape))
        for group, factor in enumerate(factors):
            come = np.diff(ends[group], prepend=0)
            for look, number in enumerate(come):
                z = random.geometric(0.5, (runs, number)).astype(np.float64)
                y = z * factor * np.exp(spread * random.standard_normal((runs, number)))
                products = (y, z, y * y, y * z, z * z, y**3, y * y * z, y * z * z, z**3)
                sums[:, :, group, look] = [one.sum(axis=1) for one in products]
        return _moments(ends, runs, sums.cumsum(axis=3))

    return draw


def _cumulative(place: NDArray[np.int64], values: Floats, shape: tuple[int, ...]) -> Floats:
    """Sums of values, their squares and cubes up to each look: [3, *shape]."""
    size = int(np.prod(shape))
    sums = [np.bincount(place, power, size).reshape(shape).astype(np.float64) for power in _powers(values)]
    return np.stack(sums).cumsum(axis=-1)


def _powers(values: Floats) -> tuple[Floats, Floats, Floats]:
    return values, values * values, values * values * values


def _moments(ends: Ends, runs: int, sums: Floats) -> Moments:
    """sums: [9, runs, groups, looks], in the order of `_kinds_of_users`."""
    y, z, yy, yz, zz, *third = (_stacked(one) for one in sums)
    users = _stacked(np.broadcast_to(ends, (runs, *ends.shape)))
    return from_sums([users, y, z, yy, yz, zz, y], third=ThirdMoments(*third))


def _stacked(sums: NDArray[np.generic]) -> Floats:
    """[runs, groups, looks] as [runs * looks, 1, groups]."""
    runs, groups, looks = sums.shape
    return np.ascontiguousarray(np.swapaxes(sums, 1, 2), dtype=np.float64).reshape(runs * looks, 1, groups)
