"""Which replica of a pool takes the next call: pure decisions over loads; draws and times are arguments.

Three questions: which of several, how much of its due a replica gets that has just come, and how many calls in a row.

The power of two random choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): the less
loaded of two random replicas. One choice at random leaves the busiest with O(log n / log log n) more than the mean,
two with O(log log n), without the herding of "the least loaded of all".
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar


class Loaded(Protocol):
    """A candidate for the next call."""

    @property
    def load(self) -> float:
        """Work that waits or is under way, with recent failures counted as work."""


L = TypeVar("L", bound=Loaded)


def pick(candidates: Sequence[L], draw: Callable[[], float], factor: Callable[[L], float] | None = None) -> L:
    """The less loaded of two different candidates, drawn uniformly by `draw` in [0, 1).

    `factor`: the part of its share that each is to get now, in (0, 1]. The one with the smaller factor,
    where it would be picked, is picked with the chance of the ratio, so that its calls come to that part of what they
    would be. None: all have the same.

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
    if one.load > other.load:
        one, other = other, one
    if factor is not None and (part := factor(one) / factor(other)) < 1 and draw() >= part:
        return other
    return one


MIN_SLOW_START_FACTOR = 0.1
"""With less, a pool with few calls would learn nothing of its new replica in all the time of its slow start."""


def slow_start_factor(age_seconds: float, slow_start_seconds: float) -> float:
    """The part of its share that a replica gets which came, or came back, so long ago: rises linearly to 1."""
    if age_seconds >= slow_start_seconds:
        return 1.0
    return max(MIN_SLOW_START_FACTOR, age_seconds / slow_start_seconds)


BURST_SECONDS = 0.001
"""Work that may go to one replica while another is idle; what it adds to a call is of the order of the round trip
itself."""
MAX_BURST = 128
SMOOTHING = 0.1
"""Weight of the newest batch in the smoothed work of a call: ten batches are a few milliseconds of traffic."""

FORGET_SECONDS = 60.0
"""Without a pick, after which the work of a call is learned anew: a replica may serve another model by then, and 128
calls that go to one replica are a long wait where they are not the millisecond that they once were."""


class BurstPicker(Generic[L]):
    """Gives the calls of a burst to one replica, as long as they are about a millisecond of work for it.

    Spread over all replicas one by one, each call would travel alone and pay for a whole round trip. How many calls
    make a millisecond is learned from the batches that come back; before the first, one.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._turn = -1.0
        self._picked: L | None = None
        self._room = 0  # calls of this turn that may follow to the same replica
        self._call_seconds = BURST_SECONDS  # work of one call, smoothed

    @property
    def burst_size(self) -> int:
        """Calls of one turn that go to one replica, 1 to MAX_BURST."""
        return max(1, min(MAX_BURST, int(BURST_SECONDS / max(self._call_seconds, 1e-9))))

    def pick(self, candidates: Sequence[L], turn: float, factor: Callable[[L], float] | None = None) -> L | None:
        """The candidate for a call of this turn; None when there is none. The calls of a burst share a turn.

        `factor`: as in the function `pick`.
        """
        if len(candidates) == 1:
            return candidates[0]
        if turn == self._turn and self._room > 0 and self._picked is not None:
            self._room -= 1
            return self._picked
        if turn - self._turn > FORGET_SECONDS:
            self._call_seconds = BURST_SECONDS
        self._turn = turn
        self._room = self.burst_size - 1
        self._picked = pick(candidates, self._draw, factor) if candidates else None
        return self._picked

    def forget(self) -> None:
        """Picks anew for the next call, because the candidates have changed."""
        self._picked = None

    def learn(self, calls: int, seconds: float) -> None:
        """A batch of `calls` was `seconds` of work."""
        self._call_seconds += SMOOTHING * (seconds / calls - self._call_seconds)
