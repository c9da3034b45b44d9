"""All experiments in rows, and the notices above them."""

import math
from dataclasses import dataclass
from typing import Final

from abfleet_analysis.decision.verdicts import PRECEDENCE, MetricResult, Verdict
from abfleet_analysis.report.interleaving import share_interval
from abfleet_analysis.report.report import ExperimentReport, Report
from abfleet_analysis.report.run_state import RunState, State
from abfleet_experiments.config import Experiment
from markupsafe import Markup

from abfleet_dashboard.numbers import between, change, counted, day, duration, instant, share, spaced, whole
from abfleet_dashboard.pictures.history import NAMES, class_of, sign
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.views.data_words import health
from abfleet_dashboard.views.experiment_view import experiment_path
from abfleet_dashboard.views.filter_view import Filter
from abfleet_dashboard.views.metric_view import reading
from abfleet_dashboard.views.words import (
    UNDECIDED,
    acting,
    days_left,
    decided,
    has_users,
    metric_name,
    primary,
    short_state,
    with_version,
)

OLD_LOG_S: Final = 3600.0
"""A log without a new line for an hour is worth a sentence: traffic stopped, or lines go elsewhere."""
ALL: Final = Filter()
_LEADS: Final = (Verdict.SHIP, Verdict.CHECK_FIRST)


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence above everything else. `level`: bad, warning or note; `lines`: what it lists."""

    level: str
    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewRow:
    """One row of the table of experiments, as text."""

    name: str
    path: str
    owner: str
    state: str
    dates: str
    verdict: str
    verdict_class: str
    sign: Markup
    winner: str
    metric: str
    change: str
    tone: str
    interval: str
    users: str
    planned: str
    reached: float | None
    days_left: str
    health: str
    health_level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRow:
    """One experiment that has ended, as text. `path` is empty where the log knows nothing of it."""

    name: str
    path: str
    winner: str
    ended: str
    verdict: str
    verdict_class: str
    sign: Markup


def overview_rows(situation: Situation, chosen: Filter = ALL) -> tuple[OverviewRow, ...]:
    """Those with something to do first, then in the report's order; then those that no report knows yet."""
    reports = situation.report.current if situation.report else ()
    ordered = sorted(reports, key=lambda one: (not has_users(one), PRECEDENCE.index(one.decision.verdict)))
    known = {one.name for one in reports}
    waiting = [one for one in situation.config.experiments if one.name not in known] if situation.config else []
    return (
        *(overview_row(one) for one in ordered if chosen.has(one)),
        *(_waiting(one) for one in waiting if chosen.has_other("", one.owner)),
    )


def ended_rows(report: Report | None, chosen: Filter = ALL) -> tuple[EndedRow, ...]:
    """Experiments that have ended, the newest first."""
    ended = reversed(report.ended) if report else ()
    return tuple(
        _ended_row(*one)
        for one in ended
        if (chosen.has_other(str(State.ENDED)) if one[2] is None else chosen.has(one[2]))
    )


def _ended_row(name: str, state: RunState, report: ExperimentReport | None) -> EndedRow:
    verdict = None if report is None else report.decision.verdict
    return EndedRow(
        name=name,
        path=experiment_path(name) if report is not None else "",
        winner=state.winner or "none named",
        ended="not known" if state.since is None else instant(state.since),
        verdict="not in the log" if verdict is None else NAMES[verdict].partition(",")[0],
        verdict_class="verdict-none" if verdict is None else class_of(verdict),
        sign=Markup("") if verdict is None else sign(verdict),
    )


def overview_row(report: ExperimentReport) -> OverviewRow:
    """The row of an experiment that the report has."""
    decision, group = report.decision, decided(report)
    metric, data = acting(group) or primary(group), health(report)
    known = metric is not None and math.isfinite(metric.relative_difference)
    users = int(report.gathered.evidence.users[-1].sum())
    shown = _preferred(report)
    return OverviewRow(
        name=report.name,
        path=experiment_path(report.name),
        owner=report.owner or "",
        state=short_state(report),
        dates=_dates(report),
        verdict=NAMES[decision.verdict].partition(",")[0],  # what is wrong has a column of its own
        verdict_class=class_of(decision.verdict),
        sign=sign(decision.verdict),
        winner=_winner(report),
        metric=f"{metric_name(metric.rule.name)}, {metric.group}" if metric else shown[0],
        change=change(metric.relative_difference) if metric and known else shown[1] or "too little data",
        tone=reading(metric, believed=decision.verdict is not Verdict.REFUSE)[0] if metric else "open",
        interval=_interval(metric) if metric and known else shown[2],
        users=whole(users),
        planned=f"of {whole(decision.users_planned)}"
        if decision.users_planned > 0
        else ("plan not known yet" if report.preference is None else ""),
        reached=min(users / decision.users_planned, 1.0) if decision.users_planned > 0 else None,
        days_left=days_left(report),
        health=data.word,
        health_level=data.level,
    )


