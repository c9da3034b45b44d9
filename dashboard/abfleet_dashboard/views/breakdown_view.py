"""Metrics among parts of the users, as rows. Each part says how little it proves."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.report.details import Breakdown, Slice
from abfleet_analysis.report.report import ExperimentReport
from abfleet_statistics.effects import Estimator
from markupsafe import Markup

from abfleet_dashboard.numbers import UNKNOWN, between, change, metric_value, p_value, plain, whole
from abfleet_dashboard.pictures.scales import Scale
from abfleet_dashboard.pictures.strip import axis_for, strip, strip_axis
from abfleet_dashboard.views.words import metric_title

STANDS_OUT: Final = 0.05
"""Of the adjusted p: about one slice in twenty that is said to stand out does so by chance."""
MOST_ROWS: Final = 120
_UNADJUSTED: Final = "The intervals are each for a single look, and are not adjusted."


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One part of the users, as text. `users` has control's beside the group's own, and so has `made_of`: the lists,
    calls or outcomes that a ratio is made of, of which those users may have few."""

    label: str
    group: str
    users: str
    own_users: str
    made_of: str
    baseline: str
    value: str
    change: str
    interval: str
    adjusted_p: str
    reading: str
    tone: str
    strip: Markup


@dataclass(frozen=True, slots=True)
class BreakdownView:
    """One breakdown. `note` says how to read it."""

    id: str
    title: str
    first_column: str
    note: str
    axis: Markup
    rows: tuple[SliceRow, ...]
    left_out: str
    compared: bool


@dataclass(frozen=True, slots=True)
class Dimension:
    """One way to part the users, such as an attribute: the first metric's breakdown, and the other metrics'."""

    id: str
    name: str
    first: BreakdownView
    others: tuple[BreakdownView, ...]


def dimensions(report: ExperimentReport, key: str) -> tuple[Dimension, ...]:
    """All breakdowns that have a row; each dimension's begin with that of the primary metric, where it has one."""
    if report.details is None:
        return ()
    evidence = report.gathered.evidence
    rules = {metric.rule.name: metric.rule for metric in evidence.metrics}
    seen = evidence.impression_coverage is not None
    found: dict[tuple[str, str], list[BreakdownView]] = {}
    for index, one in enumerate(report.details.breakdowns):
        if one.slices:
            rule = rules.get(one.metric)
            view = _view(one, f"{key}-slices-{index}", rule, evidence.groups[0], _made_of(rule, seen=seen))
            found.setdefault((one.kind, one.name), []).append(view)
    return tuple(
        Dimension(f"{first.id}-all", first.title.partition(" by ")[2], first, tuple(others))
        for first, *others in found.values()
    )


def _made_of(rule: MetricRule | None, *, seen: bool) -> str:
    """What a ratio's value is divided by; empty where that is the users."""
    if rule is None or rule.estimator is not Estimator.RATIO:
        return ""
    lists = "items seen" if seen else "lists"
    return {MetricSource.CLICKS: lists, MetricSource.TIME_MEAN: "calls"}.get(rule.source, rule.over or "")


def _with_control(slices: Sequence[Slice], control: str) -> Iterator[Slice]:
    """Each part's slices with one for control before them, for a table that compares nothing."""
    known = None
    for one in slices:
        if one.label != known:
            known = one.label
            yield replace(
                one, group=control, users=one.baseline_users, value=one.baseline_value, divisor=one.baseline_divisor
            )
        yield one


def _view(breakdown: Breakdown, id_: str, rule: MetricRule | None, control: str, made_of: str) -> BreakdownView:
    compared = any(math.isfinite(one.relative_difference) for one in breakdown.slices)
    slices = breakdown.slices
    if not compared and breakdown.kind != "served":
        slices = tuple(_with_control(slices, control))
    axis = axis_for([one.interval for one in slices])
    metric = metric_title(breakdown.metric)
    title, column, note = {
        "attribute": (
            f"{metric} by {breakdown.name}",
            f"{breakdown.name[:1].upper()}{breakdown.name[1:]}",
            (f"The p-values are adjusted for the number of parts. {_UNADJUSTED} " if compared else "")
            + "Each user counts under the value of the first call.",
        ),
        "day": (
            f"{metric} by time since a user's first call",
            "Time since first call",
            (f"{_UNADJUSTED} Only the p-values are adjusted for the number of days. " if compared else "")
            + "An effect that fades may be novelty. Users are all who came first that long ago, whether or not they "
            "came again. Calls from after a ramp moved a user are not counted.",
        ),
        "served": (
            f"{metric} by the version that answered",
            "Answered by",
            (
                "Not randomised: users who meet a fallback differ from others. Each user counts once: under the first "
                "fallback, or else under the version that answered first."
            ),
        ),
    }.get(breakdown.kind, (f"{metric} by {breakdown.name}", breakdown.name, ""))
    left = breakdown.left_out + max(len(slices) - MOST_ROWS, 0)
    return BreakdownView(
        id=id_,
        title=title,
        first_column=column,
        note=note,
        axis=strip_axis(axis),
        rows=tuple(_row(one, axis, rule, made_of, compared=compared) for one in slices[:MOST_ROWS]),
        left_out=f"Not shown: {left:,} more, each with fewer users." if left else "",
        compared=compared,
    )


def _row(one: Slice, axis: Scale, rule: MetricRule | None, made_of: str, *, compared: bool) -> SliceRow:
    """compared: Whether any of the table is, so that it has control's numbers in each row."""
    value, base = (
        plain(number) if rule is None else metric_value(rule, number) for number in (one.value, one.baseline_value)
    )
    tone, word = "open", "may be chance"
    known = math.isfinite(one.relative_difference)
    if not known:
        word = "too few events"
    elif one.adjusted_p < STANDS_OUT:
        better = one.relative_difference > 0 if rule is None or rule.sign > 0 else one.relative_difference < 0
        tone, word = ("good", "stands out, better") if better else ("bad", "stands out, worse")
    return SliceRow(
        label=one.label or "(empty)",
        group=one.group,
        own_users=whole(one.users),
        users=f"{whole(one.users)} / {whole(one.baseline_users)}",
        made_of=_divisors(one, made_of, compared=compared),
        baseline="no data" if base == UNKNOWN else base,
        value="no data" if value == UNKNOWN else value,
        change=change(one.relative_difference) if known else "not compared",
        interval=between(*one.interval) if known else "none",
        adjusted_p=f"adjusted {p_value(one.adjusted_p)}" if math.isfinite(one.adjusted_p) else "",
        reading=word,
        tone=tone,
        strip=strip(axis, one.relative_difference, one.interval, tone=tone),
    )


def _divisors(one: Slice, made_of: str, *, compared: bool) -> str:
    if not made_of or not math.isfinite(one.divisor):
        return ""
    beside = f" / {whole(one.baseline_divisor)}" if compared else ""
    return f"{made_of}: {whole(one.divisor)}{beside}"
