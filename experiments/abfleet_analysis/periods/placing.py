"""Which cell each unit of an experiment is in. Ibis expressions and small queries; the rules are in cells.py."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from abfleet_experiments.bucketing import BUCKETS
from numpy.typing import NDArray

from abfleet_analysis.periods import cells as cells_of
from abfleet_analysis.periods.allocation_periods import LoggedAllocation, Looks, microseconds
from abfleet_analysis.periods.bucket_maps import BucketMap, Columns, bucket_map, proven_at_once
from abfleet_analysis.periods.cells import UNKNOWN, AllocationPeriod, Cells, Newcomers
from abfleet_analysis.periods.succession import dealt, in_force
from abfleet_analysis.storage.fetching import columns_of, fetched_rows
from abfleet_analysis.storage.storage import Storage


def divided(
    units: ir.Table,
    calls: ir.Table,
    found: Sequence[LoggedAllocation],
    looks: Looks,
    window: timedelta,
    *,
    ordered: bool,
) -> Cells:
    """The cells of an experiment whose allocations were found; ordered: As of `bucket_map`."""
    if len(found) == 1:
        (one,) = found
        return cells_of.divide(
            [AllocationPeriod(one.id, one.begin, one.weights, "", np.full(BUCKETS, UNKNOWN))], window
        )
    spells = in_force(calls, found, looks)
    maps = _maps(units, found, looks, spells, ordered=ordered)
    salts = dealt(units, found, looks)
    periods = [
        AllocationPeriod(
            found[one].id,
            begin,
            found[one].weights,
            salts[one].salt,
            buckets.buckets,
            known_since=max((at for at in (salts[one].known, buckets.known) if at is not None), default=None),
        )
        for (one, begin), buckets in zip(spells, maps, strict=True)
    ]
    return cells_of.divide(periods, window)


def _maps(
    units: ir.Table,
    found: Sequence[LoggedAllocation],
    looks: Looks,
    spells: Sequence[tuple[int, datetime]],
    *,
    ordered: bool,
) -> list[BucketMap]:
    """The buckets of each spell, in which an allocation was in force."""
    rows: Columns = {}
    if not all(proven_at_once(one) for one in found):
        begun = ibis.literal(0)
        for _, begin in spells[1:]:
            begun = begun + (units["first"] >= microseconds(begin)).cast("int32")
        known = units.filter(units.bucket.between(0, BUCKETS - 1))
        placed_units = known.mutate(look=looks.index(known["first"]), spell=begun)
        rows = columns_of(placed_units.group_by("period", "bucket", "g", "look", "spell").aggregate(n=ibis._.count()))

    def moments(spell: int) -> Iterator[tuple[datetime, Columns]]:
        one, begin = spells[spell]
        end = spells[spell + 1][1] if spell + 1 < len(spells) else None
        mine = rows["period"] == one
        for look, at in enumerate(looks.times):
            if begin <= at and (end is None or at < end):
                yield at, _where(rows, mine & (rows["look"] <= look))
        if end is not None:
            yield end, _where(rows, mine & (rows["spell"] <= spell))

    return [bucket_map(found, one, moments(spell), ordered=ordered) for spell, (one, _) in enumerate(spells)]


def _where(rows: Columns, chosen: NDArray[np.bool_]) -> Columns:
    return {name: column[chosen] for name, column in rows.items()}


def with_cells(storage: Storage, units: ir.Table, found: Sequence[LoggedAllocation], cells: Cells) -> ir.Table:
    """The units with their cell, and whether their bucket's group is not theirs."""
    if not any(cells.moves):
        return units.mutate(cell=units.period.cast("int64"), strange=ibis.literal(False))
    fates = cells.fates
    part, bucket = np.nonzero(fates != UNKNOWN)
    table = storage.keep("fates", pa.table({"part": part, "bucket": bucket, "fate": fates[part, bucket]}))
    mapped = storage.keep("bucket_groups", _bucket_groups(cells))
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
    index = storage.keep(
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


def follow_from_calls(units: ir.Table) -> bool:
    """Whether cells and groups do: nobody was in two groups, and no bucket has moved."""
    row = fetched_rows(units.aggregate(two=units.two_groups.any(), elsewhere=(units.cell != units.period).any()))[0]
    return not row["two"] and not row["elsewhere"]


def placed(table: ir.Table, units: ir.Table) -> ir.Table:
    """Calls or visits with the cell and group of their user."""
    return table.inner_join(units.select("user", "period", "cell", "g"), ["user", "period"])
