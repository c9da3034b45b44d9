"""How many users a decision needs, and what a guardrail tolerates."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from abfleet_experiments.config import AnalysisPlan
from abfleet_statistics.effects import Comparison
from abfleet_statistics.moments import Floats
from abfleet_statistics.sequential import quantile

from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.metrics import MetricRule

GUARDRAIL_ALPHA: Final = 0.05
"""One-sided, for each guardrail to be better than its margin. All must be, so this is not divided."""
INFLATION: Final = 1.25
"""Planned users over those of one look at a fixed sample: what looking often and passing the guardrails cost."""


def planned_users(
    evidence: Evidence,
    plan: AnalysisPlan,
    alpha: Floats,
    primary: Comparison,
    held: Sequence[tuple[MetricRule, Comparison]],
) -> Floats:
    """How many users the experiment needs for one treatment, as known at each time: float64[times]; nan if unknown.

    alpha: float64[times], one-sided, of the primary metric. held: The guardrails.
    From control's variance alone, a treatment's being taken as what the plan expects of it: what a treatment does must
    not decide how long it is watched. Where control does nothing that the primary metric counts, nobody knows. Of such
    a guardrail only a margin in points says how many users would show a treatment at it; without one it is left out, as
    no number of users would do.
    """
    everyone, power = evidence.users.sum(axis=1), quantile(plan.power)
    distance = plan.effect * np.abs(primary.baseline)
    z_of_primary = np.array([quantile(1 - one) for one in alpha.tolist()]) + power
    needed = _needed(primary, everyone, 1.0, 1 + plan.effect, distance, z=z_of_primary)
    needed = np.where(needed > 0, needed, np.nan)
    for rule, comparison in held:
        factor, points = margin(rule, comparison)
        distance = np.abs((factor - 1) * comparison.baseline) + np.abs(points)
        z = quantile(1 - GUARDRAIL_ALPHA) + power
        at_margin = np.where(comparison.baseline == 0, np.abs(points) * (1 - np.abs(points)), 0.0)
        by_it = _needed(comparison, everyone, np.square(factor), 1.0, distance, z=z, of_its_own=at_margin)
        needed = np.maximum(needed, np.nan_to_num(by_it, nan=0.0, posinf=0.0))
    return np.where(np.isfinite(needed), np.ceil(needed * INFLATION), np.nan)


def _needed(
    comparison: Comparison,
    everyone: Floats,
    of_control: Floats | float,
    of_treatment: float,
    distance: Floats,
    *,
    z: Floats | float,
    of_its_own: Floats | float = 0.0,
) -> Floats:
    """Users for a difference of this distance to be found; the factors are of control's variance per user.

    of_its_own: What a treatment's variance per user is beside that.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a_user = comparison.baseline_variance * comparison.baseline_users
        control, treatment = comparison.baseline_users / everyone, comparison.users / everyone
        error = a_user * (of_control / control + of_treatment / treatment) + of_its_own / treatment
        return np.where(error == 0, 0.0, error * np.square(z / distance))


def margin(rule: MetricRule, comparison: Comparison) -> tuple[Floats, Floats]:
    """The worst that is tolerated is factor x baseline + points: float64[times] each.

    A part of control's value is one of its size: where it is below 0, as money with refunds may be, worse is further
    from 0 for what should be up, and of 0 there is no part.
    """
    relative = rule.margin * np.abs(comparison.baseline)
    by_points = rule.margin_points > relative
    side = (comparison.baseline > 0) * 1.0 - (comparison.baseline < 0)
    factor = np.where(by_points, 1.0, 1.0 - rule.sign * rule.margin * side)
    return factor, np.where(by_points, -rule.sign * rule.margin_points, 0.0)


def days_left(evidence: Evidence, planned: float) -> float:
    """Days until the plan's minimum has passed and the planned users have come at the present rate; at most until the
    horizon."""
    calendar = evidence.calendar
    to_horizon = max(calendar.planned - calendar.done, 0) * calendar.look_days
    users = evidence.users[-1].sum()
    if not users:
        return math.nan
    if not planned > 0 or not calendar.done:
        return to_horizon
    elapsed = calendar.elapsed_days  # the first look is a part of a day after the first exposure
    per_day = users / (elapsed if elapsed > 0 else calendar.done * calendar.look_days)
    to_minimum = max(calendar.first_shipping - calendar.done, 0) * calendar.look_days
    return float(min(max((planned - users) / per_day, to_minimum), to_horizon))
