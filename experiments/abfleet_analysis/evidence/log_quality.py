"""What a report says of the data beside its metrics: who was left out and why, and each group's calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ibis
import numpy as np
from abfleet_statistics.moments import Floats, Moments

from abfleet_analysis.decision.evidence import DataQuality
from abfleet_analysis.decision.metrics import DEFAULT_WINDOW, MetricSource
from abfleet_analysis.evidence import sums
from abfleet_analysis.evidence.allocation_periods import microseconds
from abfleet_analysis.evidence.contributions import clicks_before, values_before
from abfleet_analysis.evidence.sums import Shape, arrow
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.reading.databases import fetched_one, fetched_rows, numbers


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What a report says of a group beside its metrics: of users who count, and of all its calls."""

    name: str
    model_version: str | None
    users: int
    exposures: int
    fallbacks: int
    errors: int


def quality(tables: Tables) -> DataQuality:
    """What was left out, joined and moved, at the moment of the report; without what only metrics find."""
    lines, units = tables.lines, tables.units
    synthetic, overrides = lines.calls.left_out(tables.name)
    open_after = microseconds(tables.as_of) - DEFAULT_WINDOW // timedelta(microseconds=1)
    moved = tables.moved()
    late = units["first"] > open_after
    if len(tables.allocations) == 1:
        by_user = units.select(two=units.two_groups, moved=moved, open=late)
    else:
        by_user = units.group_by("user").aggregate(
            two=(units.two_groups.any() | ((units.g.min() != units.g.max()) & units.strange.any())),
            moved=moved.any(),
            open=late.any(),
        )
    row = fetched_rows(
        by_user.aggregate(
            users=by_user.count(),
            two=by_user.two.cast("int64").sum(),
            moved=by_user.moved.cast("int64").sum(),
            open=by_user.open.cast("int64").sum(),
        )
    )[0]
    joined, unjoined, total = _unjoined(tables)
    return DataQuality(
        lines=lines.survey.lines,
        unreadable=lines.survey.unreadable,
        duplicates=lines.duplicates,
        synthetic=synthetic,
        overrides=overrides,
        no_user_id=lines.calls.no_user_id,
        holdout=lines.survey.holdout,
        users=int(row["users"]),
        users_in_two_groups=int(row["two"] or 0),
        moved_by_ramp=int(row["moved"] or 0),
        unjoined_outcomes=total,
        open_windows=int(row["open"] or 0),
        duplicate_outcomes=lines.duplicate_outcomes,
        unusable_values=lines.unusable,
        joined=joined,
        unjoined=unjoined,
        before=_before(tables),
    )


def _unjoined(tables: Tables) -> tuple[Floats, Floats, int]:
    """Outcomes of each group's users whose request is in the log, and is not; and all that are not."""
    found, missing = tables.lines.joined, tables.lines.missing
    starts = tables.starts()
    result = []
    for table, column in ((found, "x_user"), (missing, "user")):
        users = table.select(user=table[column]).inner_join(starts.select("user", "g"), "user")
        columns = arrow(users.group_by("g").aggregate(n=ibis._.count()))
        counts = np.zeros(len(tables.groups))
        counts[numbers(columns["g"]).astype(np.int64)] = numbers(columns["n"])
        result.append(counts)
    return result[0], result[1], int(fetched_one(missing.count()))


def _before(tables: Tables) -> Moments | None:
    """The primary metric before each user's first exposure: [1, periods, groups]."""
    rule = next(rule for rule in tables.rules if rule.role == "primary")
    if rule.source not in (
        MetricSource.CLICKS,
        MetricSource.OUTCOME_VALUE,
        MetricSource.OUTCOME_COUNT,
        MetricSource.OUTCOME_ANY,
    ):
        return None
    if not tables.any_before():
        return None
    starts = tables.keep("starts", tables.starts())
    if rule.source is MetricSource.CLICKS:
        table = clicks_before(tables.lines, starts).rename(y="clicked", z="answered")
    else:
        table = values_before(tables.lines, starts, rule, None).rename(y="before").mutate(z=0.0)
    table = starts.left_join(table, "user").select("user", "period", "g", "y", "z")
    if rule.source is MetricSource.CLICKS:  # who had no call then says nothing of clicks over calls
        table = table.filter(table.z > 0)
    place = table.period * len(tables.groups) + table.g
    table = table.mutate(y=table.y.fill_null(0.0), z=table.z.fill_null(0.0), place=place, entered=1)
    changed = table.mutate(
        m_y=table.y,
        m_z=table.z,
        m_yy=table.y * table.y,
        m_yz=table.y * table.z,
        m_zz=table.z * table.z,
        m_nonzero=(table.y != 0).cast("float64"),
    )
    moments = sums.moments(changed, ["m"], Shape(1, len(tables.allocations), len(tables.groups)))["m"]
    return moments if moments.y.sum() else None


def group_facts(tables: Tables) -> tuple[GroupFacts, ...]:
    """Users who count, calls, fallbacks and errors of each group."""
    units = tables.units
    counting = units.filter(~tables.moved())
    different = counting.count() if len(tables.allocations) == 1 else counting.user.nunique()
    users = arrow(counting.group_by("g").aggregate(n=different))
    of_users = dict(zip(users["g"].to_pylist(), users["n"].to_pylist(), strict=True))
    rows = sorted(tables.lines.calls.allocated(tables.name), key=lambda row: row["newest"])
    versions = {row["group"]: row["model_version"] for row in rows if row["model_version"] is not None}
    compared = {found.id for found in tables.allocations}

    def calls(group: str, wanted: Callable[[Mapping[str, Any]], bool] = lambda row: True) -> int:
        mine = (row for row in rows if row["group"] == group and row["allocation"] in compared)
        return sum(row["n"] for row in mine if wanted(row))

    return tuple(
        GroupFacts(
            name,
            versions.get(name),
            of_users.get(g, 0),
            calls(name),
            fallbacks=calls(name, lambda row: row["fallback"] is not None),
            errors=calls(name, lambda row: row["error"]),
        )
        for g, name in enumerate(tables.groups)
    )
