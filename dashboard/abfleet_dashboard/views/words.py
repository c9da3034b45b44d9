"""A conclusion as a person would put it: what to do, which version wins, how sure that is."""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from abfleet_analysis.decision.measurements import ALPHA
from abfleet_analysis.decision.verdicts import GroupDecision, MetricResult, Verdict
from abfleet_analysis.report.render import days_to_wait, side
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import State
from abfleet_statistics import guardrails

from abfleet_dashboard.numbers import (
    between,
    change,
    counted,
    day,
    duration,
    evidence,
    instant,
    metric_value,
    share,
    whole,
)
from abfleet_dashboard.views.preference_view import (
    preference_amounts,
    preference_headline,
    preference_sureness,
    preference_todo,
    preference_winner,
)

METRICS: Final = {
    "ctr": "CTR",
    "conversion_rate": "conversion rate",
    "response_time_mean": "mean response time",
    "response_time_p95": "95th percentile of response time",
    "revenue_per_user": "revenue per user",
    "error_rate": "error rate",
    "fallback_rate": "fallback rate",
}
"""Built-in metrics as a sentence names them; those of the file have the file's names."""
_METRIC: Final = re.compile(rf"\b(?:{'|'.join(METRICS)})\b")
_INSTANT: Final = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z")
_PERCENT: Final = re.compile(r"(?<![\w.])([+-]?)(\d[\d.,]*)\s?%")
_ALWAYS_VALID: Final = "always-valid 95\u00a0% interval"
UNDECIDED: Final = (Verdict.INCONCLUSIVE, Verdict.NO_PREFERENCE)
"""Verdicts of a time that is over without a decision."""
_WITHHELD: Final = {Verdict.KEEP_RUNNING: "Keep running", Verdict.INCONCLUSIVE: "Inconclusive"}
"""Verdicts that a version may have that is better: a guardrail, or the plan's minimum, keeps it back."""
OVER: Final = "over"
"""Time left when the planned time has passed."""
DECIDED: Final = "decided"
STANDING: Final = "not running"
BROKEN: Final = "no conclusion"
"""The same where nothing is waited for: something is decided, nobody comes in, or the data is broken."""


@dataclass(frozen=True, slots=True)
class PlainAnswers:
    """What people ask first, answered in sentences.

    Attributes:
        headline: What to do, with the numbers it rests on. todo: What that means for whoever runs the experiment.
    """

    headline: str
    todo: str
    winner: str
    amount: tuple[str, ...]
    sure: tuple[str, ...]


def answers(report: ExperimentReport) -> PlainAnswers:
    """Headline, advice, winner, amounts and certainty of one experiment."""
    found = report.preference
    if found is None:
        return PlainAnswers(headline(report), todo(report), winner(report), amounts(report), sureness(report))
    running = report.run_state.state is State.RUNNING or report.decision.verdict is not Verdict.KEEP_RUNNING
    ended = report.run_state.state is State.ENDED
    return PlainAnswers(
        preference_headline(report, found),
        preference_todo(report) if running and not ended else todo(report),
        preference_winner(report, found),
        preference_amounts(found),
        preference_sureness(report, found),
    )


def metric_name(name: str) -> str:
    """The metric's name inside a sentence; a name of the file's own stays as it is."""
    return METRICS.get(name, name)


def spoken(text: str) -> str:
    """A sentence of the analysis with metrics, instants and percents written as everywhere on a page."""
    named = _METRIC.sub(lambda found: METRICS[found[0]], text)
    named = _INSTANT.sub(_instant, named).replace("`plan.minimum`", "the plan's minimum duration").replace("`", "")
    return _PERCENT.sub(lambda found: found[1].replace("-", "\u2212") + f"{found[2]}\u00a0%", named)


def _instant(found: re.Match[str]) -> str:
    at = datetime.fromisoformat(found[0])
    return instant(at, seconds=at.second > 0)


def metric_title(name: str) -> str:
    """As it begins a row or a heading; names of the file stay as they are."""
    known = METRICS.get(name)
    return f"{known[:1].upper()}{known[1:]}" if known else name


def with_version(report: ExperimentReport, group: str | None) -> str:
    """A group with its version, as in `experiment (v1.3.0-beta)`."""
    version = next((facts.model_version for facts in report.gathered.facts if facts.name == group), None)
    return f"{group} ({version})" if version else str(group)


def control(report: ExperimentReport) -> str:
    """The group that the others are compared with, with its version."""
    return with_version(report, report.gathered.evidence.groups[0])


