"""The report for a terminal: verdict first, then why, then the tables, then the data."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from abfleet_experiments.config import time_text
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from abfleet_analysis.decision.evidence import DataQuality
from abfleet_analysis.decision.verdicts import GroupDecision, Verdict
from abfleet_analysis.report.report import ExperimentReport, Report

_WORDS: Final = {
    Verdict.SHIP: ("SHIP {group}", "bold green"),
    Verdict.ROLL_BACK: ("ROLL BACK {group}", "bold red"),
    Verdict.REFUSE: ("NO CONCLUSION: the data is broken", "bold red"),
    Verdict.CHECK_FIRST: ("CHECK FIRST, before {group} is shipped", "bold yellow"),
    Verdict.KEEP_RUNNING: ("KEEP RUNNING", "bold cyan"),
    Verdict.STOP_NO_EFFECT: ("STOP: no effect of the planned size", "bold"),
    Verdict.INCONCLUSIVE: ("INCONCLUSIVE", "bold yellow"),
}


def rendered(report: Report) -> RenderableType:
    """The report for a terminal: each experiment's verdict, reasons, tables and data quality."""
    parts: list[RenderableType] = []
    if report.as_of is None:
        readable = "no line that can be read" if report.log.lines else "no lines"
        parts.append(Text(f"The log has {readable}, so there is nothing to conclude from."))
    for experiment in report.experiments:
        parts += [*_experiment(experiment), Text()]
    if report.as_of is not None and not report.experiments:
        parts.append(Text("Neither the experiments file nor the log has an experiment."))
    log = report.log
    when = "" if report.as_of is None else f"as of {time_text(report.as_of)}; "
    parts.append(
        Text(f"{when}{log.lines:,} log lines, {log.unreadable:,} unreadable, {log.duplicates:,} repeated", style="dim")
    )
    return Group(*parts)


def _experiment(report: ExperimentReport) -> Iterator[RenderableType]:
    decision, evidence = report.decision, report.gathered.evidence
    words, style = _WORDS[decision.verdict]
    name = decision.group or "the treatment"
    yield Text.assemble((report.name, "bold"), ": ", (words.format(group=name), style))
    for reason in decision.reasons:
        yield Padding(Text(f"- {reason}"), (0, 0, 0, 2), expand=False)
    calendar = evidence.calendar
    planned = f" of {decision.users_planned:,.0f} planned" if decision.users_planned > 0 else ""
    left = f", {decision.days_left:.1f} days left" if decision.days_left > 0 else ""
    progress = f"{evidence.users[-1].sum():,.0f} users{planned}, {calendar.done} of {calendar.planned} looks{left}"
    yield Padding(Text(progress, style="dim"), (0, 0, 0, 2), expand=False)
    if len(decision.groups) > 1:
        for group in decision.groups:
            words, style = _WORDS[group.verdict]
            yield Padding(
                Text.assemble(
                    f"{group.group}: ", (words.format(group=group.group), style), *_why(report, group.reasons)
                ),
                (0, 0, 0, 2),
                expand=False,
            )
    for table in (_groups(report), *(_metrics(report, group) for group in decision.groups)):
        yield Padding(table, (0, 0, 0, 2), expand=False)
    for cut in cuts(decision.groups):
        yield Padding(Text(cut), (0, 0, 0, 2), expand=False)
    yield from _quality(report)


def _why(report: ExperimentReport, reasons: tuple[str, ...]) -> list[str]:
    return [f" - {'; '.join(reasons)}"] if reasons and reasons != report.decision.reasons else []


def _groups(report: ExperimentReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2))
    for column in ("group", "version", "users", "expected", "calls", "fallbacks", "errors"):
        table.add_column(column, justify="left" if column in ("group", "version") else "right", overflow="fold")
    expected = report.decision.sample_ratio.expected
    for facts, wanted in zip(report.gathered.facts, expected, strict=True):
        table.add_row(
            escape(facts.name),
            escape(facts.model_version or ""),
            f"{facts.users:,}",
            f"{wanted:,.0f}",
            f"{facts.exposures:,}",
            f"{facts.fallbacks:,}",
            f"{facts.errors:,}",
        )
    return table


