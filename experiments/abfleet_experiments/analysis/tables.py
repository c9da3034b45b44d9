"""One experiment's tables: its calls, visits and users, each user with a cell. Ibis expressions and small queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from abfleet_experiments.analysis import backends, frames, packing
from abfleet_experiments.analysis import cells as cells_of
from abfleet_experiments.analysis.backends import fetched_one, fetched_rows, numbers
from abfleet_experiments.analysis.cells import UNKNOWN, Cells, Period
from abfleet_experiments.analysis.frames import Lines
from abfleet_experiments.analysis.metrics import DEFAULT_WINDOW, MetricRule, Source
from abfleet_experiments.analysis.moments import Floats
from abfleet_experiments.analysis.periods import Found, Looks, looks_until, microseconds
from abfleet_experiments.analysis.response_times import histogram, quantile_points
from abfleet_experiments.analysis.sums import Shape, arrow
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import AnalysisPlan

COUNTED: Final = ("answered", "error", "fell_back", "timed", "slow")
"""What is counted of a visit's calls, beside the calls themselves."""
COUNT_BITS: Final = packing.WORD_BITS // len(COUNTED)
COUNTS: Final[packing.Word] = dict.fromkeys(COUNTED, COUNT_BITS)
MOST_BITS: Final = 30
"""Of a number of 32 that no database takes for a negative one; Ibis writes none of 64 as such."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything of one experiment that expressions start from.

    Attributes:
        exposures: The ones that count. calls: The same in numbers, with what became of each and their look.
        visits: One row for each user, allocation and look. units: One for each user and allocation. Both with the
            user's cell and group.
        times: The histogram of response times by look, cell and group; None if no metric needs it.
    """

    lines: Lines
    name: str
    groups: tuple[str, ...]
    found: tuple[Found, ...]
    rules: tuple[MetricRule, ...]
    as_of: datetime
    exposures: ir.Table
    calls: ir.Table
    looks: Looks
    times: ir.Table | None
    visits: ir.Table
    units: ir.Table
    cells: Cells
    shape: Shape

    def keep(self, name: str, table: ir.Table | pa.Table) -> ir.Table:
        """The table, computed once."""
        return backends.keep(self.lines.log.connection, name, table)

    def entering(self) -> ir.Table:
        """The units with the look that first knows of them."""
        return self.units.mutate(look=self.looks.index(self.units["first"]))

    def starts(self) -> ir.Table:
        """Each user's first exposure in the experiment, and where it was."""
        entering = self.units.filter(self.units.entry == 1)
        return entering.group_by("user").aggregate(
            first=entering["first"].min(),
            g=entering.g.argmin(entering["first"]),
            period=entering.period.argmin(entering["first"]),
        )

    def any_before(self) -> bool:
        """Whether the log has anything from before the experiment began."""
        earliest = self.lines.oldest_us
        return earliest is not None and earliest < microseconds(min(one.begin for one in self.found))