def decided(report: ExperimentReport) -> GroupDecision | None:
    """The treatment that the verdict is about; the one that is furthest ahead where it is about all of them."""
    groups = report.decision.groups
    if report.decision.group is not None:
        return next((group for group in groups if group.group == report.decision.group), None)
    lifts = [(_lift(group), -index) for index, group in enumerate(groups)]
    return groups[-max(lifts)[1]] if lifts else None


def primary(group: GroupDecision | None) -> MetricResult | None:
    """The primary metric of a treatment."""
    return next((m for m in group.metrics if m.rule.role == "primary"), None) if group else None


def has_users(report: ExperimentReport) -> bool:
    """Whether the log knows anyone of the experiment."""
    return bool(report.gathered.evidence.users[-1].sum() > 0)


def headline(report: ExperimentReport) -> str:
    """The verdict in one line, with the numbers that it rests on."""
    verdict, group = report.decision.verdict, decided(report)
    name = with_version(report, group.group) if group else ""
    metric = primary(group)
    lift = _lift_words(metric) if metric else ""
    if verdict is Verdict.SHIP:
        return f"Ship {name}: {lift}"
    if verdict is Verdict.CHECK_FIRST:
        return f"Check before shipping {name}: {lift}"
    if verdict is Verdict.ROLL_BACK:
        harm = acting(group)
        return f"Roll back {name}: {_side_by_side(report, harm) if harm else lift}"
    if verdict is Verdict.REFUSE:
        return "No conclusion: the data is broken"
    if metric and verdict in _WITHHELD and crossed(metric):
        return f"{_WITHHELD[verdict]}: {name} is better, {lift}, but not everything that shipping needs is met"
    planned = f"{report.plan.effect:.0%}".replace("%", "\u00a0%")
    of = metric_name(metric.rule.name) if metric else "the primary metric"
    if verdict is Verdict.STOP_NO_EFFECT:
        return f"Stop: no change of {planned} in {of} was found"
    if verdict is Verdict.INCONCLUSIVE:
        return f"Inconclusive: too few users to detect a change of {planned} in {of}"
    if not has_users(report):
        return f"Keep running: nobody has taken part{not_yet(report)}"
    return f"Keep running: nothing is decided{not_yet(report)}"


def todo(report: ExperimentReport) -> str:
    """What the owner of the experiment should do now."""
    decision, group = report.decision, decided(report)
    name = with_version(report, group.group) if group else "the treatment"
    rest = [g for g in decision.groups if group and g.group != group.group and g.verdict is Verdict.KEEP_RUNNING]
    left, base = "", control(report)
    if report.run_state.state is State.ENDED:
        return (
            f"The experiment {_stopped(report)}. The verdict is computed from the log; it does not depend on who was "
            "declared the winner."
        )
    if report.run_state.state is State.HALTED and decision.verdict is Verdict.KEEP_RUNNING:
        return f"Nothing is decided, and no users are coming in: the experiment {_stopped(report)}."
    if days_to_wait(report) > 0:
        left = _time_left(report)
    return {
        Verdict.SHIP: f"Give {name} to everyone.{_undecided([g.group for g in rest])}",
        Verdict.ROLL_BACK: f"Take {name} out now; its users go back to {base}.{_going_on([g.group for g in rest])}",
        Verdict.REFUSE: "Find out what broke the data, fix it, and start again with a new salt. Do not ship anything.",
        Verdict.CHECK_FIRST: f"Look for a mistake before shipping {name}; the reasons say what is suspicious.",
        Verdict.KEEP_RUNNING: f"Leave everything as it is and look again later; looking early does no harm.{left}",
        Verdict.STOP_NO_EFFECT: f"End the experiment and keep {base}, unless other reasons speak for a change.",
        Verdict.INCONCLUSIVE: f"End the experiment and keep {base}; to know more, plan for more users or more time.",
    }[decision.verdict]


def _time_left(report: ExperimentReport) -> str:
    """When the planned users are expected, and the last look, which comes at the latest."""
    last, planned = days_to_wait(report), report.decision.days_left
    looks = f"the last look is in {duration(last * 86400)}"
    if report.preference is not None or not 0 < planned < last:
        return f" A decision comes at the last look at the latest; {looks}."
    reached = f"the planned users and the minimum duration are reached in about {duration(planned * 86400)}"
    return f" At the current rate, {reached}; {looks}."


def _undecided(groups: list[str]) -> str:
    """What becomes of the other groups when one is given to everyone."""
    if not groups:
        return ""
    verb, them = ("has", "it") if len(groups) == 1 else ("have", "them")
    return f" {_of_groups(groups)} {verb} no verdict yet; ending the experiment ends {them} too."


