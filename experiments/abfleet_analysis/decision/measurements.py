"""What is measured of each treatment against control, at every time: tests, intervals and e-values.

Verdicts and what is shown beside them rest on the same values, each computed once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from abfleet_experiments.config import AnalysisPlan
from abfleet_statistics.confidence_sequence import enough, half_width
from abfleet_statistics.effects import Comparison, compare, contrast_z
from abfleet_statistics.lookwise import LookwiseTest
from abfleet_statistics.moments import Floats
from abfleet_statistics.score_test import NullMoments, nearer_to_0, null_moments, pooled_z
from abfleet_statistics.sequential import quantile, two_sided_p
from abfleet_statistics.shared_alpha import shared_alpha

from abfleet_analysis.decision.evidence import Cap, Evidence, MetricEvidence
from abfleet_analysis.decision.faults import SampleRatioPath, sample_ratio_path
from abfleet_analysis.decision.guardrail_paths import GuardrailPath, excess_users, guardrail_path
from abfleet_analysis.decision.metrics import BadEvent, MetricRule, MetricSource
from abfleet_analysis.decision.planning import GUARDRAIL_ALPHA, margin, planned_users
from abfleet_analysis.decision.verdicts import MetricResult

ALPHA: Final = 0.025
"""One-sided, for the primary metric; divided among the treatments that are there, for shipping and for harm alike."""
HARM_ALPHA: Final = 0.01
"""One-sided, for any metric to be worse; then nothing is shipped."""


@dataclass(frozen=True, slots=True)
class MetricMeasurement:
    """One metric of one treatment, at each time.

    Attributes:
        null: The difference under the hypothesis that there is none.
        test: The primary metric's for shipping, a guardrail's for being better than its margin; None for others.
        harm: Of being worse; None where that says nothing.
        cap: What users' values are cut at.
    """

    rule: MetricRule
    comparison: Comparison
    null: NullMoments
    test: LookwiseTest | None
    harm: LookwiseTest | None
    cap: Cap | None


@dataclass(frozen=True, slots=True)
class Treatment:
    """One treatment.

    Attributes:
        group: Its index among the evidence's groups.
        since: The first time at which it is there; what comes later changes nothing of the looks before.
        alpha: float64[times], one-sided, its part for the primary metric.
        losing: The primary metric's test for harm, by which a treatment is rolled back.
        paths: By guardrail that watches live traffic, what speaks against the treatment.
        planned: float64[times], users that the experiment needs for it.
    """

    group: int
    name: str
    since: int
    alpha: Floats
    metrics: tuple[MetricMeasurement, ...]
    primary: MetricMeasurement
    guardrails: tuple[MetricMeasurement, ...]
    losing: LookwiseTest
    paths: Mapping[str, GuardrailPath]
    planned: Floats


@dataclass(frozen=True, slots=True)
class Measurements:
    """All that is measured of an experiment; `ratio` is the test of the groups' sizes."""

    evidence: Evidence
    plan: AnalysisPlan
    ratio: SampleRatioPath
    treatments: tuple[Treatment, ...]


def measure(evidence: Evidence, plan: AnalysisPlan) -> Measurements:
    """The measurements of every treatment. Boundaries are computed when they are asked for."""
    # A group that was ramped down to nothing is still judged by the users it had.
    present = evidence.present
    groups = [index for index in range(1, len(evidence.groups)) if present[-1, index]]
    fractions = _fractions(evidence)
    alphas = shared_alpha(ALPHA, fractions, [int(present[:, group].argmax()) for group in groups])
    treatments = tuple(
        _treatment(evidence, plan, group, since=int(present[:, group].argmax()), alpha=alpha)
        for group, alpha in zip(groups, alphas.T, strict=True)
    )
    return Measurements(evidence, plan, sample_ratio_path(evidence), treatments)


def _fractions(evidence: Evidence) -> tuple[float, ...]:
    """Of the calendar, at each look."""
    return tuple(look / evidence.calendar.planned for look in range(1, evidence.calendar.done + 1))


