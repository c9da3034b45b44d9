"""Metrics among parts of the users: by logged attribute, by time since the first exposure, by what answered.

Ibis expressions over one experiment's tables, with their rules: the same strata, and the same users left out. A part
is decided by the user's first exposure, before the treatment can have changed it; what answered is not, and so is shown
without a comparison. Quantiles are not broken down, since they need a histogram of each part.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from abfleet_statistics.effects import Estimator
from abfleet_statistics.moments import Floats, Moments, from_sums
from numpy.typing import NDArray

from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.evidence.contributions import OutcomeProblems
from abfleet_analysis.evidence.metric_sums import contributed
from abfleet_analysis.evidence.sums import Shape, Value
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.periods.allocation_periods import index_of, microseconds
from abfleet_analysis.report.details import Breakdown
from abfleet_analysis.report.slice_sums import slice_moments, some_slices
from abfleet_analysis.report.slices import compared, described
from abfleet_analysis.storage.fetching import columns_of, fetched_rows

MOST_VALUES: Final = 12
"""Of an attribute, those with the most users."""
MOST_DAYS: Final = 28
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class MetricSums:
    """What users did, of one metric.

    Attributes:
        by_look: y and z of each user, allocation and look that has any. whole: The same over all looks.
        negative: Whether a user's y may be below 0.
    """

    rule: MetricRule
    by_look: ir.Table
    whole: ir.Table
    negative: bool


def breakdowns(tables: Tables, membership: Floats) -> tuple[Breakdown, ...]:
    """Every breakdown of an experiment: all of the primary metric, then all of each other metric in its order.

    membership: float64[strata, cells], of the report's moment.
    """
    rules = [rule for rule in tables.rules if rule.source is not MetricSource.TIME_QUANTILE]
    rules.sort(key=lambda rule: rule.role != "primary")
    if not rules:
        return ()
    metrics = _sums(replace(tables, rules=tuple(rules)))
    every = (
        *_by_attribute(tables, metrics, membership),
        *_by_day(tables, metrics, membership),
        *_by_served(tables, metrics),
    )
    order = [rule.name for rule in rules]
    return tuple(sorted(every, key=lambda one: order.index(one.metric)))


def _sums(tables: Tables) -> list[MetricSums]:
    """What users did, of every rule of the tables; the columns of all are added up in one pass."""
    found = contributed(tables, OutcomeProblems(), history=False)
    table = found.table
    values = [found.values[rule.name] for rule in tables.rules]
    columns = dict.fromkeys(column for value in values for column in (value.y, value.z) if column is not None)
    keys = ["user", "period", "cell", "g"]
    added = {column: table[column].sum() for column in columns}
    by_look = tables.keep("sums_by_look", table.group_by(*keys, "look").aggregate(**added))
    whole = tables.keep("sums_of_users", by_look.group_by(*keys).aggregate(**{c: by_look[c].sum() for c in columns}))
    return [
        MetricSums(
            rule, _user_values(by_look, value, [*keys, "look"]), _user_values(whole, value, keys), value.negative
        )
        for rule, value in zip(tables.rules, values, strict=True)
    ]


def _user_values(table: ir.Table, value: Value, keys: Sequence[str]) -> ir.Table:
    """y and z of each row; the rows differ in their keys."""
    total = table[value.y].cast("float64")
    y = total if value.cap is None else ibis.least(total, ibis.literal(value.cap))
    y = (total > 0).cast("float64") if value.any else y
    z = ibis.literal(0.0) if value.z is None else table[value.z].cast("float64")
    return table.select(*keys, y=y, z=z)


def _moments(tables: Tables, table: ir.Table, slices: int) -> Moments:
    shape = Shape(slices, tables.shape.cells, tables.shape.groups)
    return slice_moments(table, shape, several_allocations=len(tables.allocations) > 1)


# --- by attribute -----------------------------------------------------------------------------------------------------


def _by_attribute(tables: Tables, metrics: Sequence[MetricSums], membership: Floats) -> list[Breakdown]:
    exposures = tables.exposures.mutate(attributes=tables.exposures.attributes.fill_null("{}"))
    # An empty map is kept: a user whose first call had no attribute gets none from a later one.
    firsts = exposures.group_by("user").aggregate(attributes=exposures.attributes.argmin(exposures["at"]))
    named = firsts.filter(firsts.attributes != "{}").mutate(attributes=ibis._.attributes.cast("json").map)
    named = named.mutate(name=named.attributes.keys().unnest())
    named = named.mutate(value=named.attributes[named.name].str).filter(ibis._.value.notnull())
    named = named.select("user", "name", "value").semi_join(metrics[0].whole, "user")
    values = tables.keep("attributes", named)
    counted = values.group_by("name", "value").aggregate(users=values.user.nunique())
    ranked = counted.mutate(
        rank=ibis.row_number().over(group_by=counted.name, order_by=[ibis.desc(counted.users), counted.value]),
        of=counted.count().over(group_by=counted.name),
    )
    rows = fetched_rows(ranked.filter(ranked["rank"] < MOST_VALUES).order_by("name", "rank"))
    if not rows:
        return []
    index = tables.keep(
        "slice_index",
        pa.table(
            {
                "name": [row["name"] for row in rows],
                "value": [row["value"] for row in rows],
                "slice": list(range(len(rows))),
            }
        ),
    )
    sliced = tables.keep("sliced_users", values.inner_join(index, ["name", "value"]).select("user", "slice"))
    users = None
    if len(tables.allocations) > 1:
        users = _different_users(tables, metrics[0].whole.inner_join(sliced, "user"), len(rows))
    found = []
    for metric in metrics:
        moments = _moments(tables, metric.whole.inner_join(sliced, "user"), len(rows))
        for name in dict.fromkeys(row["name"] for row in rows):
            mine = [position for position, row in enumerate(rows) if row["name"] == name]
            shown = compared(
                some_slices(moments, mine),
                membership,
                [rows[position]["value"] for position in mine],
                tables.groups,
                estimator=metric.rule.estimator,
                negative=metric.negative,
                users=None if users is None else users[mine],
            )
            found.append(Breakdown("attribute", name, metric.rule.name, shown, rows[mine[0]]["of"] - len(mine)))
    return found


# --- by time since the first exposure ---------------------------------------------------------------------------------


def _by_day(tables: Tables, metrics: Sequence[MetricSums], membership: Floats) -> list[Breakdown]:
    """By looks since the one with the user's first exposure, as long as they were whole and in its allocation."""
    looks = tables.looks
    last = _last_whole_looks(tables)
    units = tables.units.filter(tables.units.entry == 1)
    entries = units.select("user", "period", "cell", "g", begin=looks.index(units["first"]))
    counted = columns_of(entries.group_by("period", "cell", "g", "begin").aggregate(n=ibis._.count()))
    spans = last[counted["period"]] - counted["begin"] + 1  # how many whole looks these users have had
    days = int(spans.max(initial=0))
    if days < 2:  # nothing changes over one
        return []
    shown = min(days, MOST_DAYS)
    n = np.zeros((shown, tables.shape.cells, tables.shape.groups))
    for day in range(shown):
        had = spans > day
        np.add.at(n[day], (counted["cell"][had], counted["g"][had]), counted["n"][had])
    until = ibis.cases(*((ibis._.period == index, int(limit)) for index, limit in enumerate(last)), else_=-1)
    unit, name = _unit(timedelta(microseconds=looks.look_us))
    found = []
    for metric in metrics:
        acted = metric.by_look.inner_join(entries.select("user", "period", "begin"), ["user", "period"])
        acted = acted.mutate(slice=acted.look - acted.begin, until=until).filter(ibis._.look <= ibis._.until)
        sums_of = _moments(tables, acted.filter(acted.slice >= 0, acted.slice < shown), shown)
        slices = compared(
            from_sums([n, *sums_of.sums()[1:]]),  # who did nothing that day counts too
            membership,
            [f"{unit} {day}" for day in range(shown)],
            tables.groups,
            estimator=Estimator.RATIO if metric.rule.estimator is Estimator.RATIO else Estimator.MEAN,
            negative=metric.negative,
        )
        found.append(Breakdown("day", name, metric.rule.name, slices, days - shown))
    return found