def _going_on(groups: list[str]) -> str:
    return f" {_of_groups(groups)} can keep running." if groups else ""


def _of_groups(groups: list[str]) -> str:
    """As a sentence begins with them, whatever letter their names begin with."""
    return f"The group{'' if len(groups) == 1 else 's'} {_listed(groups)}"


def not_yet(report: ExperimentReport) -> str:
    """` yet` behind what is not there, as long as something may still come."""
    return "" if report.run_state.state is State.ENDED else " yet"


def winner(report: ExperimentReport) -> str:
    """Which version wins, or why none does yet."""
    verdict, group = report.decision.verdict, decided(report)
    name = with_version(report, group.group) if group else "no group"
    base, metric = control(report), primary(group)
    yet = not_yet(report)
    whose, kept = f"Group {name}", f"Group {base}"
    if verdict is Verdict.SHIP:
        return f"{whose} wins over {base}."
    if verdict is Verdict.ROLL_BACK:
        return f"{kept} stays. {whose} does harm."
    if verdict is Verdict.REFUSE:
        return "Unknown: the data is broken, so an apparent winner may be an artefact."
    if verdict is Verdict.CHECK_FIRST:
        return f"{whose} is ahead of {base}, but this result has to be checked before it can be trusted."
    if verdict is Verdict.STOP_NO_EFFECT:
        return f"None. No version differs from {base} by as much as the experiment was planned to detect."
    if metric and verdict in _WITHHELD and crossed(metric):
        of = metric_name(metric.rule.name)
        return f"{whose} is better than {base} in {of}. That is not enough to ship it; the reasons are below."
    if verdict is Verdict.INCONCLUSIVE:
        return f"Unknown. No version differed clearly from {base} before the time was over."
    if metric is None or not math.isfinite(metric.relative_difference):
        return f"Not known{yet}: there is too little data to compare."
    where = "ahead of" if metric.rule.sign * metric.difference > 0 else "behind" if metric.difference else "level with"
    if side(metric) != "open":
        return (
            f"Not decided{yet}. {whose} is {where} {base} by more than chance explains, but has not reached the "
            "boundary for a decision."
        )
    if metric.interval[0] > 0 or metric.interval[1] < 0:
        return f"Not decided{yet}. {whose} is {where} {base}, but not by enough to be sure after repeated looks."
    return f"Not decided{yet}. {whose} is {where} {base}, but this may still be chance."


def amounts(report: ExperimentReport) -> tuple[str, ...]:
    """By how much, a sentence for each treatment."""
    found = []
    for group in report.decision.groups:
        shown = [metric for metric in (acting(group), primary(group)) if metric is not None]
        known = [metric for metric in shown if math.isfinite(metric.relative_difference)]
        found += [
            f"{with_version(report, group.group)}: {_side_by_side(report, metric)}, a change of "
            f"{change(metric.relative_difference)}{_between(metric)}."
            for metric in known
        ] or [f"{with_version(report, group.group)}: there is too little data to say."]
    if report.decision.verdict is Verdict.REFUSE and found:
        found.append("These numbers are here to help find the fault; do not act on them.")
    return tuple(found) or ("There is no group to compare with control.",)


def sureness(report: ExperimentReport) -> tuple[str, ...]:
    """How sure that is, and what it means."""
    verdict, group = report.decision.verdict, decided(report)
    if verdict is Verdict.REFUSE:
        return ("Not at all: intervals and p-values account for chance, and not for broken data.",)
    found = []
    harm = acting(group)
    if verdict is Verdict.ROLL_BACK and harm is not None:
        found.append(
            f"Very sure: the evidence of harm is {evidence(harm.e_value)}, and {whole(1 / guardrails.ALPHA)} is "
            "enough. A version within its tolerance is rolled back by this rule in at most "
            f"{share(guardrails.ALPHA, 1)} of all experiments."
        )
    elif verdict in (Verdict.SHIP, Verdict.ROLL_BACK):
        wrong = "ship a version no better" if verdict is Verdict.SHIP else "roll back a version no worse"
        found.append(f"At most {share(ALPHA, 1)} of all experiments {wrong} than control. This holds at every look.")
    elif verdict is Verdict.CHECK_FIRST:
        found.append("The boundary is crossed, but the result is suspicious; see the reasons.")
    metric = primary(group)
    if metric is not None and harm is None:
        found += _always(metric, report)
    return tuple(found) or ("Nothing is known yet.",)


