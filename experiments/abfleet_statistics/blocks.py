"""A guardrail's e-process that no single cause decides. Knows counts, shares and the number of a block; no clock.

Whatever breaks for ten minutes gives many users their first bad event at once, and an e-process that multiplies for
each of them calls that certain. So time is cut into blocks, and a block multiplies the stake on each bet by 4 at most.
The product is that of both groups: E[min(L, c)] <= E[L] <= 1, so the cap only lowers E. There is no floor.

Good days multiply the stakes down, and after a week of them harm would have to win all of that back first. So half of
the stake is there at the start, and the other half is paid in over the horizon, the same in each block:

    M_R <- (M_R + w) min(L_R, 4),  M_R = 1/2 at the start,  w = 1/2 / horizon
    E   =  mean over R of M_R  +  what has not been paid in yet

The weights sum to 1 and are fixed before, so that E stays a supermartingale where guardrails.py's is one.

Limits: a burst makes the null untrue; four blocks multiply E by 256, half of the stake by 128, less than 1/alpha = 200.
So no cause of half an hour acts alone from E = 1, and whatever acts from there takes five blocks or more.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics import guardrails
from abfleet_statistics.guardrails import Floats

BLOCK_SECONDS: Final = 600
"""30 minutes touch at most four of them. Who may take a verdict back can afford shorter ones."""
MOST: Final = 4.0
"""What a block multiplies a stake by, at most."""
AT_ONCE: Final = 0.5
"""The part of the stake that is there at the start."""


class BlockedProcess:
    """One guardrail of one treatment, event by event. Changed only by `add` and `step`.

    `ln_e` is where it stands, `capped` how many blocks would have multiplied a stake by more than MOST.
    """

    __slots__ = ("_block", "_first", "_gain", "_horizon", "_stakes", "_unpaid", "capped", "ln_e")

    def __init__(self, *, first: int, horizon: int) -> None:
        """first: Number of the block in which the experiment began. horizon: Blocks, 1 or more, that are paid for."""
        self._first, self._horizon = first, horizon
        self._block = first - 1  # the last that has been paid for
        self._stakes: Floats = np.full(len(guardrails.BETS), math.log(AT_ONCE))
        self._gain: Floats = np.zeros(len(guardrails.BETS))
        self._unpaid = 1 - AT_ONCE
        self.capped = 0
        self.ln_e = 0.0

    def add(self, block: int, treatment: float, control: float, share: float) -> float:
        """So many users' first bad events in a block, which is not before the last one; ln E after them."""
        counts = np.array([treatment]), np.array([control])
        return self.step(block, guardrails.log_factors(*counts, np.array([share]))[:, 0])

    def step(self, block: int, factors: Floats) -> float:
        """The same with float64[bets], ln of what the events multiply each stake by."""
        if block > self._block:
            self._enter(block)
        self._gain = self._gain + factors
        stakes = self._stakes + np.minimum(self._gain, _LN_MOST)
        total = float(guardrails.log_mean(stakes))
        self.ln_e = float(np.logaddexp(total, math.log(self._unpaid))) if self._unpaid > 0 else total
        return self.ln_e

    def _enter(self, block: int) -> None:
        self.capped += bool((self._gain > _LN_MOST).any())
        self._stakes = self._stakes + np.minimum(self._gain, _LN_MOST)
        self._gain = np.zeros(len(self._gain))
        end = self._first + self._horizon - 1
        paying = min(block, end) - min(self._block, end)
        self._block = block
        if paying > 0:
            paid = (1 - AT_ONCE) * paying / self._horizon
            self._stakes = np.logaddexp(self._stakes, math.log(paid))
            self._unpaid = 0.0 if block >= end else (1 - AT_ONCE) * (end - block) / self._horizon


_LN_MOST: Final = math.log(MOST)


def log_e_by_blocks(
    treatment: Floats, control: Floats, share: Floats, block: NDArray[np.int64], *, first: int, horizon: int
) -> tuple[Floats, int]:
    """ln E after each step, float64[steps], and how many blocks were capped.

    Steps are as of `log_e_process`. block: int[steps], ascending, the one that each step is in; several may be in one.
    first, horizon: As of BlockedProcess.
    """
    process = BlockedProcess(first=first, horizon=horizon)
    factors = guardrails.log_factors(treatment, control, share).T
    path = [process.step(number, factor) for number, factor in zip(block.tolist(), factors, strict=True)]
    return np.array(path), process.capped
