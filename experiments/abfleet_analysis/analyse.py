"""A log and an experiments file in, reports out. The one place that sees every part of the analysis."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from abfleet_experiments.config import (
    AnalysisPlan,
    Config,
    EndedExperiment,
    ExcludedWindow,
    Experiment,
    MetricsPlan,
)

from abfleet_analysis.decision.decide import conclude, decide
from abfleet_analysis.decision.excluded_time import NOTHING_EXCLUDED, ExcludedTime
from abfleet_analysis.decision.measurements import measure
from abfleet_analysis.decision.metrics import metric_rules, uneven
from abfleet_analysis.decision.preference import judge_preference
from abfleet_analysis.evidence.exclusion import calls_in
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence, gather_evidence
from abfleet_analysis.evidence.gather_preference import gather_preference, is_interleaved
from abfleet_analysis.evidence.log_lines import LogTables, read_lines
from abfleet_analysis.periods.allocation_periods import microseconds, moment
from abfleet_analysis.reading.clocks import with_right_clocks
from abfleet_analysis.reading.open_log import Log, open_log
from abfleet_analysis.reading.survey import survey_of
from abfleet_analysis.report.excluded import Excluded
from abfleet_analysis.report.recommended import VersionFacts
from abfleet_analysis.report.report import ExperimentReport, LogFacts, Report
from abfleet_analysis.report.run_state import State, ended_experiments, run_state
from abfleet_analysis.report.waiting import waiting, waiting_for_preference

Progress = Callable[[str], None]


def analyse(
    paths: Sequence[Path],
    config: Config,
    *,
    as_of: datetime | None = None,
    only: str | None = None,
    progress: Progress = lambda _: None,
    detailed: bool = False,
    known: Mapping[str, VersionFacts] | None = None,
    exclude: Sequence[ExcludedWindow] = (),
    memory_limit_bytes: int | None = None,
    threads: int | None = None,
) -> Report:
    """The report of every experiment in the file, and of those that only the log knows any more.

    as_of: Nothing after this is read; the newest line if None, so that a report is a function of its input.
    only: Name of the one experiment to report.
    detailed: Whether each report has its details; `known` are the registry's facts of each version, for these.
    exclude: Windows that every experiment leaves out beside its own, which they do not overlap.
    memory_limit_bytes, threads: As of `open_log`. Raises LogError, and KeyError if `only` is nowhere.
    """
    progress("reading the log")
    with open_log(paths, detailed=detailed, memory_limit_bytes=memory_limit_bytes, threads=threads) as log:
        return report_on(log, config, as_of=as_of, only=only, progress=progress, known=known, exclude=exclude)


def report_on(
    log: Log,
    config: Config,
    *,
    as_of: datetime | None = None,
    only: str | None = None,
    progress: Progress = lambda _: None,
    known: Mapping[str, VersionFacts] | None = None,
    exclude: Sequence[ExcludedWindow] = (),
) -> Report:
    """The same, of a log that is open, on whatever database; with details if it was opened for them."""
    log, clocks = with_right_clocks(log, until_newest=as_of is None)
    survey = survey_of(log)
    newest_us = survey.newest
    at = as_of if as_of is not None else moment(newest_us or 0)
    progress(f"reading {survey.count(lambda row: True):,} lines")
    lines = read_lines(log, microseconds(at), survey, clocks)
    dated = as_of is not None or newest_us is not None
    ended = ended_experiments(lines, config)
    reports = []
    for name, experiment in _experiments(lines, config, only):
        progress(f"analysing {name}")
        windows = sorted((*(experiment.exclude if experiment else ()), *exclude), key=lambda one: one.begin)
        facts = (known or {}) if log.detailed else None
        reports.append(_one(lines, name, experiment, config, at, windows=windows, ended=ended, known=facts))
    shown = tuple(one for one in ended if only in (None, one.experiment))
    return Report(at if dated else None, _facts(lines), tuple(reports), shown)


def _facts(lines: LogTables) -> LogFacts:
    survey = lines.survey
    return LogFacts(survey.lines + lines.clocks.lines, survey.unreadable, lines.duplicates + lines.duplicate_outcomes)


def _experiments(lines: LogTables, config: Config, only: str | None) -> list[tuple[str, Experiment | None]]:
    """Those of the file in its order, then those of the log by name."""
    known: dict[str, Experiment | None] = {experiment.name: experiment for experiment in config.experiments}
    for name in lines.calls.experiments:
        known.setdefault(name, None)
    if only is None:
        return list(known.items())
    return [(only, known[only])]


def _one(
    lines: LogTables,
    name: str,
    experiment: Experiment | None,
    config: Config,
    at: datetime,
    *,
    windows: Sequence[ExcludedWindow],
    ended: Sequence[EndedExperiment],
    known: Mapping[str, VersionFacts] | None,
) -> ExperimentReport:
    if is_interleaved(lines, name, experiment):
        return _interleaving(lines, name, experiment, at, windows=windows, ended=ended)
    plan = experiment.plan if experiment else AnalysisPlan()
    rules = metric_rules(
        experiment.metrics if experiment else MetricsPlan(),
        plan,
        config.metrics,
        config.money,
        uneven_groups=experiment is not None and uneven(experiment),
    )
    left_out = calls_in(lines, name, windows) if windows else ()
    excluded, everything = Excluded(left_out), None
    # Also one without a call: its time is no time in which nothing was wrong.
    within = _within(windows, lines.calls.allocated(name), at)
    if within:
        everything = gather_evidence(lines, name, experiment, rules, plan, at, config=config)[0].evidence
        excluded = replace(excluded, decision=decide(everything, plan))
    time = ExcludedTime.of(within)
    gathered, tables = gather_evidence(lines, name, experiment, rules, plan, at, config=config, excluded=time)
    if everything is not None:
        evidence = gathered.evidence
        users = int(everything.users[-1].sum() - evidence.users[-1].sum())
        excluded = replace(excluded, users=users)
        evidence = replace(evidence, quality=replace(evidence.quality, excluded=excluded.calls))
        gathered = replace(gathered, evidence=evidence)
    measurements = measure(gathered.evidence, plan)
    decision = conclude(measurements)
    shown = None
    if known is not None:
        from abfleet_analysis.report.assemble_details import details
        from abfleet_analysis.report.before_first_look import before_first_look

        def by_plan(other: AnalysisPlan) -> GatheredEvidence:
            return gather_evidence(lines, name, experiment, rules, other, at, config=config, excluded=time)[0]

        shown = details(
            lines,
            name,
            gathered,
            tables,
            measurements,
            known=known,
            before_first_look=lambda: before_first_look(gathered, plan, at, by_plan),
        )
    state = run_state(lines, name, experiment, ended, at)
    waits = waiting(gathered, decision, plan, running=state.state is State.RUNNING)
    return ExperimentReport(
        name,
        plan,
        gathered,
        decision,
        state,
        waits,
        shown,
        excluded if windows else None,
        owner=None if experiment is None else experiment.owner,
        hypothesis=None if experiment is None else experiment.hypothesis,
    )


def _within(
    windows: Sequence[ExcludedWindow], calls: Sequence[Mapping[str, Any]], at: datetime
) -> list[ExcludedWindow]:
    """The windows that overlap the time from the first of the calls to the report."""
    oldest = min((row["oldest"] for row in calls), default=None)
    return [one for one in windows if oldest is not None and one.begin <= at and microseconds(one.end) > oldest]


def _interleaving(
    lines: LogTables,
    name: str,
    experiment: Experiment | None,
    at: datetime,
    *,
    windows: Sequence[ExcludedWindow],
    ended: Sequence[EndedExperiment],
) -> ExperimentReport:
    """The report of an experiment that interleaves two versions."""
    plan = experiment.plan if experiment else AnalysisPlan()
    time = ExcludedTime.of(_within(windows, lines.calls.interleaved(name), at))
    gathered, found = gather_preference(lines, name, experiment, plan, at, excluded=time)
    excluded = Excluded(calls_in(lines, name, windows)) if windows else None
    if excluded is not None and time:
        _, everything = gather_preference(lines, name, experiment, plan, at, excluded=NOTHING_EXCLUDED)
        users = int(everything.users[-1] - found.users[-1])
        excluded = replace(excluded, users=users, decision=judge_preference(everything, plan, shown=False)[0])
        found = replace(found, quality=replace(found.quality, excluded=excluded.calls))
        gathered = replace(gathered, evidence=replace(gathered.evidence, quality=found.quality))
    decision, preference = judge_preference(found, plan)
    state = run_state(lines, name, experiment, ended, at)
    waits = waiting_for_preference(gathered, decision, running=state.state is State.RUNNING)
    return ExperimentReport(
        name,
        plan,
        gathered,
        decision,
        state,
        waits,
        excluded=excluded,
        owner=None if experiment is None else experiment.owner,
        hypothesis=None if experiment is None else experiment.hypothesis,
        preference=preference,
    )
