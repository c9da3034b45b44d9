"""Which replica of a pool takes the next call. Knows loads, no connection, no clock.

The power of two random choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): the less
loaded of two random replicas. One choice at random leaves the busiest with O(log n / log log n) more than the mean,
two with O(log log n), without the herding of "the least loaded of all".
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """What can be balanced over."""

    @property
    def load(self) -> float:
        """Work that waits or is under way, with recent failures counted as work."""


L = TypeVar("L", bound=Loaded)


def pick(candidates: Sequence[L], draw: Callable[[], float]) -> L:
    """The less loaded of two different candidates, drawn uniformly by `draw` in [0, 1).

    Every ordered pair (i, j), i ≠ j, has the same chance 1 / (n·(n-1)): i is uniform over n, j uniform over the other
    n - 1 by skipping over i. Raises ValueError when there is no candidate.
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    if count == 0:
        raise ValueError("candidates: none; at least one is needed")
    first = int(draw() * count)
    second = int(draw() * (count - 1))
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    return one if one.load <= other.load else other
