"""What tables are made without, because nothing asks for it: every shortcut, chosen once. None changes a result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import ibis.expr.types as ir

from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.reading.survey import Survey
from abfleet_analysis.storage.fetching import fetched_one, fetched_rows

OFTEN: Final = 4.0
"""Calls of a user in a look, on average, from which on adding them up first takes less time."""
SAMPLED: Final = 64
"""One user in so many says how many calls there are; a power of two."""
FEW_CALLS: Final = 4000
"""Of up to so many calls, a query costs more than the rows that it may leave out."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which shortcuts hold for a log, or for one experiment of it.

    Attributes:
        ramped: There is more than one allocation in an experiment of the log, or in this one: calls keep their bucket,
            and a user counts in each.
        detailed: The report has details: calls keep all their columns.
        by_request: Some outcomes name a request and no user: calls keep their request.
        timed: A metric adds up response times.
        few: There are at most FEW_CALLS.
        by_look: A user's calls of a look are added up before all else.
        everyone: Rows that change no sum are kept, for a user's first row may be one.
    """

    ramped: bool
    detailed: bool = False
    by_request: bool = False
    timed: bool = False
    few: bool = False
    by_look: bool = False
    everyone: bool = True


def layout_of_log(survey: Survey, outcomes: ir.Table, *, detailed: bool) -> Layout:
    """The shortcuts that hold for all of a log; detailed: whether its report has details."""
    alone = outcomes.filter(outcomes.exposure.isnull(), outcomes.request.notnull())
    return Layout(survey.ramped, detailed, by_request=bool(fetched_one(alone.count())))


def layout_of_experiment(
    layout: Layout, calls: ir.Table, *, counted: int, allocations: int, rules: Sequence[MetricRule]
) -> Layout:
    """Those that hold for an experiment, of whose calls so many count."""
    ramped, few = allocations > 1, counted <= FEW_CALLS
    return replace(
        layout,
        ramped=ramped,
        timed=any(rule.source is MetricSource.TIME_MEAN for rule in rules),
        few=few,
        # Over a ramp more is kept of each row than it takes to group.
        by_look=ramped or (not few and _come_often(calls)),
        everyone=ramped,
    )


def _come_often(calls: ir.Table) -> bool:
    """Whether users come so often within a look that adding up their calls first costs less than it saves."""
    some = calls.filter(calls.user & (SAMPLED - 1) == 0)
    visits = some.group_by("user", "look").aggregate(calls=some.count())
    row = fetched_rows(visits.aggregate(visits=visits.count(), calls=visits.calls.sum()))[0]
    return bool((row["calls"] or 0) >= OFTEN * row["visits"])
