"""A conclusion as the JSON document that `abfleet analyze --json` prints."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from abfleet_experiments.config import AnalysisPlan, time_text
from abfleet_statistics.outages import NEAR_US, Outage

from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.verdicts import Decision, MetricResult
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence
from abfleet_analysis.report.details import Details
from abfleet_analysis.report.details_document import details_document


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Lines of the log up to the report's moment; `duplicates` are repeated exposures and outcomes."""

    lines: int
    unreadable: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """One experiment's conclusion with what it rests on; `details` where they were asked for."""

    name: str
    plan: AnalysisPlan
    gathered: GatheredEvidence
    decision: Decision
    details: Details | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All experiments at one moment; `as_of` is None for a log without a single time."""

    as_of: datetime | None
    log: LogFacts
    experiments: tuple[ExperimentReport, ...]

    def as_dict(self, *, detailed: bool = False) -> dict[str, object]:
        """The document, in JSON values; a number that is not known is None.

        detailed: Whether an experiment that has details has them under the key `details`.
        """
        return {
            "as_of": None if self.as_of is None else time_text(self.as_of),
            "log": {
                "lines": self.log.lines,
                "unreadable": self.log.unreadable,
                "duplicates": self.log.duplicates,
            },
            "experiments": [_with_details(report) if detailed else _experiment(report) for report in self.experiments],
        }


def _with_details(report: ExperimentReport) -> dict[str, object]:
    document = _experiment(report)
    return document if report.details is None else document | {"details": details_document(report.details)}


def _experiment(report: ExperimentReport) -> dict[str, object]:
    evidence, decision = report.gathered.evidence, report.decision
    quality, ratio = evidence.quality, decision.sample_ratio
    decided = {group.group: str(group.verdict) for group in decision.groups}
    return {
        "name": report.name,
        "plan": {
            "users_planned": _whole(decision.users_planned),
            "users": int(evidence.users[-1].sum()),
            "looks_done": evidence.calendar.done,
            "days_left": _number(decision.days_left),
        },
        "allocations": [
            {
                "allocation": found.id,
                "begin": time_text(found.begin),
                "weights": dict(zip(evidence.groups, found.weights.tolist(), strict=True)),
            }
            for found in report.gathered.allocations
        ],
        "decision": {
            "verdict": str(decision.verdict),
            "group": decision.group,
            "reasons": list(decision.reasons),
        },
        "history": [
            {"look": look, "verdict": str(verdict), "group": group}
            for look, (verdict, group) in enumerate(decision.history, start=1)
        ],
        "groups": [
            {
                "name": facts.name,
                "model_version": facts.model_version,
                "decision": decided.get(facts.name),
                "users": facts.users,
                "exposures": facts.exposures,
                "fallbacks": facts.fallbacks,
                "errors": facts.errors,
            }
            for facts in report.gathered.facts
        ],
        "srm": {
            "ok": ratio.ok,
            "p_value": _number(ratio.p_value),
            "e_value": _number(ratio.e_value),
            "observed": dict(zip(evidence.groups, map(_whole, ratio.observed), strict=True)),
            "expected": dict(zip(evidence.groups, map(_number, ratio.expected), strict=True)),
        },
        "metrics": [_metric(metric, report.gathered) for group in decision.groups for metric in group.metrics],
        "outages": _outages(evidence),
        "data_quality": {
            "synthetic": quality.synthetic,
            "overrides": quality.overrides,
            "no_user_id": quality.no_user_id,
            "users_in_two_groups": quality.users_in_two_groups,
            "moved_by_ramp": quality.moved_by_ramp,
            "unjoined_outcomes": quality.unjoined_outcomes,
            "open_windows": quality.open_windows,
            "unusable_values": quality.unusable_values,
        },
    }


def _outages(evidence: Evidence) -> list[dict[str, object]]:
    """Every outage of every group, with the treatments that share one of its counted moments."""
    found: dict[int, tuple[Outage, ...]] = {}
    shared: dict[int, dict[int, list[str]]] = {0: {}}
    for group, pair in evidence.outages.items():
        found[group], found[0] = pair.outages
        for at, mine in zip(pair.known_us[pair.shared].tolist(), pair.of_treatment[pair.shared].tolist(), strict=True):
            owner, other = (group, 0) if mine else (0, group)
            shared.setdefault(owner, {}).setdefault(at - NEAR_US, []).append(evidence.groups[other])
    return [
        {
            "group": evidence.groups[group],
            "begin": time_text(_moment(one.begin)),
            "end": time_text(_moment(one.end)),
            "calls": one.calls,
            "counted": len(one.counted),
            "shared_with": sorted({name for at in one.counted for name in shared.get(group, {}).get(at, [])}),
        }
        for group in sorted(found)
        for one in found[group]
    ]


def _moment(at_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)


def _metric(metric: MetricResult, gathered: GatheredEvidence) -> dict[str, object]:
    return {
        "name": metric.rule.name,
        "role": metric.rule.role,
        "direction": metric.rule.direction,
        "group": metric.group,
        "baseline": gathered.evidence.groups[0],
        "users": _whole(metric.users),
        "baseline_users": _whole(metric.baseline_users),
        "value": _number(metric.value),
        "baseline_value": _number(metric.baseline_value),
        "difference": _number(metric.difference),
        "relative_difference": _number(metric.relative_difference),
        "se": _number(metric.standard_error),
        "interval": [_number(bound) for bound in metric.interval],
        "p_value": _number(metric.p_value),
        "margin": _number(metric.margin),
        "z": _number(metric.z),
        "boundary": _number(metric.boundary),
        "e_value": _number(metric.e_value),
        "sequential_interval": [_number(bound) for bound in metric.sequential_interval],
        "relative_interval": [_number(bound) for bound in metric.relative_interval],
        "relative_sequential_interval": [_number(bound) for bound in metric.relative_sequential_interval],
        "counts": metric.counts,
        "skewness": _number(metric.skewness),
        "cap": None if metric.cap is None else metric.cap.value,
        "cap_of": None if metric.cap is None else "users with a value" if metric.cap.of_valued else "users",
        "users_factor": _number(metric.users_factor),
    }


def _number(value: float) -> float | None:
    """The number, or None for one that JSON has no word for."""
    return float(value) if math.isfinite(value) else None


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None