def _preferred(report: ExperimentReport) -> tuple[str, str, str]:
    """Of an interleaving what is shown in place of a metric, its change and its interval; else nothing."""
    result = report.preference
    if result is None or not math.isfinite(result.value):
        return "" if result is None else "preference", "", ""
    version = report.decision.version or result.leading
    return f"prefer {version}", share(result.of(version, result.value), 1), spaced(share_interval(result, version))


def _interval(metric: MetricResult) -> str:
    bounds = metric.relative_sequential_interval
    return between(*bounds) if all(map(math.isfinite, bounds)) else "too few events for an interval"


def _dates(report: ExperimentReport) -> str:
    """What comes next, for a narrow column."""
    waits = report.waiting
    if waits.earliest_ship is not None and report.decision.verdict is Verdict.KEEP_RUNNING:
        return f"earliest to ship: {day(waits.earliest_ship)}"
    return f"next look: {day(waits.next_look)}" if waits.next_look is not None else ""


def notices(situation: Situation) -> tuple[Notice, ...]:
    """The notices: what may make the page's numbers wrong or old."""
    found = [*_about_analysis(situation), *about_file(situation)]
    if situation.report is not None:
        found += _about_log(situation.report)
    report = situation.report
    if report is not None and report.as_of is not None:
        age = (situation.now - report.as_of).total_seconds()
        if age > OLD_LOG_S:
            found.append(
                Notice("note", f"The newest line of the log is {duration(age)} old ({instant(report.as_of)}).")
            )
    return tuple(found)


def about_file(situation: Situation) -> tuple[Notice, ...]:
    """Why the experiments file on disk is not the one that counts."""
    if not situation.config_errors:
        return ()
    return (
        Notice(
            "bad",
            "The experiments file has errors; these pages show its last valid version.",
            situation.config_errors,
        ),
    )


def about_log(report: Report) -> tuple[Notice, ...]:
    """What a report says of its log as a whole."""
    return tuple(_about_log(report))


def _about_analysis(situation: Situation) -> list[Notice]:
    age = None if situation.made_at is None else (situation.now - situation.made_at).total_seconds()
    if situation.report is None:
        if situation.analysis_error:
            return [Notice("bad", f"The log could not be analysed: {_ended(situation.analysis_error)}")]
        text = (
            "The log is being analysed for the first time."
            if situation.analysing
            else "The log has not been analysed yet."
        )
        return [Notice("note", text)]
    if situation.analysis_error:
        when = f" This report is {duration(age)} old." if age is not None else ""
        return [Notice("bad", f"The newest analysis failed: {_ended(situation.analysis_error)}{when}")]
    if age is not None and age > situation.stale_after_s:
        doing = "a newer one is being made" if situation.analysing else "no newer one has been made"
        return [Notice("warning", f"This report is {duration(age)} old; {doing}.")]
    return []


def _about_log(report: Report) -> list[Notice]:
    log = report.log
    if report.as_of is None:
        what = "has no line that can be read" if log.lines else "is empty"
        return [Notice("warning", f"The log {what}, so there is nothing to conclude from.")]
    if not report.experiments:
        return [Notice("note", "Neither the experiments file nor the log has an experiment.")]
    if log.unreadable:
        return [Notice("warning", f"{counted(log.unreadable, 'line')} of {log.lines:,} in the log cannot be read.")]
    return []


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _winner(report: ExperimentReport) -> str:
    group = report.decision.group
    if report.preference is not None:
        return report.decision.version or ("none" if report.decision.verdict in UNDECIDED else "not decided")
    if group is not None and report.decision.verdict in _LEADS:
        return with_version(report, group)
    if report.decision.verdict in (Verdict.ROLL_BACK, Verdict.STOP_NO_EFFECT):
        return f"{with_version(report, report.gathered.evidence.groups[0])} stays"
    if report.decision.verdict in UNDECIDED:
        return "none"
    return "unknown" if report.decision.verdict is Verdict.REFUSE else "not decided"


def _waiting(experiment: Experiment) -> OverviewRow:
    return OverviewRow(
        name=experiment.name,
        path=experiment_path(experiment.name),
        owner=experiment.owner or "",
        state="",
        dates="",
        verdict="Not analysed yet",
        verdict_class="verdict-none",
        sign=Markup(""),
        winner="not decided",
        metric="",
        change="no report yet",
        tone="open",
        interval="",
        users="no report yet",
        planned="",
        reached=None,
        days_left="no report yet",
        health="no report yet",
        health_level="note",
    )
