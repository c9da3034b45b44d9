"""One experiment's tables: its calls, visits and users, each user with a cell. Ibis expressions and small queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import AnalysisPlan

from abfleet_analysis.decision.metrics import DEFAULT_WINDOW, MetricRule, MetricSource
from abfleet_analysis.evidence import cells as cells_of
from abfleet_analysis.evidence import log_lines, packed_counts
from abfleet_analysis.evidence.allocation_periods import LoggedAllocation, Looks, looks_until, microseconds
from abfleet_analysis.evidence.bucket_maps import bucket_map
from abfleet_analysis.evidence.cells import UNKNOWN, AllocationPeriod, Cells, Newcomers
from abfleet_analysis.evidence.deployment import Deployment
from abfleet_analysis.evidence.exclusion import Exclusion
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.response_times import histogram, quantile_points
from abfleet_analysis.evidence.succession import dealt, in_force
from abfleet_analysis.evidence.sums import Shape, arrow
from abfleet_analysis.evidence.thresholds import Thresholds
from abfleet_analysis.reading import databases
from abfleet_analysis.reading.databases import fetched_one, fetched_rows, numbers

if TYPE_CHECKING:
    from ibis.backends import BaseBackend

COUNTED: Final = ("answered", "error", "fell_back", "timed")
"""What is counted of calls; beside them slow ones, by threshold."""
SLOW: Final = "slow_"
"""How columns of slow calls begin; a threshold's number follows."""
OFTEN: Final = 4.0
"""Calls of a user in a look, on average, from which on adding them up first takes less time."""
UNKNOWN_DEPLOYMENT: Final = Deployment()
SAMPLED: Final = 64
"""One user in so many says how many calls there are; a power of two."""
FEW_CALLS: Final = 4000
"""Of up to so many calls, a query costs more than the rows that it may leave out."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything of one experiment that expressions start from.

    Attributes:
        exposures: The ones that count. calls: The same in numbers, with what became of each and their look.
        visits: What each user did in an allocation and a look, in one row or several. units: One row for each user and
            allocation. Both with the user's cell and group.
        times: The histogram of response times by look, cell and group; None if no metric needs it.
        slow: What a slow call takes longer than; None likewise.
        exclusion: What is in none of these because its time is excluded; None where nothing is.
    """

    lines: LogTables
    name: str
    groups: tuple[str, ...]
    allocations: tuple[LoggedAllocation, ...]
    rules: tuple[MetricRule, ...]
    as_of: datetime
    exposures: ir.Table
    calls: ir.Table
    looks: Looks
    times: ir.Table | None
    slow: Thresholds | None
    visits: ir.Table
    units: ir.Table
    cells: Cells
    shape: Shape
    deployment: Deployment
    exclusion: Exclusion | None = None

    @property
    def began(self) -> datetime:
        """The experiment's first call, whether it counts or not."""
        return began(self.allocations, self.exclusion)

    def keep(self, name: str, table: ir.Table | pa.Table) -> ir.Table:
        """Computes a table once and stores it under a name, in the database that holds the log."""
        return databases.keep(self.lines.log.connection, name, table)

    def entering(self) -> ir.Table:
        """The units with the look that first knows of them."""
        return self.units.mutate(look=self.looks.index(self.units["first"]))

    def starts(self) -> ir.Table:
        """Each user's first exposure in the experiment, and where it was."""
        if len(self.allocations) == 1:
            return self.units.select("user", "first", "g", "period")
        entering = self.units.filter(self.units.entry == 1)
        return entering.group_by("user").aggregate(
            first=entering["first"].min(),
            g=entering.g.argmin(entering["first"]),
            period=entering.period.argmin(entering["first"]),
        )

    def exposed(self) -> ir.Table:
        """As `starts`, with the first exposure of all, so that nothing after one that is left out was before."""
        starts = self.starts()
        if self.exclusion is None:
            return starts
        every = self.exclusion.every_call
        earliest = every.group_by("user").aggregate(earliest=every["at"].min())
        joined = starts.inner_join(earliest, "user")
        return joined.select("user", "g", "period", first=joined.earliest)

    def moved(self) -> ir.BooleanValue:
        """Of each unit, whether its bucket has moved, so that it does not count any more.

        A column even where none has: a database has no `any` of a constant.
        """
        return self.out_of(self.units.cell)

    def out_of(self, cell: ir.IntegerValue) -> ir.BooleanValue:
        """The same of a column of cells."""
        out = np.flatnonzero(cells_of.left_out(self.cells, self.looks.times[-1])).tolist()
        return cell.isin(out or [UNKNOWN])

    def few_calls(self) -> bool:
        """Whether a query costs more than the rows that it may leave out."""
        return _few(self.lines, self.name)

    def any_before(self) -> bool:
        """Whether the log has anything from before the experiment began."""
        earliest = self.lines.survey.oldest
        return earliest is not None and earliest < microseconds(self.began)


