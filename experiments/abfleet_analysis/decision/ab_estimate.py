"""How many users an A/B test of two interleaved versions would have needed, as far as clicks on merged lists can say.

With y clicks on z lists and credits a and b of the two versions, R = y / z and d = |a - b| / z. How much more clicks a
list of the one has than a list of the other depends on what the log does not say, namely how alike the two are:

- where all items that only one of them has were shown, the lists differ by d: the rest is the same for both;
- where they share nothing, a merged list has half of each, and whole lists differ by up to 2 d.

So the change is between d / (R - d / 2) and 2 d / (R - d), and the users are those for both ends, by the formula of
power.py at even shares. Their variance is that of clicks over lists between the users of the interleaving (delta
method). Limits: an item stands lower in a merged list than in its own; this is the order of magnitude.
"""

import math
from dataclasses import dataclass
from typing import Final

from abfleet_experiments.config import AnalysisPlan
from abfleet_statistics.sequential import quantile

from abfleet_analysis.decision.measurements import ALPHA
from abfleet_analysis.decision.planning import INFLATION
from abfleet_analysis.decision.preference import ClickSums

_SINGLE_LOOK_Z: Final = quantile(0.975)


@dataclass(frozen=True, slots=True)
class AbTestEstimate:
    """What an A/B test would have to find, and with how many users of both groups; infinite where it may be nothing.

    Attributes:
        effect: Relative change of clicks per list, above 0: if the lists are nearly alike, and if they share nothing.
        users: To find the larger change, and the smaller one, with the plan's power, looking as often as the plan does.
        users_interval: The same at both ends of the 95 % interval of d, for this look alone.
    """

    effect: tuple[float, float]
    users: tuple[float, float]
    users_interval: tuple[float, float]


def ab_estimate(clicks: ClickSums, plan: AnalysisPlan) -> AbTestEstimate | None:
    """The estimate; None where the credits are even, or there are no clicks."""
    n, lists = clicks.users, clicks.z
    difference = abs(clicks.first - clicks.second)
    if n < 2 or not lists or not difference:
        return None
    rate, d, mean = clicks.all / lists, difference / lists, lists / n
    sign = 1 if clicks.first > clicks.second else -1
    variance = (clicks.yy - 2 * rate * clicks.yz + rate * rate * clicks.zz) / n / mean**2
    of_d = (clicks.cc - 2 * sign * d * clicks.cz + d * d * clicks.zz) / n / mean**2
    if not variance > 0:
        return None
    error = _SINGLE_LOOK_Z * math.sqrt(max(of_d, 0.0) / n)
    return AbTestEstimate(
        (_effect(rate, d), _effect(rate, 2 * d)),
        (_users(rate, 2 * d, variance, plan), _users(rate, d, variance, plan)),
        (_users(rate, 2 * (d + error), variance, plan), _users(rate, d - error, variance, plan)),
    )


def _effect(rate: float, apart: float) -> float:
    """Relative to the version with fewer clicks, where both are `apart` and have this rate on average."""
    return apart / (rate - apart / 2) if rate > apart / 2 else math.inf


def _users(rate: float, apart: float, variance: float, plan: AnalysisPlan) -> float:
    """Users in all, half of them in each group."""
    if apart <= 0:
        return math.inf
    effect = _effect(rate, apart)
    spread = 2 * variance * (2 + (effect if math.isfinite(effect) else 0.0))
    z = quantile(1 - ALPHA) + quantile(plan.power)
    return math.ceil(INFLATION * spread * (z / apart) ** 2)
