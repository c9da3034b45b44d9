"""The report as Markdown, for a pull request: verdict first, then the table, then the data. Computes nothing."""

import math
import re
from collections.abc import Iterator, Sequence

from abfleet_experiments.config import time_text

from abfleet_analysis.report.render import cuts, interval_text, left_out, percent_text, value_text, verdict_words
from abfleet_analysis.report.report import ExperimentReport, Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&@:])")
"""What Markdown, GitHub's mentions and links, or HTML would take for theirs."""
_LINE_ENDS = re.compile(r"\s+")


def markdown(report: Report) -> str:
    """The whole report; names from the file and the log are escaped."""
    lines: list[str] = []
    if report.as_of is None:
        lines.append("The log has nothing that can be read, so there is nothing to conclude from.")
    for experiment in report.experiments:
        lines += [*_experiment(experiment), ""]
    if report.as_of is not None and not report.experiments:
        lines.append("Neither the experiments file nor the log has an experiment.")
    log = report.log
    when = "" if report.as_of is None else f"as of {time_text(report.as_of)}; "
    lines.append(f"{when}{log.lines:,} log lines, {log.unreadable:,} unreadable, {log.duplicates:,} repeated")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that shows as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", _LINE_ENDS.sub(" ", text))


def _experiment(report: ExperimentReport) -> Iterator[str]:
    decision, evidence = report.decision, report.gathered.evidence
    words = verdict_words(decision.verdict, decision.group or "the treatment")
    yield f"## {escaped(report.name)}: {escaped(words)}"
    yield ""
    for reason in decision.reasons:
        yield f"- {escaped(reason)}"
    yield ""
    calendar = evidence.calendar
    planned = f" of {decision.users_planned:,.0f} planned" if decision.users_planned > 0 else ""
    left = f", {decision.days_left:.1f} days left" if decision.days_left > 0 else ""
    yield f"{evidence.users[-1].sum():,.0f} users{planned}, {calendar.done} of {calendar.planned} looks{left}"
    yield ""
    yield from _metrics(report)
    yield ""
    for cut in cuts(decision.groups):
        yield escaped(cut)
        yield ""
    yield from _groups(report)
    yield ""
    yield from _quality(report)


def _metrics(report: ExperimentReport) -> Iterator[str]:
    rows = [
        [
            escaped(metric.rule.name),
            metric.rule.role,
            escaped(metric.group),
            value_text(metric.baseline_value),
            value_text(metric.value),
            percent_text(metric.relative_difference),
            interval_text(metric.relative_interval),
            interval_text(metric.relative_sequential_interval),
        ]
        for group in report.decision.groups
        for metric in group.metrics
    ]
    head = ["metric", "role", "group", "control", "value", "change", "95 %, this look alone", "95 %, at all looks"]
    yield from _table(head, rows, texts=3)


def _groups(report: ExperimentReport) -> Iterator[str]:
    decided = {group.group: verdict_words(group.verdict, group.group) for group in report.decision.groups}
    expected = report.decision.sample_ratio.expected
    rows = [
        [
            escaped(facts.name),
            escaped(facts.model_version or ""),
            escaped(decided.get(facts.name, "")),
            f"{facts.users:,}",
            f"{wanted:,.0f}",
            f"{facts.exposures:,}",
            f"{facts.fallbacks:,}",
            f"{facts.errors:,}",
        ]
        for facts, wanted in zip(report.gathered.facts, expected, strict=True)
    ]
    head = ["group", "version", "verdict", "users", "expected", "calls", "fallbacks", "errors"]
    yield from _table(head, rows, texts=3)


def _quality(report: ExperimentReport) -> Iterator[str]:
    quality, ratio = report.gathered.evidence.quality, report.decision.sample_ratio
    known = f" (p = {ratio.p_value:.3g}, E = {ratio.e_value:.3g})" if math.isfinite(ratio.p_value) else ""
    yield f"- split: {'as expected' if ratio.ok else '**not** as expected'}{known}"
    yield f"- left out: {left_out(quality)}"
    if quality.open_windows:
        yield f"- {quality.open_windows:,} users have been in for less than 7 days; their outcomes may still come"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> Iterator[str]:
    """A table whose first columns are texts, and the others numbers."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "|".join("---" if index < texts else "---:" for index in range(len(head))) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
