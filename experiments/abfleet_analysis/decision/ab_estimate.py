"""How many users an A/B test of two interleaved versions would have needed, as far as clicks on merged lists can say.

With y clicks on z lists and credits a and b of the two versions, R = y / z and d = (a - b) / z. A merged list has about
half of each version's own items. If each half stands for a whole list, the versions alone have R + d and R - d clicks a
list; where the lists share items, which no letter of a team says, they are nearer to each other. So the change is

    2 |d| / (R - |d|)   at most,

and the users for it, by the formula of power.py at even shares, are the fewest that will do. Their variance is that of
clicks over lists between the users of the interleaving (delta method). Limits: an item stands lower in a merged list
than in its own, and users see one merged list where two groups would see two: this is the order of magnitude.
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
    """What an A/B test would have to find, and with how many users of both groups.

    Attributes:
        effect: The largest relative change of clicks per list that the credits suggest, above 0.
        users: To find it with the plan's power, looking as often as the plan does.
        users_interval: The same at both ends of the 95 % interval of d, for this look alone; infinite where d may be 0.
    """

    effect: float
    users: float
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
    error = _SINGLE_LOOK_Z * math.sqrt(max(of_d, 0.0) / n)
    if not variance > 0:
        return None
    ends = (_users(rate, d + error, variance, plan), _users(rate, d - error, variance, plan))
    return AbTestEstimate(_effect(rate, d), _users(rate, d, variance, plan), ends)


def _effect(rate: float, d: float) -> float:
    return 2 * d / (rate - d) if rate > d else math.inf


def _users(rate: float, d: float, variance: float, plan: AnalysisPlan) -> float:
    """Users in all, half of them in each group."""
    if d <= 0:
        return math.inf
    effect = _effect(rate, d)
    spread = 2 * variance * (2 + (effect if math.isfinite(effect) else 0.0))
    z = quantile(1 - ALPHA) + quantile(plan.power)
    return math.ceil(INFLATION * spread * (z / (2 * d)) ** 2)
