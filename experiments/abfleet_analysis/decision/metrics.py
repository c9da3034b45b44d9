"""What each metric is: its sums, its estimator, which way is better, what is tolerated.

The built-in metrics and those of the experiments file become one kind of value, `MetricRule`, and everything after that
treats them alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum, IntEnum
from typing import Final

from abfleet_experiments.config import AnalysisPlan, Experiment, Guardrail, Metric, MetricsPlan, Money
from abfleet_statistics.effects import Estimator
from abfleet_statistics.outages import TOLERATED_A_DAY

DEFAULT_WINDOW: Final = timedelta(days=7)
"""How long after a user's first exposure an outcome without a request id still counts."""
ERROR_FALLBACKS: Final = ("unavailable", "timeout", "ejected", "model_error")
"""Why an assigned version did not answer, where the version is to blame; never overload."""
ERROR_STATUSES: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN")
"""Statuses that are an error of the assigned version; never mistakes or cancellations of the client, nor overload."""
TIMED_STATUSES: Final = ("OK", "DEADLINE_EXCEEDED")
"""Calls whose time counts: answered ones, and those for whose answer the client waited in vain."""
ERROR_MARGIN_RELATIVE: Final = 0.25
ERROR_MARGIN_POINTS: Final = 0.002
RESPONSE_TIME_MARGIN: Final = 0.10
RESPONSE_TIME_QUANTILE: Final = 0.95
EVEN: Final = 0.8
"""Groups are uneven where one has less than this part of another's weight."""
UNEVEN_WINSORISE: Final = 0.999
"""Without it sums of money hardly ever count where groups are uneven: one large value may decide."""


class MetricSource(Enum):
    """Where a user's y and z come from."""

    CLICKS = "clicked pairs over lists answered, each as often as different items of it were seen, once at least"
    ERRORS = "whether a call of the user failed"
    FALLBACKS = "whether another version than the assigned one answered the user"
    TIME_MEAN = "summed response time over timed calls"
    TIME_QUANTILE = "timed calls slower than the quantile, over timed calls"
    OUTCOME_VALUE = "summed values of one outcome type"
    OUTCOME_COUNT = "outcomes of one type"
    OUTCOME_RATIO = "outcomes of one type over those of another"
    OUTCOME_ANY = "whether the user had an outcome of one type"


class BadEvent(Enum):
    """The bad event that a guardrail's e-process counts: a failed call, a slow response."""

    ERROR = "error"
    SLOW = "slow"


class Failure(IntEnum):
    """What became of a call that the assigned version did not answer, as far as guardrails ask; failures.py says which.

    Of control's AMBIGUOUS ones nothing else is known, so that they count against it whatever is asked.
    """

    NONE = 0
    ABSENT = 1
    WRONG = 2
    LATE = 3
    AMBIGUOUS = 4


FAILURES: Final[Mapping[str, Failure]] = {
    "unavailable": Failure.ABSENT,
    "ejected": Failure.ABSENT,
    "model_error": Failure.WRONG,
    "timeout": Failure.LATE,
}
"""By the reason that the log gives."""


@dataclass(frozen=True, slots=True)
class MetricRule:
    """One metric of one experiment, with everything that its judgement needs.

    Attributes:
        role: `primary`, `guardrail` or `secondary`.
        sign: 1 if up is better, -1 if down is.
        margin: Tolerated relative change for the worse.
        margin_points: As a guardrail, at least this much change for the worse is tolerated, in the metric's unit.
        outcome: The outcome type, where the source is one. over: The one that it is divided by.
        money: The currency that values are added up in, and what others are worth; None: the most frequent one counts.
        winsorise: Quantile of all users' values at which they are cut; `by_default`, because groups are uneven.
        bad_event: What the e-process counts, where the metric is a guardrail that has one.
        threshold_ms: What counts as slow; None learns it from control.
        outages_per_day: Outages of a treatment that are nobody's concern, where the metric asks about them.
    """

    name: str
    role: str
    source: MetricSource
    estimator: Estimator
    sign: int
    margin: float
    margin_points: float = 0.0
    outcome: str | None = None
    window: timedelta = DEFAULT_WINDOW
    money: Money | None = None
    winsorise: float | None = None
    bad_event: BadEvent | None = None
    threshold_ms: float | None = None
    over: str | None = None
    by_default: bool = False
    outages_per_day: float = TOLERATED_A_DAY

    @property
    def binary(self) -> bool:
        """Whether a user's value is 0 or 1."""
        return self.source in (MetricSource.ERRORS, MetricSource.FALLBACKS, MetricSource.OUTCOME_ANY)

    @property
    def adds_values(self) -> bool:
        """Whether a user's values are added up, which may be money; all else counts outcomes or calls."""
        return self.source is MetricSource.OUTCOME_VALUE

    @property
    def direction(self) -> str:
        """Which way is better, in the words of the report."""
        return "up" if self.sign > 0 else "down"


