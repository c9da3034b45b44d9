"""A made-up experiment of three fixed shares, drawn as daily sums over users who come once. Judges nothing."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from abfleet_experiments.config import AnalysisPlan, Guardrail, MetricsPlan
from abfleet_statistics.effects import Estimator
from abfleet_statistics.moments import Floats, proportions

from abfleet_analysis.decision.evidence import BadEvents, Calendar, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.metrics import MetricRule, MetricSource, metric_rules

PLAN: Final = AnalysisPlan()
LOOKS: Final = 28
CONVERSION, _ERROR = metric_rules(MetricsPlan("conversion_rate", (Guardrail("error_rate"),)), PLAN, {})
_SLOW: Final = MetricRule("slow_users", "guardrail", MetricSource.OUTCOME_ANY, Estimator.MEAN, -1, margin=0.05)


@dataclass(frozen=True, slots=True)
class PlainScenario:
    """70/20/10 over 28 equal days; every user comes once. The second group is `experiment`, which alone may differ.

    Attributes:
        users: 1.25 times what one look at a fixed sample needs for the planned effect.
        conversion, error, slow: Share of control's users.
        lift, error_ratio, slow_ratio: The experiment's against control's.
        lost: Part of the experiment's users whose lines are missing, all of them users who did not convert.
    """

    users: int = 156_000
    weights: tuple[float, ...] = (0.7, 0.2, 0.1)
    conversion: float = 0.05
    error: float = 0.01
    slow: float = 0.20
    lift: float = 0.0
    error_ratio: float = 1.0
    slow_ratio: float = 1.0
    lost: float = 0.0

    @property
    def groups(self) -> tuple[str, ...]:
        """Their names."""
        more = tuple(f"treatment-{number}" for number in range(3, len(self.weights)))
        return ("control", "experiment", "canary", *more)[: len(self.weights)]

    def draw(self, random: np.random.Generator) -> Evidence:
        """Draws the daily counts of one experiment, and returns their sums as evidence."""
        weights = np.array(self.weights)
        daily = random.multinomial(self.users // LOOKS, weights, size=LOOKS).astype(np.float64)
        treated = (np.arange(len(weights)) == 1) * 1.0
        users = daily.astype(np.int64)
        converted = random.binomial(users, self.conversion * (1 + treated * self.lift)).astype(np.float64)
        errors = random.binomial(users, self.error * self.error_ratio**treated).astype(np.float64)
        slow = random.binomial(users, self.slow * self.slow_ratio**treated).astype(np.float64)
        if self.lost:
            stayed = (daily - converted).astype(np.int64)
            daily = daily - random.binomial(stayed, treated * self.lost / (1 - self.conversion))
            errors, slow = np.minimum(errors, daily), np.minimum(slow, daily)
        return self._evidence(daily, converted, errors, slow)

    def _evidence(self, daily: Floats, converted: Floats, errors: Floats, slow: Floats) -> Evidence:
        users, events = _cumulative(daily), np.asarray(errors, np.float64)
        rules = {CONVERSION: converted, _ERROR: errors, _SLOW: slow}
        times, weights = LOOKS + 1, np.array(self.weights)
        return Evidence(
            groups=self.groups,
            weights=weights,
            calendar=Calendar(LOOKS, LOOKS, int(PLAN.minimum / PLAN.look)),
            membership=np.ones((times, 1, 1)),
            shares=np.broadcast_to(weights, (times, 1, len(weights))),
            new_users=users,
            users=users[:, 0, :],
            metrics=tuple(
                MetricEvidence(rule, proportions(users, _cumulative(counts))) for rule, counts in rules.items()
            ),
            bad_events={
                _ERROR.name: BadEvents(np.arange(LOOKS), events, np.broadcast_to(weights, (LOOKS, len(weights))))
            },
            quality=DataQuality(users=int(users[-1].sum())),
        )


def _cumulative(daily: Floats) -> Floats:
    """float64[looks + 1, 1, groups] from daily counts; the report comes right after the last look."""
    total = np.asarray(daily, np.float64).cumsum(axis=0)
    return np.concatenate([total, total[-1:]])[:, None, :]