def tables_of(
    lines: Lines,
    name: str,
    exposures: ir.Table,
    groups: tuple[str, ...],
    found: Sequence[Found],
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
) -> Tables:
    """The tables of an experiment that somebody was in."""
    connection = lines.log.connection
    looks = looks_until(min(one.begin for one in found), as_of, plan)
    calls = frames.calls(exposures, groups, [one.id for one in found])
    calls = backends.view(connection, "calls", calls.mutate(look=looks.index(calls["at"])))
    times = points = None
    if any(rule.source is Source.TIME_QUANTILE for rule in rules):
        times = backends.keep(connection, "times", histogram(calls, ["look", "period", "g"]))
        points = quantile_points(times, len(groups))
    ramped = len(found) > 1
    timed = any(rule.source is Source.TIME_MEAN for rule in rules)
    bits = connection.name == "duckdb" and len(groups) <= MOST_BITS  # Ibis has no such sum for Spark
    grouped = partial(visits_of, calls, points, timed=timed, ramped=ramped, bits=bits)
    visits = backends.keep(connection, "kept_visits", grouped())
    if (fetched_one(visits.calls.max()) or 0) >> COUNT_BITS:
        visits = backends.keep(connection, "kept_visits", grouped(together=False))
    visits = backends.view(connection, "visits", with_counts(visits))
    plain = backends.keep(connection, "plain_units", frames.units(visits, ramped=ramped))
    cells = _divide(plain, found, len(groups), max([DEFAULT_WINDOW, *(rule.window for rule in rules)]))
    units = backends.keep(connection, "units", _with_cells(lines, plain, cells))
    alone = _follow_from_calls(units)
    visits = visits.mutate(cell=visits.period, g=frames.first_group(visits)) if alone else _placed(visits, units)
    if times is not None and alone:
        times = times.mutate(cell=times.period)
    elif times is not None:
        times = histogram(_placed(calls.drop("g"), units), ["look", "cell", "g"])
    visits = backends.view(connection, "placed_visits", visits)
    return Tables(
        lines=lines,
        name=name,
        groups=groups,
        found=tuple(found),
        rules=tuple(rules),
        as_of=as_of,
        exposures=exposures,
        calls=calls,
        looks=looks,
        times=times,
        visits=visits,
        units=units,
        cells=cells,
        shape=Shape(len(looks.times), len(cells.cells), len(groups)),
    )


def visits_of(
    calls: ir.Table,
    points: Floats | None,
    *,
    timed: bool,
    ramped: bool,
    bits: bool = False,
    together: bool = True,
) -> ir.Table:
    """One row for each user, allocation and look, as they are kept; `with_counts` says what is in it.

    timed: Whether response times are added up. ramped: Whether there is more than one allocation; the only one is no
    part of the key, which is what grouping costs. bits: Whether each group has a bit of its own, quicker to add up than
    the least and the most are to find. together: Whether COUNTED are in one number, which takes a third less time, and
    less memory for each user, but has room for calls of COUNT_BITS.
    """
    table = _with_facts(calls, points)
    counts: dict[str, ir.Value] = (
        {"word": packing.packed(table, COUNTS).sum()}
        if together
        else {name: table.count(where=table[name]) for name in COUNTED}
    )
    if ramped:
        counts["bucket"] = table.bucket.max()  # a user has one under one salt
    if timed:
        counts["time_sum"] = table.latency_ms.sum(where=table.timed)
    return table.group_by("user", *(["period"] if ramped else []), "look").aggregate(
        start=table.start.min(), two_groups=_two_groups(table, bits=bits), calls=table.count(), **counts
    )


def with_counts(visits: ir.Table) -> ir.Table:
    """The kept visits with every column: COUNTED apart, and what is the same for all of them."""
    if "word" in visits.columns:
        visits = visits.mutate(**packing.unpacked(visits.word, COUNTS, "")).drop("word")
    same = {"period": ibis.literal(0, "int32"), "bucket": ibis.null("int32"), "time_sum": ibis.literal(0.0)}
    visits = visits.mutate(**{name: value for name, value in same.items() if name not in visits.columns})
    return visits.mutate(time_sum=visits.time_sum.fill_null(0.0))


def _with_facts(calls: ir.Table, points: Floats | None) -> ir.Table:
    """The calls with `slow`, and `start`: time and group in one number, the least of which has the first call's group.

    points: By group, what a slow response takes longer than, in ms; None where nobody asks.
    """
    slow: ir.BooleanValue = ibis.literal(False)
    if points is not None:
        # Not one comparison with a case of numbers: DuckDB takes these for decimals, and converts them row by row.
        above = (calls.latency_ms > float(point) for point in points)
        slow = calls.timed & ibis.or_(*((calls.g == group) & one for group, one in enumerate(above)))
    return calls.mutate(slow=slow, start=calls["at"] * frames.GROUPS_IN_NUMBER + calls.g)


def _two_groups(table: ir.Table, *, bits: bool) -> ir.BooleanValue:
    """Whether calls were in more than one group."""
    if not bits:
        return table.g.min() != table.g.max()
    seen = (ibis.literal(1) << table.g).bit_or()
    return (seen & (seen - 1)) != 0