def began(allocations: Sequence[LoggedAllocation], exclusion: Exclusion | None) -> datetime:
    """When an experiment began; excluding its beginning moves no look."""
    return min(one.begin for one in allocations) if exclusion is None else exclusion.began


def tables_of(
    lines: LogTables,
    name: str,
    groups: tuple[str, ...],
    allocations: Sequence[LoggedAllocation],
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
    *,
    ordered: bool = True,
    deployment: Deployment = UNKNOWN_DEPLOYMENT,
    exclusion: Exclusion | None = None,
) -> Tables:
    """The tables of an experiment that somebody was in; lines and allocations are without what is excluded.

    ordered: Whether the treatments among the groups are in the file's order.
    """
    connection, ramped = lines.log.connection, len(allocations) > 1
    exposures = log_lines.allocated(lines, name)
    looks = looks_until(began(allocations, exclusion), as_of, plan)
    calls = log_lines.calls(exposures, groups, [one.id for one in allocations])
    calls = databases.view(connection, "calls", calls.mutate(look=looks.index(calls["at"])))
    times = points = None
    if any(rule.source is MetricSource.TIME_QUANTILE for rule in rules):
        times = databases.keep(connection, "times", histogram(calls, ["look", "period", "g"]))
        points = quantile_points(times, len(looks.times), len(groups))
    visits = visits_of(calls, points, timed=any(rule.source is MetricSource.TIME_MEAN for rule in rules))
    if ramped or (
        not _few(lines, name) and _come_often(calls)
    ):  # over a ramp more is kept of each row than it takes to group
        visits = _kept_by_look(connection, visits, ramped=ramped)
    if "time_sum" not in visits.columns:
        visits = visits.mutate(time_sum=ibis.literal(0.0))
    visits = databases.view(connection, "visits", visits)
    plain = databases.keep(connection, "plain_units", log_lines.units(visits, ramped=ramped))
    window = max([DEFAULT_WINDOW, *(rule.window for rule in rules)])
    cells = _divide(plain, calls, allocations, looks, window, ordered=ordered)
    units = databases.keep(connection, "units", _with_cells(lines, plain, allocations, cells))
    alone = _follow_from_calls(units)
    visits = visits.mutate(cell=visits.period) if alone else _placed(visits.drop("g"), units)
    if times is not None and alone:
        times = times.mutate(cell=times.period)
    elif times is not None:
        times = histogram(_placed(calls.drop("g"), units), ["look", "cell", "g"])
    visits = databases.view(connection, "placed_visits", visits)
    return Tables(
        lines=lines,
        name=name,
        groups=groups,
        allocations=tuple(allocations),
        rules=tuple(rules),
        as_of=as_of,
        exposures=exposures,
        calls=calls,
        looks=looks,
        times=times,
        slow=points,
        visits=visits,
        units=units,
        cells=cells,
        shape=Shape(len(looks.times), len(cells.cells), len(groups)),
        deployment=deployment,
        exclusion=exclusion,
    )


