"""A log and an experiments file in, reports out. The one place that sees every part of the analysis."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from abfleet_experiments.analysis.decide import decide
from abfleet_experiments.analysis.frames import Lines, newest, read_lines
from abfleet_experiments.analysis.gather import gather
from abfleet_experiments.analysis.metrics import metric_rules
from abfleet_experiments.analysis.periods import microseconds, moment
from abfleet_experiments.analysis.report import ExperimentReport, LogFacts, Report
from abfleet_experiments.config import AnalysisPlan, Config, Experiment, MetricsPlan
from abfleet_experiments.readlog import open_log

Progress = Callable[[str], None]


def analyse(
    paths: Sequence[Path],
    config: Config,
    *,
    as_of: datetime | None = None,
    only: str | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """The report of every experiment in the file, and of those that only the log knows any more.

    as_of: Nothing after this is looked at; the newest line if None, so that a report is a function of its input.
    only: Name of the one experiment to report. Raises LogError, and KeyError if `only` is nowhere.
    """
    progress("reading the log")
    with open_log(paths) as log:
        newest_us = newest(log)
        at = as_of if as_of is not None else moment(newest_us or 0)
        lines = read_lines(log, microseconds(at))
        reports = []
        for name, experiment in _experiments(lines, config, only):
            progress(f"analysing {name}")
            reports.append(_one(lines, name, experiment, config, at))
        dated = as_of is not None or newest_us is not None
        return Report(at if dated else None, _facts(lines), tuple(reports))


def _facts(lines: Lines) -> LogFacts:
    return LogFacts(lines.lines, lines.unreadable, lines.duplicates + lines.duplicate_outcomes)


def _experiments(lines: Lines, config: Config, only: str | None) -> list[tuple[str, Experiment | None]]:
    """Those of the file in its order, then those of the log by name."""
    known: dict[str, Experiment | None] = {experiment.name: experiment for experiment in config.experiments}
    table = lines.exposures
    logged = table.filter(table.experiment.notnull(), ~table.synthetic).select("experiment").distinct()
    for name in sorted(logged.to_pyarrow()["experiment"].to_pylist()):
        known.setdefault(name, None)
    if only is None:
        return list(known.items())
    return [(only, known[only])]


def _one(lines: Lines, name: str, experiment: Experiment | None, config: Config, at: datetime) -> ExperimentReport:
    plan = experiment.plan if experiment else AnalysisPlan()
    rules = metric_rules(experiment.metrics if experiment else MetricsPlan(), plan, config.metrics)
    gathered = gather(lines, name, experiment, rules, plan, at)
    return ExperimentReport(name, plan, gathered, decide(gathered.evidence, plan))
