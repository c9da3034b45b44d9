"""Do more prefer one than the other? The sign test: exact at every number of users, however few.

Of n users who prefer one of two, those who prefer the first are binomial with a half if there is no preference. Tails
are summed term by term, each from the one before, so that nothing is approximated and nothing cancels. The interval is
Clopper and Pearson's (Biometrika 1934): the shares that a test with the same tails does not refuse.
"""

import math
from typing import Final

import numpy as np

from abfleet_statistics.sequential import upper

_DEVIATIONS: Final = 15
"""Terms beyond so many times sqrt(n), twice the standard deviation at least, are below 1e-190 of the first one."""
_HALVINGS: Final = 50
"""Of an interval of shares: to 1e-15."""


def at_least(count: int, of: int, share: float = 0.5) -> float:
    """P(X >= count) of a binomial of `of` trials that succeed with probability `share`."""
    if count <= 0:
        return 1.0
    if count > of or share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    if count <= of * share:  # the other tail is the small one
        return 1.0 - at_least(of - count + 1, of, 1 - share)
    first = math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
    first += count * math.log(share) + (of - count) * math.log1p(-share)
    successes = np.arange(count, min(of, count + 64 + int(_DEVIATIONS * math.sqrt(of))), dtype=np.float64)
    ratios = np.log((of - successes) / (successes + 1)) + (math.log(share) - math.log1p(-share))
    return math.exp(first) * (1.0 + float(np.exp(np.cumsum(ratios)).sum()))


def z_of_sign(count: int, of: int) -> float:
    """The z that a standard normal exceeds as seldom as a half gives `count` of `of` or more; -inf for none at all."""
    return upper(at_least(count, of)) if of else -math.inf


def two_sided_p(count: int, of: int) -> float:
    """P(as far from half of `of`, or further, either way), for one look at a fixed sample; 1 for none at all."""
    return min(2 * at_least(max(count, of - count), of), 1.0)


def interval(count: int, of: int, tail: float) -> tuple[float, float]:
    """The shares at which neither `count` or more, nor `count` or fewer, has a probability below `tail`."""
    return (
        0.0 if count == 0 else _share_at(count, of, tail),
        1.0 if count == of else 1 - _share_at(of - count, of, tail),
    )


def _share_at(count: int, of: int, tail: float) -> float:
    """The share at which `count` or more has this probability."""
    low, high = 0.0, count / of
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_least(count, of, middle) < tail else (low, middle)
    return (low + high) / 2
