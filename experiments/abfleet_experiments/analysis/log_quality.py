"""What a report says of the data beside its metrics: who was left out and why, and each group's calls."""

from dataclasses import dataclass
from datetime import timedelta

import ibis
import numpy as np

from abfleet_experiments.analysis import cells as cells_of
from abfleet_experiments.analysis import frames, sums
from abfleet_experiments.analysis.backends import fetched_one, fetched_rows, numbers
from abfleet_experiments.analysis.contributions import OutcomeCounts, clicks_before, values_before
from abfleet_experiments.analysis.evidence import DataQuality
from abfleet_experiments.analysis.metrics import DEFAULT_WINDOW, Source
from abfleet_experiments.analysis.moments import Floats, Moments
from abfleet_experiments.analysis.periods import microseconds
from abfleet_experiments.analysis.sums import Shape, arrow
from abfleet_experiments.analysis.tables import Tables


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What a report says of a group beside its metrics: of users who count, and of all its calls."""

    name: str
    model_version: str | None
    users: int
    exposures: int
    fallbacks: int
    errors: int


def quality(tables: Tables, counted: OutcomeCounts) -> DataQuality:
    """What was left out, joined and moved, at the moment of the report."""
    synthetic, overrides = frames.left_out_lines(tables.lines, tables.name)
    units = tables.units
    out = np.flatnonzero(cells_of.left_out(tables.cells, tables.looks.times[-1])).tolist()
    open_after = microseconds(tables.as_of) - DEFAULT_WINDOW // timedelta(microseconds=1)
    by_user = units.group_by("user").aggregate(
        two=(units.two_groups.any() | ((units.g.min() != units.g.max()) & units.strange.any())),
        moved=units.cell.isin(out).any() if out else ibis.literal(False),
        open=(units["first"] > open_after).any(),
    )
    row = fetched_rows(by_user.aggregate(
        users=by_user.count(),
        two=by_user.two.cast("int64").sum(),
        moved=by_user.moved.cast("int64").sum(),
        open=by_user.open.cast("int64").sum(),
    ))[0]  # fmt: skip
    joined, unjoined, total = _unjoined(tables)
    return DataQuality(
        lines=tables.lines.lines,
        unreadable=tables.lines.unreadable,
        duplicates=tables.lines.duplicates,
        synthetic=synthetic,
        overrides=overrides,
        no_user_id=tables.lines.no_user_id,
        holdout=tables.lines.holdout,
        users=int(row["users"]),
        users_in_two_groups=int(row["two"] or 0),
        moved_by_ramp=int(row["moved"] or 0),
        unjoined_outcomes=total,
        open_windows=int(row["open"] or 0),
        duplicate_outcomes=tables.lines.duplicate_outcomes,
        clicks_not_in_list=counted.clicks_not_in_list,
        other_currencies=counted.other_currencies,
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
    if rule.source not in (Source.CLICKS, Source.OUTCOME_VALUE, Source.OUTCOME_COUNT, Source.OUTCOME_ANY):
        return None
    if not tables.any_before():
        return None
    starts = tables.keep("starts", tables.starts())
    if rule.source is Source.CLICKS:
        table = clicks_before(tables.lines, starts).rename(y="clicked", z="answered")
    else:
        table = values_before(tables.lines, starts, rule, None).rename(y="before").mutate(z=0.0)
    table = starts.left_join(table, "user").select("user", "period", "g", "y", "z")
    if rule.source is Source.CLICKS:  # who had no call then says nothing of clicks over calls
        table = table.filter(table.z > 0)
    table = table.mutate(y=table.y.fill_null(0.0), z=table.z.fill_null(0.0), look=0, cell=table.period, entered=1)
    changed = table.mutate(
        m_y=table.y, m_z=table.z, m_yy=table.y * table.y, m_yz=table.y * table.z, m_zz=table.z * table.z,
        m_nonzero=(table.y != 0).cast("float64"),
    )  # fmt: skip
    moments = sums.moments(changed, ["m"], Shape(1, len(tables.found), len(tables.groups)))["m"]
    return moments if moments.y.sum() else None


def group_facts(tables: Tables) -> tuple[GroupFacts, ...]:
    """Users who count, calls, fallbacks and errors of each group."""
    units = tables.units
    visits = tables.visits.mutate(g=frames.first_group(tables.visits))
    lines = arrow(visits.group_by("g").aggregate(
        calls=visits.calls.sum(), errors=visits.error.sum(), fallbacks=visits.fell_back.sum()
    ))  # fmt: skip
    out = np.flatnonzero(cells_of.left_out(tables.cells, tables.looks.times[-1])).tolist()
    counting = units.filter(~units.cell.isin(out)) if out else units
    users = arrow(counting.group_by("g").aggregate(n=counting.user.nunique()))
    versions = tables.exposures.filter(tables.exposures.model_version.notnull())
    versions = versions.group_by("group", "model_version").aggregate(newest=versions["at"].max())
    newest = sorted(fetched_rows(versions), key=lambda row: row["newest"])
    named = {row["group"]: row["model_version"] for row in newest}
    of_users = dict(zip(users["g"].to_pylist(), users["n"].to_pylist(), strict=True))
    of_lines = {
        g: rest for g, *rest in zip(*(lines[c].to_pylist() for c in ("g", "calls", "fallbacks", "errors")), strict=True)
    }
    return tuple(
        GroupFacts(name, named.get(name), of_users.get(g, 0), *(int(n) for n in of_lines.get(g, (0, 0, 0))))
        for g, name in enumerate(tables.groups)
    )