def visits_of(calls: ir.Table, points: Thresholds | None, *, timed: bool) -> ir.Table:
    """What each call adds to what its user did, with `start`: its time and group in one number.

    The least of such numbers has the first call's group. points: What a slow response takes longer than, in ms; each
    gives a column of its own, filled for the groups that have it at any time. None where nobody asks. timed: Whether
    response times are added up.
    """
    slow = {}
    for number, point in enumerate(points.values if points is not None else ()):
        # Not one comparison with a case of numbers: DuckDB takes these for decimals, and converts them row by row.
        mine = np.flatnonzero((points.index == number).any(axis=0)).tolist() if points is not None else []
        of_group = ibis.or_(*(calls.g == group for group in mine))
        slow[f"{SLOW}{number}"] = (calls.timed & of_group & (calls.latency_ms > float(point))).cast("int32")
    times = {"time_sum": ibis.ifelse(calls.timed, calls.latency_ms, 0.0)} if timed else {}
    return calls.select(
        "user",
        "period",
        "look",
        "bucket",
        "g",
        start=calls["at"] * log_lines.GROUPS_IN_NUMBER + calls.g,
        **{name: calls[name].cast("int32") for name in COUNTED},
        **slow,
        **times,
    )


def counted_in(visits: ir.Table) -> list[str]:
    """The columns of visits with numbers of calls."""
    return [name for name in visits.columns if name in COUNTED or name.startswith(SLOW)]


