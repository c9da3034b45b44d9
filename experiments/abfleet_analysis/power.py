"""How many users, and how many days, a plan needs. Knows the formula of the decision; of a log only its base rates.

Two groups with shares s0 and s1 of N users, variances v0 and v1 per user, a difference d to be found with probability
`power` by a one-sided test at alpha: N = (z(1 - alpha) + z(power))^2 (v0 / s0 + v1 / s1) / d^2. A treatment's variance
is taken as (1 + effect) times control's, as for rare events. Times 1.25 for looking often and for the guardrails.
"""

from dataclasses import dataclass

from abfleet_experiments.config import AnalysisPlan
from abfleet_statistics.sequential import quantile

from abfleet_analysis.decision.decide import ALPHA
from abfleet_analysis.decision.planning import INFLATION
from abfleet_analysis.periods.allocation_periods import DAY


@dataclass(frozen=True, slots=True)
class SampleSize:
    """What a plan needs.

    Attributes:
        fixed: Users of the whole experiment for one look at a fixed sample. planned: With INFLATION.
        days_of_users: Until they have come; None if the rate is not known.
        days: The same, and the plan's minimum at least: nothing is shipped before.
    """

    fixed: float
    planned: float
    days_of_users: float | None
    days: float | None


def users_needed(
    *,
    baseline: float,
    variance: float,
    effect: float,
    power: float,
    control_share: float,
    treatment_share: float,
    treatments: int,
    plan: AnalysisPlan,
    users_per_day: float | None = None,
) -> SampleSize:
    """Users for a relative effect on a metric with this baseline and variance per user.

    Shares are of the experiment's users, 0 to 1. Raises ValueError for a baseline of 0 or a share that is not above 0.
    """
    if baseline == 0:
        raise ValueError("baseline: is 0, and an effect relative to 0 has no size; it must be another number")
    if not (control_share > 0 and treatment_share > 0):
        raise ValueError(f"shares: are {control_share} and {treatment_share}; both must be above 0")
    z = quantile(1 - ALPHA / treatments) + quantile(power)
    spread = variance / control_share + variance * (1 + effect) / treatment_share
    fixed = spread * (z / (effect * baseline)) ** 2
    planned = fixed * INFLATION
    coming = planned / users_per_day if users_per_day else None
    return SampleSize(fixed, planned, coming, None if coming is None else max(coming, plan.minimum / DAY))


@dataclass(frozen=True, slots=True)
class PreferenceSize:
    """What an interleaving needs.

    Attributes:
        deciding: Users with a preference. users: All users, most of whom may click on nothing. Both with INFLATION.
        days: Until they have come; None if the rate is not known.
    """

    deciding: float
    users: float
    days: float | None


def users_for_preference(
    share: float, *, power: float, with_preference: float, users_per_day: float | None = None
) -> PreferenceSize:
    """Users to detect that this share of those with a preference, above a half, prefer the same version.

    with_preference: Share of all users who have a preference, 0 to 1. n = ((z(1 - alpha) / 2 + z(power) sqrt(share (1 -
    share))) / (share - 1/2))^2, the sign test's. Raises ValueError for shares that are not possible.
    """
    if not 0.5 < share < 1:
        raise ValueError(f"preference: is {share:g}; allowed: a share above 0.5 and below 1, such as 0.55")
    if not 0 < with_preference <= 1:
        raise ValueError(f"with-preference: is {with_preference:g}; allowed: a share above 0 and up to 1, such as 0.3")
    z = quantile(1 - ALPHA) / 2 + quantile(power) * (share * (1 - share)) ** 0.5
    deciding = INFLATION * (z / (share - 0.5)) ** 2
    users = deciding / with_preference
    return PreferenceSize(deciding, users, users / users_per_day if users_per_day else None)
