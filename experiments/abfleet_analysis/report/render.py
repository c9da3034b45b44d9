"""The report for a terminal: verdict first, then why, then the tables, then the data."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from abfleet_experiments.config import time_text
from abfleet_process.counting import counted
from abfleet_statistics import guardrails
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from abfleet_analysis.decision.evidence import DataQuality
from abfleet_analysis.decision.preference import PreferenceResult
from abfleet_analysis.decision.verdicts import Decision, GroupDecision, MetricResult, Verdict
from abfleet_analysis.periods.allocation_periods import DAY
from abfleet_analysis.report.excluded import excluded_sentences
from abfleet_analysis.report.interleaving import HEAD, preference_rows, preference_sentences
from abfleet_analysis.report.report import ExperimentReport, Report
from abfleet_analysis.report.run_state import RunState, State
from abfleet_analysis.report.waiting import days_text, missing_outcomes_sentence

_WORDS: Final = {
    Verdict.SHIP: ("SHIP {group}", "bold green"),
    Verdict.ROLL_BACK: ("ROLL BACK {group}", "bold red"),
    Verdict.REFUSE: ("NO CONCLUSION: the data is broken", "bold red"),
    Verdict.CHECK_FIRST: ("CHECK FIRST, before {group} is shipped", "bold yellow"),
    Verdict.PREFER: ("PREFER {group}", "bold green"),
    Verdict.KEEP_RUNNING: ("KEEP RUNNING", "bold cyan"),
    Verdict.STOP_NO_EFFECT: ("STOP: no effect of the planned size", "bold"),
    Verdict.INCONCLUSIVE: ("INCONCLUSIVE", "bold yellow"),
    Verdict.NO_PREFERENCE: ("NO PREFERENCE", "bold yellow"),
}


_TONES: Final = {"good": "green", "bad": "red", "open": ""}


def rendered(report: Report) -> RenderableType:
    """The report for a terminal: each experiment's verdict, reasons, tables and data quality."""
    parts: list[RenderableType] = []
    if report.as_of is None:
        readable = "no readable lines" if report.log.lines else "no lines"
        parts.append(Text(f"The log has {readable}, so there is no conclusion."))
    for experiment in report.experiments if report.of_an_ended_one else report.current:
        parts += [*_experiment(experiment), Text()]
    if report.ended and not report.of_an_ended_one:
        parts += [*_ended(report), Text()]
    if report.as_of is not None and not report.experiments and not report.ended:
        parts.append(Text("Neither the experiments file nor the log has an experiment."))
    parts.append(Text(log_line(report), style="dim"))
    return Group(*parts)


def log_line(report: Report) -> str:
    """What was read of the log, and up to when."""
    log, when = report.log, "" if report.as_of is None else f"as of {time_text(report.as_of)}; "
    return f"{when}{counted(log.lines, 'log line')}, {log.unreadable:,} unreadable, {log.duplicates:,} repeated"


def _experiment(report: ExperimentReport) -> Iterator[RenderableType]:
    decision = report.decision
    words, style = _WORDS[decision.verdict]
    name = whom(decision)
    state = (f"  {state_text(report.run_state)}", "dim")
    yield Text.assemble((report.name, "bold"), ": ", (words.format(group=name), style), state)
    for reason in (*decision.reasons, *report.waiting.sentences, *missing(report)):
        yield Padding(Text(f"- {reason}"), (0, 0, 0, 2), expand=False)
    if report.excluded is not None:
        for sentence in excluded_sentences(report.excluded, decision, report.gathered):
            yield Padding(Text(f"- {sentence}", style="yellow"), (0, 0, 0, 2), expand=False)
    yield Padding(Text(progress(report), style="dim"), (0, 0, 0, 2), expand=False)
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
    if report.preference is not None:
        yield Padding(_preference(report.preference), (0, 0, 0, 2), expand=False)
    for table in (_groups(report), *(_metrics(report, group) for group in decision.groups)):
        yield Padding(table, (0, 0, 0, 2), expand=False)
    for cut in cuts(decision.groups):
        yield Padding(Text(cut), (0, 0, 0, 2), expand=False)
    yield from _quality(report)


def whom(decision: Decision) -> str:
    """Whom a verdict is about, in its heading."""
    return decision.version or decision.group or "the treatment"


def _preference(result: PreferenceResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2))
    for column in HEAD:
        table.add_column(column, justify="left" if column == HEAD[0] else "right", overflow="fold")
    for row in preference_rows(result):
        table.add_row(*map(escape, row))
    return table


def _why(report: ExperimentReport, reasons: tuple[str, ...]) -> list[str]:
    return [f" - {'; '.join(reasons)}"] if reasons and reasons != report.decision.reasons else []


def _groups(report: ExperimentReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2))
    for column in ("group", "version", "users", "calls", "fallbacks", "errors"):
        table.add_column(column, justify="left" if column in ("group", "version") else "right", overflow="fold")
    for facts in report.gathered.facts:
        table.add_row(
            escape(facts.name),
            escape(facts.model_version or ""),
            f"{facts.users:,}",
            f"{facts.exposures:,}",
            f"{facts.fallbacks:,}",
            f"{facts.errors:,}",
        )
    return table


