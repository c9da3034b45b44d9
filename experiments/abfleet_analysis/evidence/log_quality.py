"""What a report says of the data beside its metrics: who was left out and why, and each group's calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_statistics.moments import Floats, Moments

from abfleet_analysis.decision.evidence import DataQuality
from abfleet_analysis.decision.metrics import DEFAULT_WINDOW, MetricSource
from abfleet_analysis.evidence import sums
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.outcomes import clicks_before, values_before
from abfleet_analysis.evidence.sums import Shape
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.periods.allocation_periods import microseconds
from abfleet_analysis.storage.fetching import columns_of, fetched_one, fetched_rows


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What a report says of a group beside its metrics.

    Attributes:
        users: Different ones who count: in buckets that kept their group. exposures, fallbacks, errors: Their calls.
        ever: Different users who were ever in the group, also in buckets that have moved.
    """

    name: str
    model_version: str | None
    users: int
    exposures: int
    fallbacks: int
    errors: int
    ever: int = 0


def quality(tables: Tables) -> DataQuality:
    """What was left out, joined and moved, at the moment of the report; without what only metrics find."""
    lines, units = tables.lines, tables.units
    open_after = microseconds(tables.as_of) - DEFAULT_WINDOW // timedelta(microseconds=1)
    moved = tables.moved()
    late = units["first"] > open_after
    if len(tables.allocations) == 1:
        by_user = units.select(two=units.two_groups, moved=moved, gone=moved, open=late)
    else:
        by_user = units.group_by("user").aggregate(
            two=(units.two_groups.any() | ((units.g.min() != units.g.max()) & units.strange.any())),
            moved=moved.any(),
            gone=moved.all(),
            open=late.any(),
        )
    row = fetched_rows(
        by_user.aggregate(
            users=by_user.count(),
            two=by_user.two.cast("int64").sum(),
            moved=by_user.moved.cast("int64").sum(),
            gone=by_user.gone.cast("int64").sum(),
            open=by_user.open.cast("int64").sum(),
        )
    )[0]
    joined, unjoined = _unjoined(tables)
    return replace(
        quality_of_lines(lines, tables.name),
        users=int(row["users"]),
        users_in_two_groups=int(row["two"] or 0),
        moved_by_ramp=int(row["moved"] or 0),
        not_compared=int(row["gone"] or 0),
        open_windows=int(row["open"] or 0),
        routers_off=lines.clocks.off.get(tables.name, ()),
        unknown_allocation=_of_unknown_allocations(tables),
        joined=joined,
        unjoined=unjoined,
        before=_before(tables),
    )


def _of_unknown_allocations(tables: Tables) -> int:
    """Calls of allocations that the report does not know."""
    known = {one.id for one in tables.allocations}
    return sum(row["n"] for row in tables.lines.calls.allocated(tables.name) if row["allocation"] not in known)


def quality_of_lines(lines: LogTables, name: str) -> DataQuality:
    """What is known without an experiment's users."""
    synthetic, overrides = lines.calls.left_out(name)
    return DataQuality(
        lines=lines.survey.lines + lines.clocks.lines,
        unreadable=lines.survey.unreadable,
        duplicates=lines.duplicates,
        synthetic=synthetic,
        overrides=overrides,
        no_user_id=lines.calls.no_user_id,
        holdout=lines.survey.holdout,
        pinned=lines.survey.pinned,
        unjoined_outcomes=int(fetched_one(lines.missing.count())),
        duplicate_outcomes=lines.duplicate_outcomes,
        conflicting_outcomes=lines.conflicting_outcomes,
        unusable_values=lines.unusable,
        wrong_clock=lines.clocks.lines,
        wrong_clock_routers=lines.clocks.routers,
    )


def _unjoined(tables: Tables) -> tuple[Floats, Floats]:
    """Users of each group whose outcomes have requests that are in the log, and are not.

    A request that is lost may have had many outcomes, and a client that names wrong ones names many: users count once.
    An outcome from before the experiment's first call is of no call that the log should have.
    """
    found, missing = tables.lines.joined, tables.lines.missing
    missing = missing.filter(missing["at"] >= microseconds(tables.allocations[0].begin))
    named = found.select(user=found.x_user, lost=ibis.literal(0)).union(
        missing.select("user", lost=ibis.literal(1)), distinct=False
    )
    placed = named.inner_join(tables.starts().select("user", "g"), "user")
    users = placed.group_by("user").aggregate(g=placed.g.max(), lost=placed.lost.max())
    columns = columns_of(users.group_by("g").aggregate(n=users.count(), lost=users.lost.sum()))
    counts = np.zeros((2, len(tables.groups)))
    counts[:, columns["g"].astype(np.int64)] = columns["n"], columns["lost"]
    everyone, lost = counts
    return everyone - lost, lost