def _treatment(evidence: Evidence, plan: AnalysisPlan, group: int, *, since: int, alpha: Floats) -> Treatment:
    calendar, fractions = evidence.calendar, _fractions(evidence)
    of_looks = tuple(alpha[:-1].tolist())
    metrics = tuple(
        _measured(metric, evidence.membership, group, alpha=of_looks, fractions=fractions)
        for metric in evidence.metrics
    )
    primary = next(m for m in metrics if m.rule.role == "primary")
    held = tuple(m for m in metrics if m.rule.role == "guardrail")
    return Treatment(
        group=group,
        name=evidence.groups[group],
        since=since,
        alpha=alpha,
        metrics=metrics,
        primary=primary,
        guardrails=held,
        losing=LookwiseTest(
            of_looks,
            fractions,
            primary.comparison,
            _z(primary.rule, primary.comparison, primary.null, -primary.rule.sign),
            null=primary.null,
        ),
        paths={
            rule.name: guardrail_path(
                evidence.bad_events[rule.name],
                group,
                calendar.done,
                evidence.outages.get(group) if rule.bad_event is BadEvent.ERROR else None,
                excess_users(evidence, group),
            )
            for rule in (m.rule for m in metrics)
            if rule.name in evidence.bad_events
        },
        planned=planned_users(evidence, plan, alpha, primary.comparison, [(m.rule, m.comparison) for m in held]),
    )


def _measured(
    metric: MetricEvidence, membership: Floats, group: int, *, alpha: tuple[float, ...], fractions: tuple[float, ...]
) -> MetricMeasurement:
    rule = metric.rule
    comparison = compare(
        metric.moments,
        membership,
        group,
        estimator=rule.estimator,
        quantile=metric.quantile,
        negative=metric.negative,
    )
    null = _null(metric, membership, group)
    test = None
    if rule.role == "primary":
        test = LookwiseTest(alpha, fractions, comparison, _z(rule, comparison, null, rule.sign), null=null)
    elif rule.role == "guardrail":
        z, of_margin = _margin_z(metric, comparison, membership, group)
        test = LookwiseTest(GUARDRAIL_ALPHA, fractions, comparison, z, null=of_margin)
    descriptive = rule.source is MetricSource.FALLBACKS  # control cannot fall back
    worse = _z(rule, comparison, null, -rule.sign)
    harm = None if descriptive else LookwiseTest(HARM_ALPHA, fractions, comparison, worse, null=null)
    return MetricMeasurement(rule, comparison, null, test, harm, metric.cap)


def _null(metric: MetricEvidence, membership: Floats, group: int, **margin: Floats) -> NullMoments:
    rule = metric.rule
    return null_moments(metric.moments, membership, group, estimator=rule.estimator, binary=rule.binary, **margin)


def _z(rule: MetricRule, comparison: Comparison, null: NullMoments, sign: int) -> Floats:
    """z of a treatment's value being above (1) or below (-1) control's."""
    if rule.source is MetricSource.TIME_QUANTILE:
        # A quantile's own z, which the share of calls above it lets count; its sign is that of the values.
        return pooled_z(comparison, sign=sign)
    return nearer_to_0(null.z(sign), contrast_z(comparison, sign=sign))


def _margin_z(
    metric: MetricEvidence, comparison: Comparison, membership: Floats, group: int
) -> tuple[Floats, NullMoments]:
    """z of a guardrail being better than its margin, and what it is measured by."""
    rule = metric.rule
    factor, points = margin(rule, comparison)
    if rule.source is MetricSource.TIME_QUANTILE:
        return pooled_z(comparison, factor, points, sign=rule.sign), _null(metric, membership, group)
    plain = contrast_z(comparison, factor, points, sign=rule.sign)
    null = _null(metric, membership, group, factor=factor, points=points)
    return nearer_to_0(null.z(rule.sign), plain), null


