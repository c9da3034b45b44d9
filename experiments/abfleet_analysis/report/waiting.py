"""Why an experiment keeps running: what has to come first, and when. Decides nothing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from abfleet_experiments.config import AnalysisPlan, time_text
from abfleet_process.counting import listed
from abfleet_statistics.confidence_sequence import CONVERSIONS_NEEDED

from abfleet_analysis.decision.metrics import MetricSource
from abfleet_analysis.decision.verdicts import Decision, MetricResult, Verdict
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence
from abfleet_analysis.periods.allocation_periods import DAY


@dataclass(frozen=True, slots=True)
class WaitingReasons:
    """What an experiment waits for.

    Attributes:
        next_look: None where there is none any more. minimum_until: When the plan's minimum has passed, at a look.
        earliest_ship: The first look that could say so; None where no treatment keeps running.
        horizon_ends: The last look.
        sentences: The same in words, with the events that are missing; empty where no treatment keeps running.
    """

    next_look: datetime | None
    minimum_until: datetime
    earliest_ship: datetime | None
    horizon_ends: datetime
    sentences: tuple[str, ...] = ()


def waiting(gathered: GatheredEvidence, decision: Decision, plan: AnalysisPlan, *, running: bool) -> WaitingReasons:
    """What is waited for. running: Whether the experiment takes anybody; else nothing comes by waiting."""
    looks, calendar = gathered.looks, gathered.evidence.calendar
    minimum, ends = looks.at(calendar.first_shipping), looks.at(calendar.planned)
    if not running or not gathered.allocations or calendar.done >= calendar.planned:
        return WaitingReasons(None, minimum, None, ends)
    upcoming = looks.at(calendar.done + 1)
    if all(group.verdict is not Verdict.KEEP_RUNNING for group in decision.groups):
        return WaitingReasons(upcoming, minimum, None, ends)
    found = WaitingReasons(upcoming, minimum, max(upcoming, minimum), ends)
    return WaitingReasons(
        upcoming, minimum, found.earliest_ship, ends, tuple(_sentences(gathered, decision, plan, found))
    )


def waiting_for_preference(gathered: GatheredEvidence, decision: Decision, *, running: bool) -> WaitingReasons:
    """What an interleaving waits for. Nothing is shipped by it, so no date is one to ship at."""
    looks, calendar = gathered.looks, gathered.evidence.calendar
    minimum, ends = looks.at(1), looks.at(calendar.planned)
    if not running or not gathered.allocations or calendar.done >= calendar.planned:
        return WaitingReasons(None, minimum, None, ends)
    upcoming = looks.at(calendar.done + 1)
    if decision.verdict is not Verdict.KEEP_RUNNING:
        return WaitingReasons(upcoming, minimum, None, ends)
    last = f"the last one is at {time_text(ends)}"
    if calendar.done:
        return WaitingReasons(upcoming, minimum, None, ends, (f"the next look is at {time_text(upcoming)}; {last}",))
    first = f"no look has been made yet; the first one is at {time_text(upcoming)}"
    return WaitingReasons(upcoming, minimum, None, ends, (first, last))


def _sentences(
    gathered: GatheredEvidence, decision: Decision, plan: AnalysisPlan, found: WaitingReasons
) -> Iterator[str]:
    calendar, control = gathered.evidence.calendar, gathered.evidence.groups[0]
    assert found.next_look is not None
    assert found.earliest_ship is not None
    if not calendar.done:
        yield f"no look has been made yet; the first one is at {time_text(found.next_look)}"
    if calendar.done + 1 < calendar.first_shipping:
        days = days_text(plan.minimum / DAY)
        yield f"nothing is shipped before {time_text(found.minimum_until)}, when `plan.minimum` ({days}) has passed"
    running = (group for group in decision.groups if group.verdict is Verdict.KEEP_RUNNING)
    if lacking := [metric for group in running for metric in group.metrics if _lacks(metric)]:
        yield _missing(lacking, control)
    yield (
        f"the next look is at {time_text(found.next_look)}; the earliest look that can ship is at "
        f"{time_text(found.earliest_ship)}, and the last look is at {time_text(found.horizon_ends)}"
    )


def missing_events(metric: MetricResult) -> tuple[int, int] | None:
    """How many more users with an event an always-valid interval needs, in control and in the treatment.

    None where the number of users is not known, or it is a guardrail of bad events, of which nobody waits for more.
    """
    if metric.rule.sign < 0 or not math.isfinite(metric.events + metric.baseline_events):
        return None
    return tuple(max(CONVERSIONS_NEEDED - round(n), 0) for n in (metric.baseline_events, metric.events))  # type: ignore[return-value]


def _lacks(metric: MetricResult) -> bool:
    return metric.rule.role == "primary" and any(missing_events(metric) or ())


def _missing(metrics: Sequence[MetricResult], control: str) -> str:
    """One sentence for all treatments; metrics: The primary one of each that lacks events, or whose control does."""
    short, rule = {control: 0}, metrics[0].rule
    for metric in metrics:
        of_control, short[metric.group] = missing_events(metric) or (0, 0)
        short[control] = max(short[control], of_control)
    what = "a click" if rule.source is MetricSource.CLICKS else f"a `{rule.outcome}`"
    lacking = listed([f"{missing:,} in {name}" for name, missing in short.items() if missing])
    return (
        f"the always-valid interval of {rule.name} needs {CONVERSIONS_NEEDED} users with {what} in each group; "
        f"still missing: {lacking}"
    )


def missing_outcomes(gathered: GatheredEvidence) -> tuple[str, ...]:
    """The outcome types that metrics count and of which no user of the experiment has one in the log."""
    found: dict[str, None] = {}
    for metric in gathered.evidence.metrics:
        rule, sums = metric.rule, metric.moments
        name = "click" if rule.source is MetricSource.CLICKS else rule.outcome
        if name is not None and not sums.nonzero[-1].sum():
            found[name] = None
        if rule.over is not None and not sums.z[-1].sum():
            found[rule.over] = None
    return tuple(found) if gathered.allocations else ()


def missing_outcomes_sentence(gathered: GatheredEvidence) -> str | None:
    """That in words, with the metrics that lack them; None where nothing is missing."""
    missing = missing_outcomes(gathered)
    if not missing:
        return None
    rules = [metric.rule for metric in gathered.evidence.metrics]
    valued = {rule.outcome for rule in rules if rule.source is MetricSource.OUTCOME_VALUE}
    wanted = " and no ".join(f"`{name}`{' with a value' if name in valued else ''}" for name in missing)
    lacking = [
        rule.name
        for rule in rules
        if {rule.outcome, rule.over, "click" if rule.source is MetricSource.CLICKS else None} & set(missing)
    ]
    return f"the log has no {wanted}, so these metrics have no result: {', '.join(lacking)}"


def days_text(days: float) -> str:
    """A number of days, or of hours or minutes where it is less than one; never 0."""
    for size, unit in ((1.0, "day"), (1 / 24, "hour"), (1 / 1440, "minute")):
        if days >= size * 0.995:
            shown = f"{days / size:.1f}".removesuffix(".0")
            return f"{shown} {unit}" + ("" if shown == "1" else "s")
    return "less than a minute"