def _word(visits: ir.Table) -> packed_counts.PackedWord:
    """These columns in one number."""
    names = counted_in(visits)
    return dict.fromkeys(names, packed_counts.WORD_BITS // len(names))


def _few(lines: LogTables, name: str) -> bool:
    return bool(sum(row["n"] for row in lines.calls.allocated(name)) <= FEW_CALLS)


def _come_often(calls: ir.Table) -> bool:
    """Whether users come so often within a look that adding up their calls first costs less than it saves."""
    some = calls.filter(calls.user & (SAMPLED - 1) == 0)
    visits = some.group_by("user", "look").aggregate(calls=some.count())
    row = fetched_rows(visits.aggregate(visits=visits.count(), calls=visits.calls.sum()))[0]
    return bool((row["calls"] or 0) >= OFTEN * row["visits"])


def _kept_by_look(connection: "BaseBackend", visits: ir.Table, *, ramped: bool) -> ir.Table:
    """The same in one row for each user, allocation and look, kept."""
    kept = databases.keep(connection, "kept_visits", grouped(visits, ramped=ramped))
    word = _word(visits)
    if (fetched_one(kept.calls.max()) or 0) >> min(word.values()):
        return databases.keep(connection, "kept_visits", grouped(visits, ramped=ramped, together=False))
    return kept.mutate(**packed_counts.unpacked(kept.word, word, "")).drop("word")


def grouped(visits: ir.Table, *, ramped: bool, together: bool = True) -> ir.Table:
    """One row for each user, allocation and look, with how many `calls` there were, and the group of the first as `g`.

    ramped: Whether there is more than one allocation; the only one is no part of the key, which is what grouping costs.
    together: Whether numbers of calls are in one number, `word`, which takes a third less time, but has room for few.
    """
    counts: dict[str, ir.Value] = (
        {"word": packed_counts.packed(visits, _word(visits)).sum()}
        if together
        else {name: visits[name].sum() for name in counted_in(visits)}
    )
    if ramped:
        counts["bucket"] = visits.bucket.max()  # a user has one under one salt
    if "time_sum" in visits.columns:
        counts["time_sum"] = visits.time_sum.sum()
    table = visits.group_by("user", *(["period"] if ramped else []), "look").aggregate(
        start=visits.start.min(), lowest=visits.g.min(), highest=visits.g.max(), calls=visits.count(), **counts
    )
    table = table.mutate(g=log_lines.group_of(table.start), two_groups=table.lowest != table.highest)
    if not ramped:
        table = table.mutate(period=ibis.literal(0, "int32"), bucket=ibis.null("int32"))
    return table.drop("lowest", "highest")


def _divide(
    units: ir.Table,
    calls: ir.Table,
    found: Sequence[LoggedAllocation],
    looks: Looks,
    window: timedelta,
    *,
    ordered: bool,
) -> Cells:
    if len(found) == 1:
        (one,) = found
        return cells_of.divide(
            [AllocationPeriod(one.id, one.begin, one.weights, "", np.full(BUCKETS, UNKNOWN))], window
        )
    counted = units.filter(units.bucket.notnull()).group_by("period", "bucket", "g").aggregate(n=ibis._.count())
    columns = {name: numbers(column) for name, column in arrow(counted).items()}
    maps = [bucket_map(found, period, columns, ordered=ordered) for period in range(len(found))]
    salts = dealt(units, found, looks)
    periods = [
        AllocationPeriod(found[one].id, begin, found[one].weights, salts[one].salt, maps[one], salts[one].known)
        for one, begin in in_force(calls, found, looks)
    ]
    return cells_of.divide(periods, window)


def _follow_from_calls(units: ir.Table) -> bool:
    """Whether cells and groups do: nobody was in two groups, and no bucket has moved."""
    row = fetched_rows(units.aggregate(two=units.two_groups.any(), elsewhere=(units.cell != units.period).any()))[0]
    return not row["two"] and not row["elsewhere"]


def _placed(table: ir.Table, units: ir.Table) -> ir.Table:
    """Calls or visits with the cell and group of their user."""
    return table.inner_join(units.select("user", "period", "cell", "g"), ["user", "period"])


def _with_cells(lines: LogTables, units: ir.Table, found: Sequence[LoggedAllocation], cells: Cells) -> ir.Table:
    """The units with their cell, and whether their bucket's group is not theirs."""
    connection = lines.log.connection
    if not any(cells.moves):
        return units.mutate(cell=units.period.cast("int64"), strange=ibis.literal(False))
    fates = cells.fates
    part, bucket = np.nonzero(fates != UNKNOWN)
    table = databases.keep(connection, "fates", pa.table({"part": part, "bucket": bucket, "fate": fates[part, bucket]}))
    mapped = databases.keep(connection, "bucket_groups", _bucket_groups(cells))
    units_in_parts = units.mutate(part=_part(units, found, cells))
    with_fate = units_in_parts.left_join(table, ["part", "bucket"]).drop("part_right", "bucket_right")
    with_group = with_fate.left_join(mapped, ["part", "bucket"]).drop("part_right", "bucket_right")
    limits = [
        (with_group.part == index, microseconds(limit))
        for index in range(len(cells.parts))
        for limit in cells.limits(index)
    ]
    span = ibis.literal(0)
    for here, limit in limits:
        span = span + (here & (with_group["first"] >= limit)).cast("int32")
    spanned = with_group.mutate(span=span, fate=with_group.fate.fill_null(UNKNOWN))
    index = databases.keep(
        connection,
        "cell_index",
        pa.table(
            {
                "part": [c.part for c in cells.cells],
                "fate": [c.fate for c in cells.cells],
                "span": [c.span for c in cells.cells],
                "cell": list(range(len(cells.cells))),
            }
        ),
    )
    numbered = spanned.inner_join(index, ["part", "fate", "span"])
    strange = (numbered.bucket_group != numbered.g).fill_null(False)
    return numbered.mutate(strange=strange).select(*units.columns, "cell", "strange")


def _part(units: ir.Table, found: Sequence[LoggedAllocation], cells: Cells) -> ir.IntegerValue:
    """The part that each unit is in: the newest one of its allocation that it was first seen in."""
    of_allocation = {one.id: index for index, one in enumerate(found)}
    cases = []
    for number, part in reversed(list(enumerate(cells.parts))):
        period = cells.periods[part.period]
        mine = units.period == of_allocation[period.id]
        if part.who is not Newcomers.EVERYBODY:
            mine &= (units["first"] >= microseconds(period.begin)) & (units.entry == int(part.who))
        cases.append((mine, number))
    return ibis.cases(*cases, else_=UNKNOWN).cast("int64")


def _bucket_groups(cells: Cells) -> pa.Table:
    known = np.stack([cells.of(part).buckets for part in range(len(cells.parts))])
    part, bucket = np.nonzero(known != UNKNOWN)
    return pa.table({"part": part, "bucket": bucket, "bucket_group": known[part, bucket]})