def _metrics(report: ExperimentReport, group: GroupDecision) -> Table:
    """One treatment's metrics, the interval that holds at every look in front.

    Intervals may take two lines; whoever shows it in less room fits it first.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2))
    for column in ("metric", "role", report.gathered.evidence.groups[0], group.group, "change"):
        table.add_column(escape(column), justify="left" if column in ("metric", "role") else "right", no_wrap=True)
    table.add_column("95 %, always", justify="right", min_width=9)
    table.add_column("this look alone", justify="right", min_width=9, style="dim", header_style="dim")
    believed = report.decision.verdict is not Verdict.REFUSE
    for metric in group.metrics:
        table.add_row(
            escape(metric.rule.name),
            metric.rule.role,
            value_text(metric.baseline_value),
            value_text(metric.value),
            Text(percent_text(metric.relative_difference), style=_TONES[side(metric, believed=believed)]),
            Text(interval_text(metric.relative_sequential_interval), style=_TONES[side(metric, believed=believed)]),
            interval_text(metric.relative_interval),
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
            of = f"at the {rule.winsorise:g} quantile of the users with a value, because that of all users is 0"
        why = " (the default for uneven groups)" if rule.by_default else ""
        found[rule.name] = f"{rule.name}: values of users are cut at {value_text(cap.value)}, {of}{why}"
    return tuple(found.values())


def _quality(report: ExperimentReport) -> Iterator[RenderableType]:
    for sentence in data_sentences(report):
        yield Padding(Text(sentence), (0, 0, 0, 2), expand=False)


def _ended(report: Report) -> Iterator[RenderableType]:
    """Those that have ended, a line each with what the log says of them."""
    yield Text("Ended experiments", style="bold")
    for name, state, its in report.ended:
        verdict = ""
        if its is not None:
            verdict = f"; verdict of the log: {verdict_words(its.decision.verdict, whom(its.decision))}"
        yield Padding(Text.assemble((name, "bold"), f": {state_text(state)}{verdict}"), (0, 0, 0, 2), expand=False)
    if any(its is not None for _, _, its in report.ended):
        yield Padding(Text("--experiment NAME shows the full report of one", style="dim"), (0, 0, 0, 2), expand=False)


def state_text(state: RunState) -> str:
    """The state with its date and winner, such as `ended 2026-11-20T09:00:00Z, winner canary`."""
    since = "" if state.since is None else f" since {time_text(state.since.replace(microsecond=0))}"
    if state.state is State.ENDED:
        since = since.replace(" since", "")
        return f"ended{since}, {'winner unknown' if state.winner is None else f'winner {state.winner}'}"
    return f"{state.state}{since}"


def progress(report: ExperimentReport) -> str:
    """Users so far and planned, looks, and the time that is left where the experiment runs."""
    decision, calendar = report.decision, report.gathered.evidence.calendar
    planned = f" ({decision.users_planned:,.0f} planned)" if decision.users_planned > 0 else ""
    days = days_to_wait(report)
    left = f", {days_text(days)} left at most" if days > 0 else ""
    came = report.gathered.evidence.users[-1].sum()
    return f"{counted(came, 'user')}{planned}, {calendar.done} of {counted(calendar.planned, 'look')}{left}"


def days_to_wait(report: ExperimentReport) -> float:
    """Days until the last look, the latest that can decide; nan where nothing is waited for, or nobody knows.

    The planned users may have come before, but neither they nor the guardrails have to decide anything then.
    """
    if report.run_state.state is not State.RUNNING or report.decision.verdict is not Verdict.KEEP_RUNNING:
        return math.nan
    if math.isnan(report.decision.days_left):
        return math.nan
    looks = report.gathered.looks
    return max((looks.at(looks.calendar.planned) - looks.times[-1]) / DAY, 0.0)


def missing(report: ExperimentReport) -> tuple[str, ...]:
    """The sentence about outcomes that have not arrived, where there are such."""
    found = missing_outcomes_sentence(report.gathered)
    return () if found is None else (found,)


def side(metric: MetricResult, *, believed: bool = True) -> str:
    """`good`, `bad` or `open`: on which side of no change the always-valid interval lies, if it is believed.

    What a guardrail acts on holds at every look too, and may have too few events for an interval.
    """
    low, high = metric.relative_sequential_interval
    if believed and metric.e_value >= 1 / guardrails.ALPHA:
        return "bad"
    if not believed or not (low > 0 or high < 0):
        return "open"
    return "good" if (low > 0) == (metric.rule.sign > 0) else "bad"


def data_sentences(report: ExperimentReport) -> Iterator[str]:
    """What to know about the data, with the population of each number."""
    if report.preference is not None:
        yield from preference_sentences(report.preference, report.plan)
        yield f"left out: {left_out(report.gathered.evidence.quality)}"
        return
    quality, ratio = report.gathered.evidence.quality, report.decision.sample_ratio
    known = f" (p = {ratio.p_value:.3g}, E = {ratio.e_value:.3g})" if math.isfinite(ratio.p_value) else ""
    yield f"split: {'as expected' if ratio.ok else 'NOT as expected'}{known}: {split(report)}"
    if ratio.ok:
        yield "at this size a loss of a few percent of one group's lines cannot be seen"
    if (others := left_out(quality)) != "nothing" or not quality.moved_by_ramp:
        yield f"left out: {others}"
    if text := coverage_text(report):
        yield text
    if quality.moved_by_ramp:
        back = quality.moved_by_ramp - quality.not_compared
        yield (
            f"a ramp moved {counted(quality.moved_by_ramp, 'user')}, and what they did before does not count: "
            f"{back:,} came back and count by what they did since, {quality.not_compared:,} did not come back"
        )
    if quality.in_both_groups:
        yield (
            f"the table counts {counted(quality.in_both_groups, 'user')} in two groups, one after the other, because "
            "the window had closed before the move or a new salt assigned users anew"
        )
    if quality.open_windows:
        yield f"within 7 days of the first exposure: {counted(quality.open_windows, 'user')}; outcomes may still come"


def split(report: ExperimentReport) -> str:
    """The groups' sizes beside those that were expected, both of the users that the test of the split counts."""
    ratio, groups = report.decision.sample_ratio, report.gathered.evidence.groups
    sizes = ", ".join(
        f"{name} {seen:,.0f} ({wanted} expected)"
        for name, seen, wanted in zip(groups, ratio.observed, expected_texts(ratio.expected)[:-1], strict=True)
    )
    moves = ", without users whose bucket moved" if report.gathered.evidence.quality.moved_by_ramp else ""
    return f"{counted(sum(ratio.observed), 'user')} at the first call{moves}: {sizes}"