def _metrics(report: ExperimentReport, group: GroupDecision) -> Table:
    """One treatment's metrics. Intervals may take two lines; whoever shows it in less room fits it first."""
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2))
    for column in ("metric", "role", report.gathered.evidence.groups[0], group.group, "change"):
        table.add_column(escape(column), justify="left" if column in ("metric", "role") else "right", no_wrap=True)
    for column in ("95 %, this look", "95 %, always"):
        table.add_column(column, justify="right", min_width=9)
    for metric in group.metrics:
        table.add_row(
            escape(metric.rule.name),
            metric.rule.role,
            value_text(metric.baseline_value),
            value_text(metric.value),
            percent_text(metric.relative_difference),
            interval_text(metric.relative_interval),
            interval_text(metric.relative_sequential_interval),
        )
    return table


def cuts(groups: Sequence[GroupDecision]) -> tuple[str, ...]:
    """A sentence for each winsorised metric that cuts values: where, and why."""
    found: dict[str, str] = {}
    for metric in (metric for group in groups for metric in group.metrics):
        rule, cap = metric.rule, metric.cap
        if rule.winsorise is None or cap is None:
            continue
        of = f"at the {rule.winsorise:g} quantile of all users"
        if cap.of_valued:
            of = f"at the {rule.winsorise:g} quantile of the users who have one, as that of all users is 0"
        why = ", by default, because the groups are uneven" if rule.by_default else ""
        found[rule.name] = f"{rule.name}: a user's value is cut at {value_text(cap.value)}, {of}{why}"
    return tuple(found.values())


def _quality(report: ExperimentReport) -> Iterator[RenderableType]:
    quality, ratio = report.gathered.evidence.quality, report.decision.sample_ratio
    yield Padding(
        Text(
            f"split: {'as expected' if ratio.ok else 'NOT as expected'} (p = {ratio.p_value:.3g}, "
            f"E = {ratio.e_value:.3g}); at this size a loss of a few percent of one group's lines cannot be seen"
        ),
        (0, 0, 0, 2),
        expand=False,
    )
    yield Padding(Text(f"left out: {left_out(quality)}"), (0, 0, 0, 2), expand=False)
    if quality.open_windows:
        yield Padding(
            Text(f"{quality.open_windows:,} users have been in for less than 7 days; their outcomes may still come"),
            (0, 0, 0, 2),
            expand=False,
        )


def verdict_words(verdict: Verdict, group: str) -> str:
    """The verdict as a heading that names the group, such as `SHIP canary`."""
    return _WORDS[verdict][0].format(group=group)


def left_out(quality: DataQuality) -> str:
    """What of the log was left out, and how often."""
    counts = {
        "synthetic calls": quality.synthetic,
        "overridden calls": quality.overrides,
        "calls without a user id": quality.no_user_id,
        "calls held out": quality.holdout,
        "users in two groups": quality.users_in_two_groups,
        "users moved by a ramp": quality.moved_by_ramp,
        "outcomes whose request is not in the log": quality.unjoined_outcomes,
        "repeated outcomes": quality.duplicate_outcomes,
        "clicks on items that were not in the list": quality.clicks_not_in_list,
        "outcomes in another currency": quality.other_currencies,
        "values that are no usable number": quality.unusable_values,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing"


def value_text(value: float) -> str:
    """A metric's value; - where it is not known."""
    return f"{value:.4g}" if math.isfinite(value) else "-"


def percent_text(value: float) -> str:
    """A change; - where it is not known."""
    return f"{value:+.1%}" if math.isfinite(value) else "-"


def interval_text(bounds: tuple[float, float]) -> str:
    """An interval of the relative difference; - where it is not known."""
    return "{:+.1%} to {:+.1%}".format(*bounds) if all(map(math.isfinite, bounds)) else "-"