def _divide(units: ir.Table, found: Sequence[Found], groups: int, window: timedelta) -> Cells:
    if len(found) == 1:
        maps = [np.full(BUCKETS, UNKNOWN, dtype=np.int64)]
    else:
        counted = units.filter(units.bucket.notnull()).group_by("period", "bucket", "g").aggregate(n=ibis._.count())
        columns = {name: numbers(column) for name, column in arrow(counted).items()}
        maps = [_bucket_map(columns, period, groups) for period in range(len(found))]
    periods = [Period(one.id, one.begin, one.weights, one.salt, table) for one, table in zip(found, maps, strict=True)]
    return cells_of.divide(periods, window)


def _bucket_map(columns: Mapping[str, NDArray[np.int64]], period: int, groups: int) -> NDArray[np.int64]:
    """The group of each bucket in an allocation: the one of most of its users."""
    mine = columns["period"] == period
    mine &= (columns["bucket"] >= 0) & (columns["bucket"] < BUCKETS)
    votes = np.zeros((BUCKETS, groups))
    np.add.at(votes, (columns["bucket"][mine], columns["g"][mine]), columns["n"][mine])
    voted = np.flatnonzero(votes.sum(axis=1))
    return cells_of.observed_buckets(voted, votes[voted].argmax(axis=1))


def _follow_from_calls(units: ir.Table) -> bool:
    """Whether cells and groups do: nobody was in two groups, and no bucket has moved."""
    row = fetched_rows(units.aggregate(
        two=units.two_groups.any(), elsewhere=(units.cell != units.period).any()
    ))[0]  # fmt: skip
    return not row["two"] and not row["elsewhere"]


def _placed(table: ir.Table, units: ir.Table) -> ir.Table:
    """Calls or visits with the cell and group of their user."""
    return table.inner_join(units.select("user", "period", "cell", "g"), ["user", "period"])


def _with_cells(lines: Lines, units: ir.Table, cells: Cells) -> ir.Table:
    """The units with their cell, and whether their bucket's group is not theirs."""
    connection = lines.log.connection
    if not any(cells.moves):
        return units.mutate(cell=units.period.cast("int64"), strange=ibis.literal(False))
    fates = cells.fates
    period, bucket = np.nonzero(fates != UNKNOWN)
    table = backends.keep(
        connection, "fates", pa.table({"period": period, "bucket": bucket, "fate": fates[period, bucket]})
    )
    mapped = backends.keep(connection, "bucket_groups", _bucket_groups(cells))
    with_fate = units.left_join(table, ["period", "bucket"]).drop("period_right", "bucket_right")
    with_group = with_fate.left_join(mapped, ["period", "bucket"]).drop("period_right", "bucket_right")
    limits = [
        (with_group.period == index, microseconds(limit))
        for index in range(len(cells.periods))
        for limit in cells.limits(index)
    ]
    span = ibis.literal(0)
    for here, limit in limits:
        span = span + (here & (with_group["first"] >= limit)).cast("int32")
    spanned = with_group.mutate(span=span, fate=with_group.fate.fill_null(UNKNOWN))
    index = backends.keep(connection, "cell_index", pa.table({
        "period": [c.period for c in cells.cells], "fate": [c.fate for c in cells.cells],
        "span": [c.span for c in cells.cells], "cell": list(range(len(cells.cells))),
    }))  # fmt: skip
    numbered = spanned.inner_join(index, ["period", "fate", "span"])
    strange = (numbered.bucket_group != numbered.g).fill_null(False)
    return numbered.mutate(strange=strange).select(*units.columns, "cell", "strange")


def _bucket_groups(cells: Cells) -> pa.Table:
    known = np.stack([period.buckets for period in cells.periods])
    period, bucket = np.nonzero(known != UNKNOWN)
    return pa.table({"period": period, "bucket": bucket, "bucket_group": known[period, bucket]})