def verdict_words(verdict: Verdict, group: str) -> str:
    """The verdict as a heading that names the group, such as `SHIP canary`."""
    return _WORDS[verdict][0].format(group=group)


def coverage_text(report: ExperimentReport) -> str:
    """Of how many answered lists of each group there is an impression; empty without impressions."""
    evidence = report.gathered.evidence
    if evidence.impression_coverage is None:
        return ""
    shares = ", ".join(
        f"{name} {share:.1%}" if math.isfinite(share) else f"{name} -"
        for name, share in zip(evidence.groups, evidence.impression_coverage.tolist(), strict=True)
    )
    return f"lists with an impression: {shares}; ctr counts each other list once"


def left_out(quality: DataQuality) -> str:
    """What was left out of the log, and how often."""
    counts = (
        ("synthetic call", "", quality.synthetic),
        ("overridden call", "", quality.overrides),
        ("call", " without a user id", quality.no_user_id),
        ("call", " held out", quality.holdout),
        ("call", " whose caller named the version", quality.pinned),
        ("user", " in two groups", quality.users_in_two_groups),
        ("outcome", " without a request in the log", quality.unjoined_outcomes),
        ("repeated outcome", "", quality.duplicate_outcomes),
        ("outcome", " with the id of another outcome", quality.conflicting_outcomes),
        ("click", " on an item outside of the list", quality.clicks_not_in_list),
        ("impression", " without an answered list", quality.impressions_of_no_list),
        ("outcome", " in another currency", quality.other_currencies),
        ("unusable value", "", quality.unusable_values),
        ("line", " with a time far from all others", quality.wrong_clock),
        ("call", " of an unknown allocation", quality.unknown_allocation),
        ("call", " in excluded windows", quality.excluded),
    )
    return ", ".join(f"{counted(count, one)}{which}" for one, which, count in counts if count) or "nothing"


def adding_up(values: Sequence[float], digits: int) -> list[float]:
    """Rounded to so many decimals, each up or down, so that they add up to their rounded sum."""
    if not all(map(math.isfinite, values)):
        return list(values)
    unit = 10.0**digits
    scaled = [round(value * unit, 6) for value in values]
    found = [math.floor(value) for value in scaled]
    by_rest = sorted(range(len(found)), key=lambda index: (found[index] - scaled[index], index))
    for index in by_rest[: round(sum(scaled)) - sum(found)]:
        found[index] += 1
    return [value / unit for value in found]


def expected_texts(expected: Sequence[float]) -> tuple[str, ...]:
    """Expected users of each group and of all, with a decimal where one is not whole; they add up."""
    digits = 0 if all(abs(value - round(value)) < 1e-6 for value in expected if math.isfinite(value)) else 1
    shown = adding_up(expected, digits)
    return tuple(f"{value:,.{digits}f}" for value in (*shown, sum(shown)))


def value_text(value: float) -> str:
    """A metric's value; - where it is not known."""
    return f"{value:.4g}" if math.isfinite(value) else "-"


def percent_text(value: float) -> str:
    """A change; - where it is not known."""
    return f"{value:+.1%}" if math.isfinite(value) else "-"


def interval_text(bounds: tuple[float, float]) -> str:
    """An interval of the relative difference; - where it is not known."""
    return "{:+.1%} to {:+.1%}".format(*bounds) if all(map(math.isfinite, bounds)) else "-"
