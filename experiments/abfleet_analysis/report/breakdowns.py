"""The primary metric among parts of the users: by logged attribute, by time since the first exposure, by what answered.

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
class PrimaryMetricSums:
    """What users did, of the primary metric.

    Attributes:
        by_look: y and z of each user, allocation and look that has any. whole: The same over all looks.
        membership: float64[strata, cells], who counts at the moment of the report.
        negative: Whether a user's y may be below 0.
    """

    rule: MetricRule
    by_look: ir.Table
    whole: ir.Table
    membership: Floats
    negative: bool


def breakdowns(tables: Tables, membership: Floats) -> tuple[Breakdown, ...]:
    """Every breakdown of an experiment. membership: float64[strata, cells], of the report's moment."""
    rule = next(rule for rule in tables.rules if rule.role == "primary")
    if rule.source is MetricSource.TIME_QUANTILE:
        return ()
    primary = _primary(tables, rule, membership)
    return (*_by_attribute(tables, primary), *_by_day(tables, primary), _by_served(tables, primary))


def _primary(tables: Tables, rule: MetricRule, membership: Floats) -> PrimaryMetricSums:
    found = contributed(replace(tables, rules=(rule,)), OutcomeProblems(), history=False)
    table, value = found.table, found.values[rule.name]
    columns = [value.y] if value.z is None else [value.y, value.z]
    keys = ["user", "period", "cell", "g"]
    added = {c: table[c].sum() for c in columns}
    by_look = tables.keep("primary_by_look", table.group_by(*keys, "look").aggregate(**added))
    whole = tables.keep("primary_whole", _user_values(by_look, value, keys))
    return PrimaryMetricSums(rule, _user_values(by_look, value, [*keys, "look"]), whole, membership, value.negative)


def _user_values(table: ir.Table, value: Value, keys: Sequence[str]) -> ir.Table:
    """y and z of the rows with the same keys."""
    total = table[value.y].sum().cast("float64")
    y = total if value.cap is None else ibis.least(total, ibis.literal(value.cap))
    y = (total > 0).cast("float64") if value.any else y
    z = ibis.literal(0.0)
    if value.z is not None:
        z = table[value.z].sum().cast("float64")
    return table.group_by(*keys).aggregate(y=y, z=z)


def _moments(tables: Tables, table: ir.Table, slices: int) -> Moments:
    shape = Shape(slices, tables.shape.cells, tables.shape.groups)
    return slice_moments(table, shape, several_allocations=len(tables.allocations) > 1)


# --- by attribute -----------------------------------------------------------------------------------------------------


def _by_attribute(tables: Tables, primary: PrimaryMetricSums) -> list[Breakdown]:
    exposures = tables.exposures.mutate(attributes=tables.exposures.attributes.fill_null("{}"))
    # An empty map is kept: a user whose first call had no attribute gets none from a later one.
    firsts = exposures.group_by("user").aggregate(attributes=exposures.attributes.argmin(exposures["at"]))
    named = firsts.filter(firsts.attributes != "{}").mutate(attributes=ibis._.attributes.cast("json").map)
    named = named.mutate(name=named.attributes.keys().unnest())
    named = named.mutate(value=named.attributes[named.name].str).filter(ibis._.value.notnull())
    named = named.select("user", "name", "value").semi_join(primary.whole, "user")
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
    sliced = values.inner_join(index, ["name", "value"]).select("user", "slice")
    table = primary.whole.inner_join(sliced, "user")
    moments = _moments(tables, table, len(rows))
    users = _different_users(tables, table, len(rows)) if len(tables.allocations) > 1 else None
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [position for position, row in enumerate(rows) if row["name"] == name]
        labels = [rows[position]["value"] for position in mine]
        shown = compared(
            some_slices(moments, mine),
            primary.membership,
            labels,
            tables.groups,
            estimator=primary.rule.estimator,
            negative=primary.negative,
            users=None if users is None else users[mine],
        )
        found.append(Breakdown("attribute", name, primary.rule.name, shown, rows[mine[0]]["of"] - len(mine)))
    return found


# --- by time since the first exposure ---------------------------------------------------------------------------------


def _by_day(tables: Tables, primary: PrimaryMetricSums) -> list[Breakdown]:
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
    acted = primary.by_look.inner_join(entries.select("user", "period", "begin"), ["user", "period"])
    until = ibis.cases(*((acted.period == index, int(limit)) for index, limit in enumerate(last)), else_=-1)
    acted = acted.mutate(slice=acted.look - acted.begin).filter(acted.look <= until)
    sums_of = _moments(tables, acted.filter(acted.slice >= 0, acted.slice < shown), shown)
    moments = from_sums([n, *sums_of.sums()[1:]])  # who did nothing that day counts too
    estimator = Estimator.RATIO if primary.rule.estimator is Estimator.RATIO else Estimator.MEAN
    unit, name = _unit(timedelta(microseconds=looks.look_us))
    labels = [f"{unit} {day}" for day in range(shown)]
    slices = compared(
        moments, primary.membership, labels, tables.groups, estimator=estimator, negative=primary.negative
    )
    return [Breakdown("day", name, primary.rule.name, slices, days - shown)]


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


def _by_served(tables: Tables, primary: PrimaryMetricSums) -> Breakdown:
    """By the version that answered a user in a group; with a fallback, by the first one. Not randomised.

    A user has one label in a group, so that the users of its labels are those of the group.
    """
    whole = primary.whole.filter(~tables.out_of(primary.whole.cell))
    names, counting = tables.exposures, whole.select("user", "period", "g").distinct()
    calls = names.mutate(
        period=index_of(names.allocation, [one.id for one in tables.allocations]),
        fell=names.served_version.fill_null("no answer") + " (fallback: " + names.fallback + ")",
    ).select("user", "period", "at", "fell", "served_version")
    calls = calls.inner_join(counting, ["user", "period"])
    by_user = calls.group_by("user", "g").aggregate(
        fell=calls.fell.argmin(calls["at"], where=calls.fell.notnull()),
        served=calls.served_version.argmin(calls["at"], where=calls.served_version.notnull()),
    )
    labelled = by_user.select("user", "g", label=ibis.coalesce(by_user.fell, by_user.served, "no answer"))
    once = whole.group_by("user", "g").aggregate(
        y=whole.y.max() if primary.rule.binary else whole.y.sum(), z=whole.z.sum()
    )
    table = tables.keep("served", once.inner_join(labelled, ["user", "g"]))
    ratio = primary.rule.estimator is Estimator.RATIO
    rows = fetched_rows(
        table.group_by("label", "g").aggregate(
            users=table.count(), y=table.y.sum(), of=table.z.sum() if ratio else table.count().cast("float64")
        )
    )
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row["label"]] += row["users"]
    labels = sorted(sizes, key=lambda label: (-sizes[label], label))
    slices = described(rows, labels[:MOST_VALUES], tables.groups)
    return Breakdown("served", "what answered (not randomised)", primary.rule.name, slices, len(labels[MOST_VALUES:]))


def _different_users(tables: Tables, table: ir.Table, slices: int) -> NDArray[np.int64]:
    """How many different users who count each slice has of each group: int[slices, groups]."""
    kept = table.filter(~tables.out_of(table.cell))
    found = np.zeros((slices, len(tables.groups)), dtype=np.int64)
    for row in fetched_rows(kept.group_by("slice", "g").aggregate(users=kept.user.nunique())):
        found[row["slice"], row["g"]] = row["users"]
    return found
