"""One error rate for several tests, some of which begin later than others. Knows no data.

Each test spends its part by calendar (see sequential.py). Tests that begin together have equal parts. When more begin,
what nobody has spent yet is divided anew: all parts are equal again, except that no test has less than it has spent.
So a look's boundary depends on the tests that were there by then, and the parts never sum to more than the whole: by
Boole's inequality P(any test is ever false) <= alpha, whenever the others begin.

What a test has spent is taken as what it may have spent by the looks before; one whose looks did not count has spent
less. Limits: where a test is begun because of what the others have shown, they may have had no use for what they give
up; then the inequality has the newcomer's part beside alpha.
"""

from collections.abc import Sequence

import numpy as np

from abfleet_statistics.moments import Floats
from abfleet_statistics.sequential import spent


def shared_alpha(alpha: float, fractions: Sequence[float], began: Sequence[int]) -> Floats:
    """Each test's part of a one-sided alpha in force at each look, and after the last: float64[looks + 1, tests].

    fractions: Of the calendar, at each look. began: int[tests], the first look of each; the number of looks for one
    that begins after the last. Before it has begun, a test's part is what it has then.
    """
    first = np.asarray(began, np.int64)
    result = np.zeros((len(fractions) + 1, len(first)))
    parts, used = np.zeros(len(first)), np.zeros(len(first))
    for look in range(len(result)):
        there = first <= look
        if (first == look).any():
            parts[there] = _divided(alpha, used[there])
        result[look] = parts
        if look < len(fractions):
            used = np.maximum(used, [spent(part, fractions[look]) for part in parts.tolist()])
    return np.where(np.arange(len(result))[:, None] < first, result[first, np.arange(len(first))], result)


def _divided(alpha: float, used: Floats) -> Floats:
    """Equal parts that sum to alpha, except that none is less than what is used of it."""
    more = np.zeros(len(used), dtype=bool)
    while True:
        equal = max(alpha - used[more].sum(), 0.0) / max(np.count_nonzero(~more), 1)
        beyond = ~more & (used > equal)
        if not beyond.any():
            return np.where(more, used, equal)
        more |= beyond
