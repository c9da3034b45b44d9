"""Metrics among parts of the users, as rows. Each part says how little it proves."""

import math
from dataclasses import dataclass
from typing import Final

from abfleet_analysis.decision.metrics import MetricRule
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
_WHO: Final = "Users in the comparison"
_ADJUSTED: Final = (
    "The p-values are adjusted for the number of parts; the intervals, of a single look, are not, so a part may be "
    "chance although its interval leaves out zero."
)


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One part of the users, as text. `users` has control's beside the group's own."""

    label: str
    group: str
    users: str
    own_users: str
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
    rules = {metric.rule.name: metric.rule for metric in report.gathered.evidence.metrics}
    found: dict[tuple[str, str], list[BreakdownView]] = {}
    for index, one in enumerate(report.details.breakdowns):
        if one.slices:
            view = _view(one, f"{key}-slices-{index}", rules.get(one.metric))
            found.setdefault((one.kind, one.name), []).append(view)
    return tuple(
        Dimension(f"{first.id}-all", first.title.partition(" by ")[2], first, tuple(others))
        for first, *others in found.values()
    )


def _view(breakdown: Breakdown, id_: str, rule: MetricRule | None) -> BreakdownView:
    compared = any(math.isfinite(one.relative_difference) for one in breakdown.slices)
    axis = axis_for([one.interval for one in breakdown.slices])
    metric = metric_title(breakdown.metric)
    title, column, note = {
        "attribute": (
            f"{metric} by {breakdown.name}",
            breakdown.name,
            (f"{_ADJUSTED} " if compared else "") + f"{_WHO} are counted by their first call.",
        ),
        "day": (
            f"{metric} by time since a user's first call",
            "Time since first call",
            (
                "An effect that fades may be novelty. Users are all who have had that much time, whether they came "
                "back or not. Calls from after a ramp moved a user are not counted."
            ),
        ),
        "served": (
            f"{metric} by the version that answered",
            "Answered by",
            f"Not randomised: users who meet a fallback differ from others. {_WHO}, by first fallback or version.",
        ),
    }.get(breakdown.kind, (f"{metric} by {breakdown.name}", breakdown.name, ""))
    if rule is not None and rule.estimator is Estimator.RATIO:
        note = f"{note} {metric} is per answered list, of which a user may have many, or none.".strip()
    left = breakdown.left_out + max(len(breakdown.slices) - MOST_ROWS, 0)
    return BreakdownView(
        id=id_,
        title=title,
        first_column=column,
        note=note,
        axis=strip_axis(axis),
        rows=tuple(_row(one, axis, rule) for one in breakdown.slices[:MOST_ROWS]),
        left_out=f"Not shown: {left:,} more, each with fewer users." if left else "",
        compared=compared,
    )


def _row(one: Slice, axis: Scale, rule: MetricRule | None) -> SliceRow:
    value, base = (
        plain(number) if rule is None else metric_value(rule, number) for number in (one.value, one.baseline_value)
    )
    tone, word = "open", "may be chance"
    compared = math.isfinite(one.relative_difference)
    if not compared:
        word = "too few events"
    elif one.adjusted_p < STANDS_OUT:
        better = one.relative_difference > 0 if rule is None or rule.sign > 0 else one.relative_difference < 0
        tone, word = ("good", "stands out, better") if better else ("bad", "stands out, worse")
    return SliceRow(
        label=one.label or "(empty)",
        group=one.group,
        own_users=whole(one.users),
        users=f"{whole(one.users)} / {whole(one.baseline_users)}",
        baseline="no data" if base == UNKNOWN else base,
        value="no data" if value == UNKNOWN else value,
        change=change(one.relative_difference) if compared else "not compared",
        interval=between(*one.interval) if compared else "none",
        adjusted_p=f"adjusted {p_value(one.adjusted_p)}" if math.isfinite(one.adjusted_p) else "",
        reading=word,
        tone=tone,
        strip=strip(axis, one.relative_difference, one.interval, tone=tone),
    )
