"""When each allocation was in force, and in which of them a bucket has the same users. Runs small queries on users and
calls; knows no group and no split.

What is said of a moment rests on what the log had by then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from abfleet_analysis.periods.allocation_periods import LoggedAllocation, Looks, microseconds, moment
from abfleet_analysis.storage.fetching import fetched_rows

HOUR_US: Final = timedelta(hours=1) // timedelta(microseconds=1)
STRAY_PART: Final = 0.1
"""Of the calls of an hour. An allocation with fewer is not in force: a router that is late with the file has them."""
MOST_RETURNS: Final = 12
"""Allocations that come back oftener do not come back, but are in force at different routers at once."""


@dataclass(frozen=True, slots=True)
class Dealt:
    """Whose users an allocation's buckets have.

    Attributes:
        salt: The same for allocations that deal users alike.
        known: Since when the log says so; None if it is from the begin on.
    """

    salt: str
    known: datetime | None = None


def in_force(calls: ir.Table, found: Sequence[LoggedAllocation], looks: Looks) -> list[tuple[int, datetime]]:
    """Each time that an allocation came into force, in order: its index, and when its first call of that time was.

    calls: With `at` and `period`, the index of the allocation.
    """
    begins = [(microseconds(one.begin), index) for index, one in enumerate(found)]
    parts = -(-looks.look_us // HOUR_US)  # hours that begin with looks, so that no look is amid one
    width = looks.look_us // parts
    hour = ((calls["at"] - looks.anchor_us) // width).cast("int64")
    keyed = calls.select("at", "period", hour=hour)
    counted = keyed.group_by("hour", "period").aggregate(n=keyed.count(), oldest=keyed["at"].min())
    return [(index, moment(at)) for at, index in _succession(begins, fetched_rows(counted))]


def _succession(begins: Sequence[tuple[int, int]], rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Begins and returns as (microseconds, index of the allocation), in order; neighbours are different allocations.

    begins: Of each allocation, the first. rows: Calls `n` of an `hour` and `period`, and when the `oldest` was.
    """
    rows = sorted(rows, key=lambda row: (row["hour"], row["oldest"], row["period"]))
    totals: dict[int, int] = {}
    for row in rows:
        totals[row["hour"]] = totals.get(row["hour"], 0) + row["n"]
    returns, seen, current = [], set[int](), None
    for row in rows:
        if row["n"] >= STRAY_PART * totals[row["hour"]] and row["period"] != current:
            current = row["period"]
            if current in seen:
                returns.append((row["oldest"], current))
            seen.add(current)
    every = sorted([*begins, *returns[:MOST_RETURNS]])
    return [one for place, one in enumerate(every) if place == 0 or every[place - 1][1] != one[1]]


def dealt(units: ir.Table, found: Sequence[LoggedAllocation], looks: Looks) -> list[Dealt]:
    """Whose users the buckets of each allocation have.

    Lines `allocation` and the file name salts. Where they do not, users say it who come in two allocations: under the
    same salt their bucket is the same, under another one it is so once in 10,000 times. What most of those say who had
    come by the first look that knows any is taken. While nobody has come to both, nobody can have been in two groups,
    and the allocations are taken to have different users.

    units: With `user`, `period`, `bucket` and `first`.
    """
    alike = _alike(units, looks) if any(one.salt is None for one in found) else {}
    result: list[Dealt] = []
    for index, one in enumerate(found):
        same: list[tuple[datetime, int]] = []
        for earlier, other in enumerate(found[:index]):
            if one.salt is not None and other.salt is not None:
                if one.salt == other.salt:
                    same.append((max(one.told or one.begin, other.told or other.begin), earlier))
            elif (earlier, index) in alike:
                same.append((alike[earlier, index], earlier))
        since, like = min(same, default=(None, None))
        result.append(Dealt(f"{index}") if like is None else Dealt(result[like].salt, since))
    return result


def _alike(units: ir.Table, looks: Looks) -> dict[tuple[int, int], datetime]:
    """The pairs of allocations in which users have the same bucket, and since which time that is known."""
    known = units.filter(units.bucket.notnull())
    by_user = ibis.window(group_by=known.user, order_by=[known["first"], known.period])
    after = known.mutate(before=known.period.lag().over(by_user), bucket_before=known.bucket.lag().over(by_user))
    after = after.filter(after.before.notnull())
    pairs = after.mutate(
        one=ibis.least(after.period, after.before),
        other=ibis.greatest(after.period, after.before),
        look=looks.index(after["first"]),
        same=(after.bucket == after.bucket_before).cast("int64"),
    )
    counted = pairs.group_by("one", "other", "look").aggregate(n=pairs.count(), same=pairs.same.sum())
    sums: dict[tuple[int, int], int] = {}
    said: dict[tuple[int, int], tuple[bool, datetime]] = {}
    for row in sorted(fetched_rows(counted), key=lambda row: row["look"]):
        pair = (row["one"], row["other"])
        sums[pair] = sums.get(pair, 0) + 2 * row["same"] - row["n"]
        if pair not in said and sums[pair]:
            said[pair] = (sums[pair] > 0, looks.times[row["look"]])
    return {pair: at for pair, (alike, at) in said.items() if alike}