def _last_whole_looks(tables: Tables) -> NDArray[np.int64]:
    """The last look of each allocation that is over, and lay in it whole: int[periods]."""
    looks = tables.looks

    def index(at_us: int) -> int:
        return min(max(-((looks.anchor_us - at_us) // looks.look_us), 0), looks.calendar.done)

    ends = [index(microseconds(found.begin)) - 1 for found in tables.allocations[1:]]
    return np.array([*ends, looks.calendar.done - 1])


def _unit(look: timedelta) -> tuple[str, str]:
    """What a look is called, and the breakdown's name."""
    if look == _DAY:
        return "day", "days (UTC) since the day of a user's first exposure"
    return "look", f"looks of {look} since the one of a user's first exposure"


# --- by what answered -------------------------------------------------------------------------------------------------


def _by_served(tables: Tables, metrics: Sequence[MetricSums]) -> list[Breakdown]:
    """By the version that answered a user in a group; with a fallback, by the first one. Not randomised.

    A user has one label in a group, so that the users of its labels are those of the group.
    """
    first = metrics[0].whole
    counting = first.filter(~tables.out_of(first.cell)).select("user", "period", "g").distinct()
    names = tables.exposures
    calls = names.mutate(
        period=index_of(names.allocation, [one.id for one in tables.allocations]),
        fell=names.served_version.fill_null("no answer") + " (fallback: " + names.fallback + ")",
    ).select("user", "period", "at", "fell", "served_version")
    calls = calls.inner_join(counting, ["user", "period"])
    by_user = calls.group_by("user", "g").aggregate(
        fell=calls.fell.argmin(calls["at"], where=calls.fell.notnull()),
        served=calls.served_version.argmin(calls["at"], where=calls.served_version.notnull()),
    )
    label = ibis.coalesce(by_user.fell, by_user.served, "no answer")
    labelled = tables.keep("served", by_user.select("user", "g", label=label))
    found = []
    for metric in metrics:
        whole = metric.whole.filter(~tables.out_of(metric.whole.cell))
        once = whole.group_by("user", "g").aggregate(
            y=whole.y.max() if metric.rule.binary else whole.y.sum(), z=whole.z.sum()
        )
        table = once.inner_join(labelled, ["user", "g"])
        of = table.z.sum() if metric.rule.estimator is Estimator.RATIO else table.count().cast("float64")
        rows = fetched_rows(table.group_by("label", "g").aggregate(users=table.count(), y=table.y.sum(), of=of))
        sizes: Counter[str] = Counter()
        for row in rows:
            sizes[row["label"]] += row["users"]
        labels = sorted(sizes, key=lambda label: (-sizes[label], label))
        slices = described(rows, labels[:MOST_VALUES], tables.groups)
        name = "what answered (not randomised)"
        found.append(Breakdown("served", name, metric.rule.name, slices, len(labels[MOST_VALUES:])))
    return found


def _different_users(tables: Tables, table: ir.Table, slices: int) -> NDArray[np.int64]:
    """How many different users who count each slice has of each group: int[slices, groups]."""
    kept = table.filter(~tables.out_of(table.cell))
    found = np.zeros((slices, len(tables.groups)), dtype=np.int64)
    for row in fetched_rows(kept.group_by("slice", "g").aggregate(users=kept.user.nunique())):
        found[row["slice"], row["g"]] = row["users"]
    return found
