"""The report as Markdown, for a pull request: verdict first, then the table, then the data. Computes nothing."""

import re
from collections.abc import Iterator, Sequence

from abfleet_experiments.config import time_text

from abfleet_analysis.decision.preference import PreferenceResult
from abfleet_analysis.report.excluded import excluded_sentences
from abfleet_analysis.report.interleaving import HEAD, preference_rows
from abfleet_analysis.report.render import (
    cuts,
    data_sentences,
    interval_text,
    log_line,
    missing,
    percent_text,
    progress,
    state_text,
    value_text,
    verdict_words,
    whom,
)
from abfleet_analysis.report.report import ExperimentReport, Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&@:])")
"""What Markdown, GitHub's mentions and links, or HTML would take for theirs."""
_LINE_ENDS = re.compile(r"\s+")


def markdown(report: Report) -> str:
    """The whole report; names from the file and the log are escaped."""
    lines: list[str] = []
    if report.as_of is None:
        lines.append("The log has no readable lines, so there is no conclusion.")
    for experiment in report.experiments if report.of_an_ended_one else report.current:
        lines += [*_experiment(experiment), ""]
    if report.ended and not report.of_an_ended_one:
        lines += [*_ended(report), ""]
    if report.as_of is not None and not report.experiments and not report.ended:
        lines.append("Neither the experiments file nor the log has an experiment.")
    lines.append(log_line(report))
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that shows as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", _LINE_ENDS.sub(" ", text))


def _experiment(report: ExperimentReport) -> Iterator[str]:
    decision = report.decision
    words = verdict_words(decision.verdict, whom(decision))
    yield f"## {escaped(report.name)}: {escaped(words)}"
    yield ""
    yield escaped(state_text(report.run_state))
    yield ""
    for reason in (*decision.reasons, *report.waiting.sentences, *missing(report)):
        yield f"- {escaped(reason)}"
    if report.excluded is not None:
        for sentence in excluded_sentences(report.excluded, decision, report.gathered):
            yield f"- {escaped(sentence)}"
    yield ""
    yield progress(report)
    yield ""
    yield from _metrics(report) if report.preference is None else _preference(report.preference)
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
            interval_text(metric.relative_sequential_interval),
            f"<sub>{interval_text(metric.relative_interval)}</sub>",
        ]
        for group in report.decision.groups
        for metric in group.metrics
    ]
    head = [
        "metric",
        "role",
        "group",
        "control",
        "value",
        "change",
        "95 %, at all looks",
        "<sub>at this look alone</sub>",
    ]
    yield from _table(head, rows, texts=3)


def _preference(result: PreferenceResult) -> Iterator[str]:
    yield from _table(HEAD, [list(map(escaped, row)) for row in preference_rows(result)], texts=1)


def _groups(report: ExperimentReport) -> Iterator[str]:
    decided = {group.group: verdict_words(group.verdict, group.group) for group in report.decision.groups}
    rows = [
        [
            escaped(facts.name),
            escaped(facts.model_version or ""),
            escaped(decided.get(facts.name, "")),
            f"{facts.users:,}",
            f"{facts.exposures:,}",
            f"{facts.fallbacks:,}",
            f"{facts.errors:,}",
        ]
        for facts in report.gathered.facts
    ]
    head = ["group", "version", "verdict", "users", "calls", "fallbacks", "errors"]
    yield from _table(head, rows, texts=3)


def _quality(report: ExperimentReport) -> Iterator[str]:
    for sentence in data_sentences(report):
        yield f"- {escaped(sentence)}"


def _ended(report: Report) -> Iterator[str]:
    yield "## Ended experiments"
    yield ""
    rows = [
        [
            escaped(name),
            escaped(state.winner or "unknown"),
            "" if state.since is None else time_text(state.since.replace(microsecond=0)),
            "" if its is None else escaped(verdict_words(its.decision.verdict, whom(its.decision))),
        ]
        for name, state, its in report.ended
    ]
    yield from _table(["experiment", "winner", "ended", "verdict of the log"], rows, texts=4)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> Iterator[str]:
    """A table whose first columns are texts, and the others numbers."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "|".join("---" if index < texts else "---:" for index in range(len(head))) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
