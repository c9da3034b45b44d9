"""A conclusion as the JSON document that `abfleet analyze --json` prints."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from abfleet_experiments.config import AnalysisPlan, EndedExperiment, time_text
from abfleet_statistics.outages import NEAR_US, Outage

from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.preference import PreferenceResult
from abfleet_analysis.decision.verdicts import Decision, MetricResult
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence
from abfleet_analysis.report.details import Details
from abfleet_analysis.report.details_document import details_document
from abfleet_analysis.report.excluded import Excluded
from abfleet_analysis.report.interleaving import preference_document
from abfleet_analysis.report.run_state import RunState, State
from abfleet_analysis.report.waiting import WaitingReasons, missing_events, missing_outcomes


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Lines of the log up to the report's moment; `duplicates` are repeated exposures and outcomes."""

    lines: int
    unreadable: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """One experiment's conclusion with what it rests on; `details` where they were asked for.

    Attributes:
        run_state: Whether it runs, which is not the verdict: a halted experiment may have any.
        excluded: What windows leave out; None where there are none.
        owner, hypothesis: As the file has them; None where it does not.
        preference: What an interleaving shows; None of an experiment whose groups are compared.
    """

    name: str
    plan: AnalysisPlan
    gathered: GatheredEvidence
    decision: Decision
    run_state: RunState
    waiting: WaitingReasons
    details: Details | None = None
    excluded: Excluded | None = None
    owner: str | None = None
    hypothesis: str | None = None
    preference: PreferenceResult | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All experiments at one moment; `as_of` is None for a log without a single time.

    Attributes:
        concluded: Experiments that have ended with a winner, the oldest first, whether or not the log knows them.
    """

    as_of: datetime | None
    log: LogFacts
    experiments: tuple[ExperimentReport, ...]
    concluded: tuple[EndedExperiment, ...] = ()

    @property
    def current(self) -> tuple[ExperimentReport, ...]:
        """The experiments that run or are halted."""
        return tuple(one for one in self.experiments if one.run_state.state is not State.ENDED)

    @property
    def of_an_ended_one(self) -> bool:
        """Whether the only experiment of the report has ended: then it is shown whole."""
        return len(self.experiments) == len(self.ended) == 1 and not self.current

    @property
    def ended(self) -> tuple[tuple[str, RunState, ExperimentReport | None], ...]:
        """Those that have ended, with what the log says of them: those with a winner, then those that nobody named."""
        reports = {one.name: one for one in self.experiments}
        rows = [
            (one.experiment, RunState(State.ENDED, one.at, one.winner), reports.get(one.experiment))
            for one in self.concluded
        ]
        told = {name for name, _, _ in rows}
        others = [one for one in self.experiments if one.run_state.state is State.ENDED and one.name not in told]
        return (*rows, *((one.name, one.run_state, one) for one in others))

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
            "concluded": [
                {"name": one.experiment, "winner": one.winner, "at": time_text(one.at)} for one in self.concluded
            ],
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
        "owner": report.owner,
        "hypothesis": report.hypothesis,
        "state": str(report.run_state.state),
        "since": _time(report.run_state.since),
        "winner": report.run_state.winner,
        "plan": {
            "users_planned": _whole(decision.users_planned),
            "users": int(evidence.users[-1].sum()),
            "looks_done": evidence.calendar.done,
            "days_left": _number(decision.days_left),
            "next_look": _time(report.waiting.next_look),
            "minimum_until": _time(report.waiting.minimum_until)
            if report.gathered.allocations and report.preference is None
            else None,
            "earliest_ship": _time(report.waiting.earliest_ship),
            "horizon_ends": _time(report.waiting.horizon_ends) if report.gathered.allocations else None,
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
            "version": decision.version,
            "reasons": list(decision.reasons),
        },
        "waiting": list(report.waiting.sentences),
        "missing_outcomes": list(missing_outcomes(report.gathered)),
        "history": _history(report),
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
        "preference": None if report.preference is None else preference_document(report.preference, report.plan),
        "metrics": [_metric(metric, report.gathered) for group in decision.groups for metric in group.metrics],
        "outages": _outages(evidence),
        "data_quality": {
            "synthetic": quality.synthetic,
            "overrides": quality.overrides,
            "no_user_id": quality.no_user_id,
            "pinned": quality.pinned,
            "users_in_two_groups": quality.users_in_two_groups,
            "moved_by_ramp": quality.moved_by_ramp,
            "not_compared": quality.not_compared,
            "in_both_groups": quality.in_both_groups,
            "unjoined_outcomes": quality.unjoined_outcomes,
            "open_windows": quality.open_windows,
            "unusable_values": quality.unusable_values,
            "wrong_clock": quality.wrong_clock,
            "unknown_allocation": quality.unknown_allocation,
            "excluded": quality.excluded,
            "other_currencies": quality.other_currencies,
            "conflicting_outcomes": quality.conflicting_outcomes,
            "impressions_of_no_list": quality.impressions_of_no_list,
            "impression_coverage": None
            if evidence.impression_coverage is None
            else dict(zip(evidence.groups, map(_number, evidence.impression_coverage), strict=True)),
        },
        "excluded": None if report.excluded is None else _excluded(report.excluded),
    }


def _history(report: ExperimentReport) -> list[dict[str, object]]:
    """The verdict of each look; beside it, where windows leave something out, the one of everything known then."""
    whom = "group" if report.preference is None else "version"
    nobody: dict[str, object] = {"group": None, "version": None}
    history = [
        {"look": look, "verdict": str(verdict), **nobody, whom: about}
        for look, (verdict, about) in enumerate(report.decision.history, start=1)
    ]
    if report.excluded is not None and report.excluded.decision is not None:
        for one, (verdict, about) in zip(history, report.excluded.decision.history, strict=False):
            one["with_excluded"] = {"verdict": str(verdict), **nobody, whom: about}
    return history


def _excluded(excluded: Excluded) -> dict[str, object]:
    whole = excluded.decision
    return {
        "windows": [
            {
                "from": time_text(one.window.begin),
                "to": time_text(one.window.end),
                "why": one.window.why,
                "calls": one.calls,
                "users": one.users,
            }
            for one in excluded.windows
        ],
        "users": excluded.users,
        "decision": None
        if whole is None
        else {
            "verdict": str(whole.verdict),
            "group": whole.group,
            "version": whole.version,
            "reasons": list(whole.reasons),
        },
        "e_values": [
            {"group": one.group, "metric": one.rule.name, "e_value": one.e_value}
            for group in ([] if whole is None else whole.groups)
            for one in group.metrics
            if math.isfinite(one.e_value)
        ],
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
            "excluded": bool(evidence.outages[max(group, 1)].excluded.inside(np.array([one.begin]))[0]),
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
        "currency": gathered.currencies.get(metric.rule.name),
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
        "missing_events": _missing_events(metric, gathered.evidence.groups[0]),
        "users_factor": _number(metric.users_factor),
    }


def _missing_events(metric: MetricResult, control: str) -> dict[str, int] | None:
    short = missing_events(metric)
    return None if short is None else dict(zip((control, metric.group), short, strict=True))


def _time(at: datetime | None) -> str | None:
    return None if at is None else time_text(at)


def _number(value: float) -> float | None:
    """The number, or None for one that JSON has no word for."""
    return float(value) if math.isfinite(value) else None


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None
