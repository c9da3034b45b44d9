"""What a log says for the planning of an experiment: control's level, its spread between users, and the traffic."""

import math
from dataclasses import dataclass

import numpy as np
from abfleet_statistics.effects import compare

from abfleet_analysis.report.report import ExperimentReport


@dataclass(frozen=True, slots=True)
class BaseRates:
    """Control's primary metric and the experiment's traffic.

    Attributes:
        deviation: Standard deviation between users, of their influence on the metric.
        users_per_day: New users of all groups; None before a minute has passed.
    """

    value: float
    deviation: float
    users_per_day: float | None


def base_rates(report: ExperimentReport) -> BaseRates | None:
    """The base rates of an experiment; None if control has too few users for one."""
    evidence = report.gathered.evidence
    metric = next(one for one in evidence.metrics if one.rule.role == "primary")
    control = compare(metric.moments, evidence.membership, 0, estimator=metric.rule.estimator, quantile=metric.quantile)
    value, variance = float(control.baseline[-1]), float(control.baseline_variance[-1] * control.baseline_users[-1])
    if not (math.isfinite(value) and value != 0 and np.isfinite(variance)):
        return None
    return BaseRates(value, math.sqrt(variance), _users_per_day(report))


def preference_rates(report: ExperimentReport) -> tuple[float, float | None] | None:
    """Of an interleaving: the share of users with a preference, and users a day; None where nobody has one."""
    if report.preference is None:
        return None
    evidence = report.preference.evidence
    deciding = int(evidence.preferences.users[-1])
    return (deciding / int(evidence.users[-1]), _users_per_day(report)) if deciding else None


def _users_per_day(report: ExperimentReport) -> float | None:
    begin = min((found.begin for found in report.gathered.allocations), default=None)
    days = 0.0 if begin is None else (report.gathered.looks.times[-1] - begin).total_seconds() / 86_400
    return float(report.gathered.evidence.users[-1].sum()) / days if days > 1 / 1440 else None
