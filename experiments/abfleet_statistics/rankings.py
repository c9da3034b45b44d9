"""How alike two ranked lists are. Items are any hashable values, best first; one that is there twice counts once.

- overlap at k: the share of the first k items that both lists have, of as many as the longer list has there.
- rank-biased overlap (Webber, Moffat & Zobel, ACM TOIS 28, 2010, equation 32: extrapolated, for lists of any lengths):
  the expected overlap for a reader who goes on to the next place with probability p, so that the top weighs most.
- Kendall's tau-b (Biometrika 1945) of the places of the items that both lists have. A list has no ties, so it is tau.
"""

from bisect import bisect_right, insort
from collections.abc import Hashable, Sequence
from typing import Final

PERSISTENCE: Final = 0.9
"""p of the rank-biased overlap: the first ten places have 86 % of the weight."""


def overlap(one: Sequence[Hashable], other: Sequence[Hashable], k: int) -> float | None:
    """0 to 1; None where both lists are empty. `k`: 1 or more."""
    heads = set(one[:k]), set(other[:k])
    most = max(map(len, heads))
    return len(heads[0] & heads[1]) / most if most else None


def rank_biased_overlap(one: Sequence[Hashable], other: Sequence[Hashable], p: float = PERSISTENCE) -> float | None:
    """0 to 1, 1 for equal lists; None where both are empty."""
    short, long = sorted((list(dict.fromkeys(one)), list(dict.fromkeys(other))), key=len)
    s, depth = len(short), len(long)
    if not depth:
        return None
    if not s:
        return 0.0
    seen: set[Hashable] = set()
    common = common_of_short = 0
    total, weight = 0.0, 1.0
    for d in range(1, depth + 1):
        added = {long[d - 1], *short[d - 1 : d]}
        common += (len(added) == 1 and d <= s) + sum(item in seen for item in added)
        seen |= added
        weight *= p
        if d == s:
            common_of_short = common
        total += weight * common / d
        if d > s:  # what the short list would have had, were it as long
            total += weight * common_of_short * (d - s) / (s * d)
    return (1 - p) / p * total + ((common - common_of_short) / depth + common_of_short / s) * weight


def kendall_tau_b(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """-1 to 1; None for fewer than two items in common."""
    places = {item: place for place, item in reversed(list(enumerate(other)))}
    order = [places[item] for item in dict.fromkeys(one) if item in places]
    n = len(order)
    if n < 2:
        return None
    before: list[int] = []
    discordant = 0
    for place in order:
        discordant += len(before) - bisect_right(before, place)
        insort(before, place)
    return 1 - 4 * discordant / (n * (n - 1))
