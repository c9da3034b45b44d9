"""Is a treatment harming users right now? Knows who had a first bad event, and nothing of what the event was.

Of the users with a bad event (a failed call, a slow answer) each counts once, with their first. If the treatment has
the share p of the users of the two groups, and its users have the event r times as often as control's, then each such
event is the treatment's with probability theta(r) = p r / (1 - p + p r), whatever the base rate is at the time. The
e-process bets on larger ratios than the tolerated r0, R times as large for several R, and averages over them:

    E = mean over R of prod (theta(r0 R) / theta(r0))^x ((1 - theta(r0 R)) / (1 - theta(r0)))^(1 - x)

x = 1 if the event is the treatment's. For every true ratio up to r0, E is a non-negative supermartingale, so that
P(E ever reaches 1/alpha) <= alpha (Ville 1939; Ramdas et al., arXiv 2210.01948), under any drift of the base rate and
any ramp. No data leaves E at 1, which neither acts nor passes.

Limits: events must be of different users; counting every call instead lets a few unlucky users cry wolf. Events of one
cause come together, which breaks the null: blocks.py and outages.py say what is done about that.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics import tails

Floats = NDArray[np.float64]

TOLERATED_RATIO: Final = 1.25
BETS: Final = (1.15, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
ALPHA: Final = 0.005
"""A guardrail rolls a treatment back where E reaches 1/ALPHA."""


def log_e_process(treatment: Floats, control: Floats, share: Floats, *, tolerated: float = TOLERATED_RATIO) -> Floats:
    """ln E after each step: float64[steps].

    treatment, control: float64[steps], how many users had their first bad event in the step.
    share: float64[steps], the treatment's share of the users of the two groups then in force, above 0 and below 1.
    """
    if not len(treatment):
        return np.zeros(0)
    return log_mean(log_factors(treatment, control, share, tolerated=tolerated).cumsum(axis=1))


def log_factors(treatment: Floats, control: Floats, share: Floats, *, tolerated: float = TOLERATED_RATIO) -> Floats:
    """ln of what each step multiplies the stake on each of BETS by: float64[bets, steps]."""
    bets = tolerated * np.array(BETS)[:, None]
    null = _theta(share, np.array(tolerated))
    alternative = _theta(share[None, :], bets)
    return np.asarray(treatment * np.log(alternative / null) + control * np.log((1 - alternative) / (1 - null)))


def found_ratio(control: int, share: float, *, stake: float = 1.0, power: float = 0.8) -> float:
    """The least ratio of bad events that is found with this power while control has so many first bad events.

    The treatment's are Poisson with the ratio times as many as its share asks for; found is what takes a stake to
    1/ALPHA by then. Blocks, which let nothing be found within minutes, are left out of it. inf where control has none.

    share: The treatment's, above 0 and below 1. stake: What the process has to play with.
    """
    if control <= 0:
        return math.inf
    wanted = -math.log(ALPHA * stake)
    odds = share / (1 - share)
    low, high = 0, 1
    while _reached(high, control, share) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reached(middle, control, share) >= wanted else (middle, high)
    return _mean_for(high, power) / (control * odds)


def _mean_for(count: int, power: float) -> float:
    """The mean of a Poisson number that is so large, or larger, with this probability: half a chi-square's quantile."""
    low, high = 0.0, 2.0 * count + 20.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if 1 - tails.chi_square_above(2 * count, 2 * middle) >= power else (middle, high)
    return high


def _reached(treatment: int, control: int, share: float) -> float:
    counts = np.array([float(treatment)]), np.array([float(control)])
    return float(log_mean(log_factors(*counts, np.array([share])))[0])


def log_mean(logs: Floats) -> Floats:
    """ln of the mean over the first axis of numbers whose ln is given."""
    highest = logs.max(axis=0)
    return np.asarray(highest + np.log(np.exp(logs - highest).mean(axis=0)))


def acts(log_e: Floats, *, alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Whether E has reached 1/alpha by each step; once it has, it stays so."""
    return np.maximum.accumulate(log_e) >= -math.log(alpha) if len(log_e) else np.zeros(0, dtype=bool)


def _theta(share: Floats, ratio: Floats) -> Floats:
    return np.asarray(share * ratio / (1 - share + share * ratio))
