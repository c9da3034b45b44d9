"""What each user did in an allocation: visits, with a row or several for each look, and units, with one in all."""

from functools import partial
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np

from abfleet_analysis.evidence.layout import Layout
from abfleet_analysis.evidence.thresholds import Thresholds
from abfleet_analysis.storage.storage import Storage, Values

COUNTED: Final = ("answered", "error", "fell_back", "timed")
"""What is counted of calls; beside them slow ones, by threshold."""
SLOW: Final = "slow_"
"""How columns of slow calls begin; a threshold's number follows."""
GROUPS_IN_NUMBER: Final = 128
"""More than an experiment may have groups: a time and a group make one number, the least of which has the first's."""


def visits_of(storage: Storage, calls: ir.Table, points: Thresholds | None, layout: Layout) -> ir.Table:
    """What each user did, in a row for each call or, where that is less, for each look."""
    visits = of_calls(calls, points, layout)
    if layout.by_look:
        visits = storage.keep_counts("kept_visits", visits, counted_in(visits), partial(by_look, visits, layout))
    return visits if layout.timed else visits.mutate(time_sum=ibis.literal(0.0))


def of_calls(calls: ir.Table, points: Thresholds | None, layout: Layout) -> ir.Table:
    """What each call adds to what its user did, with `start`: its time and group in one number.

    The least of such numbers has the first call's group. points: What a slow response takes longer than, in ms; each
    gives a column of its own, filled for the groups that have it at any time. None where nobody asks.
    """
    slow = {}
    for number, point in enumerate(points.values if points is not None else ()):
        # Not one comparison with a case of numbers: DuckDB takes these for decimals, and converts them row by row.
        mine = np.flatnonzero((points.index == number).any(axis=0)).tolist() if points is not None else []
        of_group = ibis.or_(*(calls.g == group for group in mine))
        slow[f"{SLOW}{number}"] = (calls.timed & of_group & (calls.latency_ms > float(point))).cast("int32")
    times = {"time_sum": ibis.ifelse(calls.timed, calls.latency_ms, 0.0)} if layout.timed else {}
    return calls.select(
        "user",
        "period",
        "look",
        "bucket",
        "g",
        start=calls["at"] * GROUPS_IN_NUMBER + calls.g,
        **{name: calls[name].cast("int32") for name in COUNTED},
        **slow,
        **times,
    )


def counted_in(visits: ir.Table) -> list[str]:
    """The columns of visits with numbers of calls."""
    return [name for name in visits.columns if name in COUNTED or name.startswith(SLOW)]


def by_look(visits: ir.Table, layout: Layout, counts: Values) -> ir.Table:
    """One row for each user, allocation and look, with how many `calls` there were, and the group of the first as `g`.

    The only allocation is no part of the key, which is what grouping costs. counts: Further columns of sums.
    """
    more = dict(counts)
    if layout.ramped:
        more["bucket"] = visits.bucket.max()  # a user has one under one salt
    if "time_sum" in visits.columns:
        more["time_sum"] = visits.time_sum.sum()
    table = visits.group_by("user", *(["period"] if layout.ramped else []), "look").aggregate(
        start=visits.start.min(), lowest=visits.g.min(), highest=visits.g.max(), calls=visits.count(), **more
    )
    table = table.mutate(g=group_of(table.start), two_groups=table.lowest != table.highest)
    if not layout.ramped:
        table = table.mutate(period=ibis.literal(0, "int32"), bucket=ibis.null("int32"))
    return table.drop("lowest", "highest")


def group_of(start: ir.IntegerValue) -> ir.IntegerValue:
    """The group in a number that has a time and a group."""
    return (start % GROUPS_IN_NUMBER).cast("int32")


def units_of(visits: ir.Table, layout: Layout) -> ir.Table:
    """One row for each user and allocation, from what each did there.

    `g` is the group of the first exposure, `calls` how many there were, `entry` whether it is the user's first
    allocation under this salt, and `two_groups` whether the user was served in more than one group of the allocation.
    """
    two = visits.g.min() != visits.g.max()
    table = visits.group_by("user", *(["period"] if layout.ramped else [])).aggregate(
        start=visits.start.min(),
        bucket=visits.bucket.argmin(visits.start) if layout.ramped else ibis.null("int32"),
        two_groups=visits.two_groups.any() | two if "two_groups" in visits.columns else two,
        calls=visits.calls.sum() if "calls" in visits.columns else visits.count(),
    )
    if not layout.ramped:
        table = table.mutate(period=ibis.literal(0, "int32"))
    group = group_of(table.start)
    table = table.mutate(g=group, first=((table.start - group) / GROUPS_IN_NUMBER).cast("int64")).drop("start")
    if not layout.ramped:
        return table.mutate(entry=ibis.literal(1, "int32"))
    # A new salt deals users anew; the log has no salt in an exposure, but then a user's bucket is another one.
    rank = ibis.row_number().over(
        group_by=[table.user, table.bucket.fill_null(-1)], order_by=[table["first"], table.period]
    )
    return table.mutate(entry=(rank == 0).cast("int32"))