def _before(tables: Tables) -> Moments | None:
    """The primary metric before each user's first exposure: [times, periods, groups]."""
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
    starts = tables.keep("starts", tables.exposed())
    if rule.source is MetricSource.CLICKS:
        table = clicks_before(tables.lines, starts).rename(y="clicked", z="answered")
    else:
        table = values_before(tables.lines, starts, rule).rename(y="before").mutate(z=0.0)
    table = starts.left_join(table, "user").select("user", "first", "period", "g", "y", "z")
    if rule.source is MetricSource.CLICKS:  # who had no call then says nothing of clicks over calls
        table = table.filter(table.z > 0)
    shape = Shape(tables.shape.times, len(tables.allocations), len(tables.groups))
    place = (tables.looks.index(table["first"]) * shape.cells + table.period) * shape.groups + table.g
    table = table.mutate(y=table.y.fill_null(0.0), z=table.z.fill_null(0.0), place=place, entered=1)
    changed = table.mutate(
        m_y=table.y,
        m_z=table.z,
        m_yy=table.y * table.y,
        m_yz=table.y * table.z,
        m_zz=table.z * table.z,
        m_nonzero=(table.y != 0).cast("float64"),
        **({} if rule.binary else _third(table.y, table.z)),
    )
    moments = sums.moments(changed, ["m"], shape)["m"]
    return moments if moments.y[-1].sum() else None


def _third(y: ir.NumericValue, z: ir.NumericValue) -> dict[str, ir.Value]:
    return {"m_yyy": y * y * y, "m_yyz": y * y * z, "m_yzz": y * z * z, "m_zzz": z * z * z}


def group_facts(tables: Tables) -> tuple[GroupFacts, ...]:
    """Users who count and their calls, fallbacks and errors, and all users who were ever in the group."""
    units = tables.units
    rows = sorted(tables.lines.calls.allocated(tables.name), key=lambda row: row["newest"])
    versions = {row["group"]: row["model_version"] for row in rows if row["model_version"] is not None}
    if len(tables.allocations) == 1:
        users = columns_of(units.group_by("g").aggregate(users=units.count()))
        counted = dict(zip(users["g"].tolist(), users["users"].tolist(), strict=True))
        found = [_facts_of_calls(rows, tables, name, counted.get(g, 0)) for g, name in enumerate(tables.groups)]
    else:
        found = _facts_over_a_ramp(tables)
    return tuple(replace(one, model_version=versions.get(one.name)) for one in found)


def _facts_of_calls(rows: Sequence[Mapping[str, Any]], tables: Tables, group: str, users: int) -> GroupFacts:
    compared = {found.id for found in tables.allocations}
    mine = [row for row in rows if row["group"] == group and row["allocation"] in compared]
    return GroupFacts(
        group,
        None,
        users,
        sum(row["n"] for row in mine),
        fallbacks=sum(row["n"] for row in mine if row["fallback"] is not None),
        errors=sum(row["n"] for row in mine if row["error"]),
        ever=users,
    )


def _facts_over_a_ramp(tables: Tables) -> list[GroupFacts]:
    """Without calls of users from before their bucket moved."""
    units, moved = tables.units, tables.moved()
    users = units.group_by("g").aggregate(users=units.user.nunique(where=~moved), ever=units.user.nunique())
    kept = tables.visits.filter(~tables.out_of(tables.visits.cell))
    calls = kept.group_by("g").aggregate(calls=kept.calls.sum(), fell=kept.fell_back.sum(), failed=kept.error.sum())
    of_users = {row["g"]: row for row in fetched_rows(users)}
    of_calls = {row["g"]: row for row in fetched_rows(calls)}
    none: Mapping[str, int] = {}
    return [
        GroupFacts(
            name,
            None,
            of_users.get(g, none).get("users", 0),
            int(of_calls.get(g, none).get("calls", 0)),
            fallbacks=int(of_calls.get(g, none).get("fell", 0)),
            errors=int(of_calls.get(g, none).get("failed", 0)),
            ever=of_users.get(g, none).get("ever", 0),
        )
        for g, name in enumerate(tables.groups)
    ]
