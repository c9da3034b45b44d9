"""How a conclusion came about, look by look."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from abfleet_statistics.effects import Comparison
from abfleet_statistics.lookwise import LookwiseTest
from abfleet_statistics.moments import Floats
from abfleet_statistics.score_test import pooled_error

from abfleet_analysis.decision.measurements import (
    Measurements,
    MetricMeasurement,
    Treatment,
    always_relative_interval,
    sequential_half_width,
)
from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.decision.planning import margin
from abfleet_analysis.report.details import MetricPath, MetricValues, Paths


def paths(measurements: Measurements, times: Sequence[datetime]) -> Paths:
    """The paths of every metric of every treatment; `times` are the evidence's."""
    evidence = measurements.evidence
    return Paths(
        times=tuple(times),
        users=evidence.users,
        ratio_p=measurements.ratio.p,
        ratio_log_e=measurements.ratio.log_e,
        metrics=tuple(
            _path(measurements, treatment, measured)
            for treatment in measurements.treatments
            for measured in treatment.metrics
        ),
        values=values(measurements),
    )


def values(measurements: Measurements) -> tuple[MetricValues, ...]:
    """Every metric's value in each group at each time; nan for groups that nobody was in.

    Control's is that beside the first treatment: strata in which a treatment has nobody are not compared with it.
    """
    evidence = measurements.evidence
    found = []
    for index, metric in enumerate(evidence.metrics):
        each = np.full(evidence.users.shape, np.nan)
        for treatment in reversed(measurements.treatments):
            comparison = treatment.metrics[index].comparison
            each[:, 0], each[:, treatment.group] = comparison.baseline, comparison.value
        found.append(MetricValues(metric.rule.name, each))
    return tuple(found)


def _path(measurements: Measurements, treatment: Treatment, measured: MetricMeasurement) -> MetricPath:
    rule, comparison = measured.rule, measured.comparison
    half = sequential_half_width(measurements.evidence, treatment, comparison)
    low, high = always_relative_interval(comparison, half)
    harm = treatment.losing if rule.role == "primary" else measured.harm
    live = treatment.paths.get(rule.name)
    return MetricPath(
        metric=rule.name,
        role=rule.role,
        direction=rule.direction,
        group=treatment.name,
        relative_difference=comparison.relative_difference,
        low=low,
        high=high,
        better_at=_better_at(measured),
        worse_at=_worse_at(measured, harm),
        log_e=np.full(len(half), np.nan) if live is None else live.log_e,
    )


def _better_at(measured: MetricMeasurement) -> Floats:
    """Where the test of shipping, or of being better than the margin, would have been passed: float64[times]."""
    comparison, rule = measured.comparison, measured.rule
    if measured.test is None:
        return np.full(len(comparison.value), np.nan)
    factor, points = (1.0, 0.0) if rule.role == "primary" else margin(rule, comparison)
    error = np.sqrt(comparison.variance + np.square(factor) * comparison.baseline_variance)
    if rule.source is MetricSource.TIME_QUANTILE:
        error = np.fmax(error, pooled_error(comparison, factor))
    worst = factor * comparison.baseline + points
    beyond = _crossing(rule, measured.test, error, comparison.value - worst, rule.sign)
    return _relative(worst - comparison.baseline + beyond, comparison)


def _worse_at(measured: MetricMeasurement, harm: LookwiseTest | None) -> Floats:
    comparison = measured.comparison
    error = comparison.standard_error
    if harm is None:
        return np.full(len(error), np.nan)
    if measured.rule.source is MetricSource.TIME_QUANTILE:
        error = np.fmax(error, pooled_error(comparison))
    sign = -measured.rule.sign
    return _relative(_crossing(measured.rule, harm, error, comparison.difference, sign), comparison)


def _crossing(rule: MetricRule, test: LookwiseTest, error: Floats, difference: Floats, sign: int) -> Floats:
    """How far from what is tolerated the value would have to be, for both of a test's z to reach the boundary."""
    boundary = _boundaries(test, len(error))
    plain = boundary * error
    if test.null is None or rule.source is MetricSource.TIME_QUANTILE:
        return sign * plain
    with np.errstate(divide="ignore", invalid="ignore"):
        # The score test's difference is in units of its own; what it is of the values' is taken as it is now.
        unit = np.where(test.null.difference != 0, difference / test.null.difference, 1.0)
        both = np.fmax(plain, sign * test.null.difference_at(boundary, sign) * unit)
    return np.where(np.isfinite(both) & test.counts, sign * both, np.nan)


def _boundaries(test: LookwiseTest, times: int) -> Floats:
    """The boundary at each time, at the report's moment that of the last look: float64[times]; nan before any."""
    looks = times - 1
    found = np.array([test.boundary(look) for look in range(looks)])
    found = np.append(found, found[-1:] if looks else np.nan)
    return np.where(np.isfinite(found), found, np.nan)


def _relative(difference: Floats, comparison: Comparison) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(comparison.baseline != 0, difference / np.abs(comparison.baseline), np.nan)
