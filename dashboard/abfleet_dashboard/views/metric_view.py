"""A treatment's metrics as rows with their intervals drawn beside the numbers."""

import math
from dataclasses import dataclass

from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.decision.verdicts import GroupDecision, MetricResult, Verdict
from abfleet_analysis.report.render import side
from abfleet_analysis.report.report import ExperimentReport
from abfleet_statistics import guardrails
from markupsafe import Markup

from abfleet_dashboard.numbers import UNKNOWN, between, change, evidence, metric_value, p_value, whole
from abfleet_dashboard.pictures.scales import Scale
from abfleet_dashboard.pictures.strip import axis_for, strip, strip_axis
from abfleet_dashboard.views.words import metric_title, not_yet, with_version

_ROLES = {"primary": "primary metric", "guardrail": "guardrail", "secondary": "secondary metric"}
_COUNTED = {
    MetricSource.CLICKS: "per answered list",
    MetricSource.ERRORS: "share of users with an error",
    MetricSource.FALLBACKS: "share of users with a fallback",
    MetricSource.TIME_MEAN: "of calls",
    MetricSource.TIME_QUANTILE: "of calls",
    MetricSource.OUTCOME_VALUE: "per user",
    MetricSource.OUTCOME_COUNT: "per user",
    MetricSource.OUTCOME_ANY: "share of users",
}
"""What a metric's value is of; errors and fallbacks in the table of groups are of calls."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric, as text. `interval` holds at every look, `alone` at this one. `strip` draws both."""

    name: str
    key: str
    role: str
    better: str
    baseline: str
    value: str
    change: str
    tone: str
    reading: str
    interval: str
    alone: str
    p_value: str
    margin: str
    guard: str
    strip: Markup


@dataclass(frozen=True, slots=True)
class MetricTable:
    """One treatment's metrics; all rows on one axis."""

    title: str
    group: str
    axis: Markup
    rows: tuple[MetricRow, ...]


def metric_tables(report: ExperimentReport) -> tuple[MetricTable, ...]:
    """A table of metrics for each treatment, in the report's order."""
    return tuple(_table(report, group) for group in report.decision.groups)


def reading(metric: MetricResult, *, believed: bool, held: bool = False, yet: str = " yet") -> tuple[str, str]:
    """A class of tone and a word: on which side of no change the always-valid interval lies, if it is believed.

    Nothing is called chance beside an interval that leaves out no change. held: Whether it is a guardrail that has been
    shown to be within its margin, which takes fewer events than an interval. yet: Empty where nothing more comes.
    """
    low, _ = metric.relative_sequential_interval
    if not math.isfinite(metric.relative_difference):
        return "open", "nothing to compare"
    if not believed:
        return "open", "not reliable"
    if (tone := side(metric)) != "open":
        return tone, "better" if tone == "good" else "worse"
    if held:
        return "open", "within its margin"
    if metric.interval[0] > 0 or metric.interval[1] < 0:
        return "open", f"not decided{yet}"
    return "open", "could be chance" if math.isfinite(low) else "too early to say" if yet else "too few events"


def _table(report: ExperimentReport, group: GroupDecision) -> MetricTable:
    needed = [_drawn(metric) for metric in group.metrics]
    needed += [(0.0, _margin(metric)) for metric in group.metrics if math.isfinite(_margin(metric))]
    axis = axis_for(needed)
    believed, yet = report.decision.verdict is not Verdict.REFUSE, not_yet(report)
    seen = report.gathered.evidence.impression_coverage is not None
    return MetricTable(
        title=f"{with_version(report, group.group)} against {with_version(report, report.gathered.evidence.groups[0])}",
        group=group.group,
        axis=strip_axis(axis),
        rows=tuple(
            _row(
                metric, axis, reading(metric, believed=believed, held=_held(group, metric), yet=yet), yet=yet, seen=seen
            )
            for metric in group.metrics
        ),
    )


def _held(group: GroupDecision, metric: MetricResult) -> bool:
    """Whether it is a guardrail within its margin: now, or when its group was found fit to be shipped."""
    shipped = group.verdict in (Verdict.SHIP, Verdict.CHECK_FIRST)
    return metric.rule.role == "guardrail" and (shipped or metric.z >= metric.boundary)


def _drawn(metric: MetricResult) -> tuple[float, float]:
    """What an axis must have room for: the interval that holds at every look, else the other one, else the estimate."""
    known = (metric.relative_sequential_interval, metric.relative_interval)
    return next((bounds for bounds in known if all(map(math.isfinite, bounds))), (metric.relative_difference,) * 2)


def _guard(e_value: float) -> str:
    acts = whole(1 / guardrails.ALPHA)
    if not math.isfinite(e_value):
        return ""
    return f"evidence of harm: {evidence(e_value)}, of {acts} needed to roll back"


def _margin(metric: MetricResult) -> float:
    """The change that a guardrail just tolerates; nan for other metrics."""
    return -metric.rule.sign * metric.margin if metric.rule.role == "guardrail" else math.nan


def _counted(rule: MetricRule, *, seen: bool) -> str:
    """seen: Whether there are impressions, each of which counts as a list would."""
    if rule.source is MetricSource.CLICKS and seen:
        return "per item seen, "
    what = _COUNTED.get(rule.source) or f"per {rule.over}"
    return f"{what}, "


def _capped(rule: MetricRule, cap: float) -> str:
    limit = metric_value(rule, cap)
    return f"; values above {limit} count as {limit}"


def _known(text: str, missing: str) -> str:
    return missing if text == UNKNOWN else text


def _row(metric: MetricResult, axis: Scale, read: tuple[str, str], *, yet: str, seen: bool) -> MetricRow:
    rule = metric.rule
    always, alone = metric.relative_sequential_interval, metric.relative_interval
    tone, word = read
    margin = _margin(metric)
    return MetricRow(
        name=metric_title(rule.name),
        key=rule.name,
        role=_ROLES[rule.role],
        better=_counted(rule, seen=seen)
        + ("higher is better" if rule.sign > 0 else "lower is better")
        + ("" if metric.cap is None else _capped(rule, metric.cap.value)),
        baseline=_known(metric_value(rule, metric.baseline_value), f"no data{yet}"),
        value=_known(metric_value(rule, metric.value), f"no data{yet}"),
        change=_known(change(metric.relative_difference), f"no estimate{yet}"),
        tone=tone,
        reading=word,
        interval=_known(between(*always), f"none{yet}: too few events"),
        alone="" if math.isnan(alone[0]) else f"single look: {between(*alone)}",
        p_value="" if math.isnan(metric.p_value) else p_value(metric.p_value),
        margin=f"tolerates {change(margin)}" if math.isfinite(margin) else "",
        guard=_guard(metric.e_value),
        strip=strip(axis, metric.relative_difference, always, alone=alone, margin=margin, tone=tone),
    )