@dataclass(frozen=True, slots=True)
class _BuiltInMetric:
    source: MetricSource
    estimator: Estimator
    sign: int = 1
    outcome: str | None = None
    bad_event: BadEvent | None = None


BUILT_IN: Final[Mapping[str, _BuiltInMetric]] = {
    "ctr": _BuiltInMetric(MetricSource.CLICKS, Estimator.RATIO),
    "conversion_rate": _BuiltInMetric(MetricSource.OUTCOME_ANY, Estimator.MEAN, outcome="conversion"),
    "response_time_mean": _BuiltInMetric(MetricSource.TIME_MEAN, Estimator.RATIO, -1, bad_event=BadEvent.SLOW),
    "response_time_p95": _BuiltInMetric(MetricSource.TIME_QUANTILE, Estimator.RATIO, -1, bad_event=BadEvent.SLOW),
    "revenue_per_user": _BuiltInMetric(MetricSource.OUTCOME_VALUE, Estimator.CUPED, outcome="purchase"),
    "error_rate": _BuiltInMetric(MetricSource.ERRORS, Estimator.MEAN, -1, bad_event=BadEvent.ERROR),
    "fallback_rate": _BuiltInMetric(MetricSource.FALLBACKS, Estimator.MEAN, -1),
}


def uneven(experiment: Experiment) -> bool:
    """Whether a group has so much smaller a weight than another that a few large values may decide between them."""
    weights = [group.weight_bp for group in experiment.groups if group.weight_bp > 0]
    return bool(weights) and min(weights) < EVEN * max(weights)


def metric_rules(
    metrics: MetricsPlan,
    plan: AnalysisPlan,
    own: Mapping[str, Metric],
    money: Money | None = None,
    *,
    uneven_groups: bool = False,
) -> tuple[MetricRule, ...]:
    """The metrics of an experiment in the order of its report: primary, guardrails, secondary ones, each once.

    money: The file's, for metrics without one of their own. uneven_groups: Whether means are winsorised where the file
    does not say.
    """
    asked = [(metrics.primary, "primary", Guardrail(metrics.primary))]
    asked += [(guardrail.name, "guardrail", guardrail) for guardrail in metrics.guardrails]
    asked += [(name, "secondary", Guardrail(name)) for name in metrics.secondary]
    rules: dict[str, MetricRule] = {}
    for name, role, guardrail in asked:
        if name not in rules:
            rule = _rule(name, role, guardrail, plan, own)
            if rule.adds_values:
                rule = replace(rule, money=rule.money or money)
                if uneven_groups and (name not in own or own[name].winsorise is None):
                    rule = replace(rule, winsorise=UNEVEN_WINSORISE, by_default=True)
            rules[name] = rule
    return tuple(rules.values())


def _rule(name: str, role: str, guardrail: Guardrail, plan: AnalysisPlan, own: Mapping[str, Metric]) -> MetricRule:
    if name in own:
        return _own(name, role, guardrail.margin, plan, own[name])
    built = BUILT_IN[name]
    margin, points = plan.effect, 0.0
    if built.source is MetricSource.ERRORS:
        margin, points = ERROR_MARGIN_RELATIVE, ERROR_MARGIN_POINTS
    elif built.bad_event is BadEvent.SLOW:
        margin = RESPONSE_TIME_MARGIN
    if guardrail.margin is not None:
        margin, points = guardrail.margin, 0.0
    if guardrail.points is not None:
        points = guardrail.points
    return MetricRule(
        name=name,
        role=role,
        source=built.source,
        estimator=built.estimator,
        sign=built.sign,
        margin=margin,
        margin_points=points,
        outcome=built.outcome,
        bad_event=built.bad_event if role == "guardrail" else None,
        threshold_ms=guardrail.threshold_ms,
        outages_per_day=TOLERATED_A_DAY if guardrail.outages_per_day is None else guardrail.outages_per_day,
    )


_OWN: Final = {
    "mean": MetricSource.OUTCOME_VALUE,
    "count": MetricSource.OUTCOME_COUNT,
    "proportion": MetricSource.OUTCOME_ANY,
    "ratio": MetricSource.OUTCOME_RATIO,
}
_OWN_ESTIMATORS: Final = {"mean": Estimator.CUPED, "ratio": Estimator.RATIO}


def _own(name: str, role: str, margin: float | None, plan: AnalysisPlan, metric: Metric) -> MetricRule:
    if margin is None:
        margin = plan.effect if metric.margin is None else metric.margin
    return MetricRule(
        name=name,
        role=role,
        source=_OWN[metric.type],
        estimator=_OWN_ESTIMATORS.get(metric.type, Estimator.MEAN),
        sign=1 if metric.direction == "up" else -1,
        margin=margin,
        outcome=metric.outcome,
        window=metric.window,
        money=metric.money,
        winsorise=metric.winsorise if metric.type in ("mean", "count") and metric.winsorise != 1 else None,
        over=metric.over,
    )