def sequential_half_width(evidence: Evidence, treatment: Treatment, comparison: Comparison) -> Floats:
    """Half the always-valid interval: float64[times]; nan before the normal limit can be trusted.

    Each time has the planned users of that time, as its own report had.
    """
    users = comparison.users + comparison.baseline_users
    everyone = evidence.users.sum(axis=1)
    part = np.divide(users, everyone, out=np.full(len(users), np.nan), where=everyone > 0)
    width = half_width(comparison.standard_error, users, treatment.planned * part)
    return np.where(enough(comparison.nonzero, comparison.baseline_nonzero), width, np.nan)


def always_relative_interval(comparison: Comparison, half: Floats) -> tuple[Floats, Floats]:
    """The ends of the always-valid interval relative to control: float64[times] each. half: Half of it, absolute."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return comparison.relative_interval(half / comparison.standard_error)


def always_valid_now(evidence: Evidence, treatment: Treatment) -> tuple[float, float]:
    """The ends of the primary metric's always-valid interval relative to control, at the moment of the report."""
    comparison = treatment.primary.comparison
    low, high = always_relative_interval(comparison, sequential_half_width(evidence, treatment, comparison))
    return float(low[-1]), float(high[-1])


def always_excludes_zero(evidence: Evidence, treatment: Treatment) -> Floats:
    """Whether the primary metric's always-valid interval leaves out 0: float64[times], 0 or 1."""
    comparison = treatment.primary.comparison
    with np.errstate(invalid="ignore"):
        width = sequential_half_width(evidence, treatment, comparison)
        return np.asarray(np.abs(comparison.difference) > width, np.float64)


def result(evidence: Evidence, treatment: Treatment, measured: MetricMeasurement) -> MetricResult:
    """A metric at the moment of the report."""
    comparison, rule = measured.comparison, measured.rule
    looks = evidence.calendar.done
    difference, error = float(comparison.difference[-1]), float(comparison.standard_error[-1])
    z = float(measured.test.z[-1] if measured.test is not None else _z(rule, comparison, measured.null, rule.sign)[-1])
    shown = measured.test or measured.harm
    boundary = shown.boundary(looks - 1) if shown is not None and looks else math.nan
    plain = float(contrast_z(comparison)[-1])
    # A group whose values are all alike, such as one without an event, has no variance that an interval could be of.
    varies = min(comparison.variance[-1], comparison.baseline_variance[-1]) > 0
    once = quantile(0.975) if varies else math.nan
    half = error * once
    wide = sequential_half_width(evidence, treatment, comparison)
    relative, always = comparison.relative_interval(once), always_relative_interval(comparison, wide)
    path = treatment.paths.get(rule.name)
    _, points = margin(rule, comparison)
    baseline = float(comparison.baseline[-1])
    offset = abs(float(points[-1]))
    return MetricResult(
        rule=rule,
        group=treatment.name,
        users=float(comparison.users[-1]),
        baseline_users=float(comparison.baseline_users[-1]),
        value=float(comparison.value[-1]),
        baseline_value=baseline,
        difference=difference,
        relative_difference=float(comparison.relative_difference[-1]),
        standard_error=error,
        interval=(difference - half, difference + half),
        p_value=float(two_sided_p(plain)) if varies else math.nan,
        margin=rule.margin if not offset else offset / abs(baseline) if baseline else math.nan,
        z=z,
        boundary=boundary,
        e_value=math.nan if path is None else float(np.exp(min(path.log_e[-1], 700.0))),
        sequential_interval=(difference - float(wide[-1]), difference + float(wide[-1])),
        relative_interval=(float(relative[0][-1]), float(relative[1][-1])),
        relative_sequential_interval=(float(always[0][-1]), float(always[1][-1])),
        events=float(comparison.nonzero[-1]),
        baseline_events=float(comparison.baseline_nonzero[-1]),
        counts=bool(measured.null.counts[-1] if measured.test is None else measured.test.counts[-1]),
        skewness=float(measured.null.skewness[-1]),
        cap=measured.cap,
    )