def _always(metric: MetricResult, report: ExperimentReport) -> list[str]:
    low, high = metric.relative_sequential_interval
    # With several treatments, it says whose interval this is.
    whose = f" in {metric.group}" if len(report.decision.groups) > 1 else ""
    if not math.isfinite(low) or not math.isfinite(high):
        needed = "about 100 users with an event in each group"
        return [f"There is no always-valid interval{whose}{not_yet(report)}; it needs {needed}."]
    meaning = (
        "Zero lies inside it, so this interval alone does not settle the question."
        if low <= 0 <= high
        else "Zero lies outside it."
    )
    change_of = f"the change of {metric_name(metric.rule.name)}{whose}"
    interval = f"The {_ALWAYS_VALID} for {change_of} is {between(low, high)}"
    return [f"{interval}. It holds at every look. {meaning}"]


def crossed(metric: MetricResult) -> bool:
    """Whether a primary metric is beyond its boundary for better."""
    return metric.z >= metric.boundary


def progress(report: ExperimentReport) -> str:
    """Users so far and users planned, and the days that are left."""
    decision, calendar = report.decision, report.gathered.evidence.calendar
    users = int(report.gathered.evidence.users[-1].sum())
    of = f" of {whole(decision.users_planned)} planned" if decision.users_planned > 0 else ""
    so_far = "" if report.run_state.state is State.ENDED else " so far"
    text = f"{counted(users, 'user')}{so_far}{of}, {calendar.done} of {counted(calendar.planned, 'look')}"
    days = days_left(report)
    if days in (DECIDED, STANDING, BROKEN, OVER):
        return f"{text}, and the time is over" if days == OVER else text
    return f"{text}, {days} left at most"


def days_left(report: ExperimentReport) -> str:
    """Until the last look, which is the latest that a decision can come at."""
    left = days_to_wait(report)
    if not math.isfinite(left):
        if report.run_state.state is State.RUNNING and report.decision.verdict in UNDECIDED:
            return OVER
        if report.decision.verdict is Verdict.REFUSE:
            return BROKEN
        return DECIDED if report.run_state.state is State.RUNNING else STANDING
    return OVER if left <= 0 else duration(left * 86400)


def acting(group: GroupDecision | None) -> MetricResult | None:
    """The guardrail that rolls a treatment back, if one does."""
    if group is None or group.verdict is not Verdict.ROLL_BACK:
        return None
    return next((m for m in group.metrics if m.e_value >= 1 / guardrails.ALPHA), None)


def _side_by_side(report: ExperimentReport, metric: MetricResult) -> str:
    value, base = metric_value(metric.rule, metric.value), metric_value(metric.rule, metric.baseline_value)
    return f"{metric_name(metric.rule.name)} {value} against {base} in {report.gathered.evidence.groups[0]}"


def _lift_words(metric: MetricResult) -> str:
    name = metric_name(metric.rule.name)
    if not math.isfinite(metric.relative_difference):
        return f"too little data for a change of {name}"
    return f"{name} {change(metric.relative_difference)}{_between(metric)}"


def _between(metric: MetricResult) -> str:
    """The always-valid interval of the change, in brackets; nothing where there is none."""
    if not all(map(math.isfinite, metric.relative_sequential_interval)):
        return ""
    return f" ({_ALWAYS_VALID} {between(*metric.relative_sequential_interval)})"


def state_words(report: ExperimentReport) -> str:
    """Whether the experiment runs, and since when."""
    state = report.run_state
    if state.state is State.RUNNING:
        return "running" if state.since is None else f"running since {instant(state.since)}"
    return _stopped(report).removeprefix("has been ")


def short_state(report: ExperimentReport) -> str:
    """The same for a narrow column: the day alone, without the winner."""
    state = report.run_state
    word = {State.RUNNING: "running", State.HALTED: "halted"}.get(state.state, "ended")
    return word if state.since is None else f"{word} since {day(state.since)}".replace("ended since", "ended on")


def _stopped(report: ExperimentReport) -> str:
    state = report.run_state
    if state.state is State.HALTED:
        return "has been halted" if state.since is None else f"has been halted since {instant(state.since)}"
    ended = "ended" if state.since is None else f"ended on {instant(state.since)}"
    return ended if state.winner is None else f"{ended}, winner {state.winner}"


def _lift(group: GroupDecision) -> float:
    metric = primary(group)
    lift = metric.rule.sign * metric.relative_difference if metric else math.nan
    return lift if math.isfinite(lift) else -math.inf


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
