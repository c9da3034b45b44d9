"""From visits and outcomes to the sums of a metric: Ibis expressions that end in small arrays. Knows no verdict.

Each user's y and z grow look by look. A sum of squares grows by the new square less the old one, so that adding up what
each look changes gives the sums over users at every look, in one pass over the users' active looks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_statistics.moments import Cross, Floats, Moments, ThirdMoments, from_sums
from numpy.typing import NDArray

from abfleet_analysis.evidence.layout import Layout
from abfleet_analysis.storage.fetching import float_columns
from abfleet_analysis.storage.packed_counts import running_sums

Place = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Time, cell and group of each value."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the axes [times, cells, groups] that all arrays of sums have."""

    times: int
    cells: int
    groups: int


@dataclass(frozen=True, slots=True)
class Value:
    """Which columns of the contributions make a metric's y and z.

    Attributes:
        z: None where a user has no second value.
        any: y is whether the column's sum is above 0.
        cap: y is cut here; None is no cap.
        negative: Whether a user's y may be below 0.
    """

    y: str
    z: str | None = None
    any: bool = False
    cap: float | None = None
    negative: bool = False


def spelled(name: str) -> str:
    """A metric's name for a column: `a-b` and `a.b` are two metrics, and databases may take `A` for `a`."""
    return "".join(c if c.islower() or c.isdigit() else f"_{ord(c):x}_" for c in name)


def column(metric: str, part: str) -> str:
    """The column of one of a metric's PRODUCTS."""
    return f"{spelled(metric)}_{part}"


def changes(
    contributions: ir.Table,
    values: Mapping[str, Value],
    shape: Shape,
    layout: Layout,
    bits: Mapping[str, int] | None = None,
) -> ir.Table:
    """What each look changes in each user's sums.

    contributions: one or more rows for each user, allocation and look, with `cell`, `g` and the columns of values.
    bits: As of `packed_counts.bits_of`.
    Gives `user`, `period`, `entered` (1 at the user's first), a `column` for each of a metric's PRODUCTS (how y, z and
    their products change), and `place`: look, cell and group in one number, as `places` takes it apart.
    """
    columns = sorted({c for value in values.values() for c in (value.y, value.z) if c is not None})
    place = (contributions.look * shape.cells + contributions.cell) * shape.groups + contributions.g
    # A user has one cell and group in an allocation, so that places are in the order of looks.
    summed = running_sums(
        contributions.mutate(place=place.cast("int32")),
        columns,
        keys=("user", "period", "place"),
        by=("user", "period") if layout.ramped else ("user",),
        order="place",
        bits=bits or {},
        every_row=layout.everyone,
    )
    result: dict[str, ir.Value] = {}
    for metric, value in values.items():
        y, more_y = _y(summed, value)
        z, more_z = _z(summed, value)
        nought = ibis.literal(0.0)
        result |= {
            column(metric, "y"): more_y,
            column(metric, "z"): nought if value.z is None else more_z,
            column(metric, "yy"): more_y * (y + y - more_y),
            column(metric, "yz"): nought if value.z is None else more_y * z + more_z * (y - more_y),
            column(metric, "zz"): nought if value.z is None else more_z * (z + z - more_z),
            column(metric, "nonzero"): (y != 0).cast("float64") - (y != more_y).cast("float64"),
        }
        result |= {column(metric, part): change for part, change in _third(value, (y, more_y), (z, more_z)).items()}
    return summed.select("user", "period", "place", entered=summed["first"].cast("int32"), **result)


def _y(table: ir.Table, value: Value) -> tuple[ir.FloatingValue, ir.FloatingValue]:
    """A user's y after the row, and by how much the row changed it."""
    total, more = table[f"now_{value.y}"].cast("float64"), table[value.y].cast("float64")
    if value.any:
        before = (total > more).cast("float64")
        now = (total > 0).cast("float64")
        return now, now - before
    if value.cap is None:
        return total, more
    now = ibis.least(total, ibis.literal(value.cap))
    return now, now - ibis.least(total - more, ibis.literal(value.cap))


def _z(table: ir.Table, value: Value) -> tuple[ir.FloatingValue, ir.FloatingValue]:
    """A user's z after the row, and by how much the row changed it; zeros for a metric without z."""
    if value.z is None:
        return ibis.literal(0.0), ibis.literal(0.0)
    more = table[value.z].cast("float64")
    return table[f"now_{value.z}"].cast("float64"), more


def _third(
    value: Value, ys: tuple[ir.FloatingValue, ir.FloatingValue], zs: tuple[ir.FloatingValue, ir.FloatingValue]
) -> dict[str, ir.FloatingValue]:
    """How products of three change; none of a y that is 0 or 1, and those with z where there is one."""
    (y, more_y), (z, more_z) = ys, zs
    if value.any:
        return {}
    before_y, before_z = y - more_y, z - more_z
    result = {"yyy": y * y * y - before_y * before_y * before_y}
    if value.z is not None:
        result |= {
            "yyz": y * y * z - before_y * before_y * before_z,
            "yzz": y * z * z - before_y * before_z * before_z,
            "zzz": z * z * z - before_z * before_z * before_z,
        }
    return result


def places(place: NDArray[np.int64], shape: Shape) -> Place:
    """Look, cell and group of places."""
    rest, group = np.divmod(place, shape.groups)
    look, cell = np.divmod(rest, shape.cells)
    return look, cell, group


def _apart(table: ir.Table, shape: Shape) -> ir.Table:
    """Rows of `changes` with look, cell and group of their places."""
    rest = table.place // shape.groups
    return table.mutate(g=table.place % shape.groups, cell=rest % shape.cells, look=rest // shape.cells)


PRODUCTS = ("y", "z", "yy", "yz", "zz", "nonzero")
THIRD_PRODUCTS = ("yyy", "yyz", "yzz", "zzz")
"""Of metrics whose y is more than 0 or 1; those with z where there is one."""


_CROSS_PRODUCTS = ("y", "z", "y2", "z2", "yy", "yz", "zy", "zz")


def moments(
    changed: ir.Table, names: Sequence[str], shape: Shape, *, users: Floats | None = None
) -> dict[str, Moments]:
    """The sums over users of each metric, cumulative over the looks.

    users: How many there are, float64[times, cells, groups]; None takes those who enter in these rows.
    """
    parts = {
        name: [part for part in (*PRODUCTS, *THIRD_PRODUCTS) if column(name, part) in changed.columns] for name in names
    }
    totals = {column(name, part): changed[column(name, part)].sum() for name in names for part in parts[name]}
    if users is None:
        totals["entered"] = changed.entered.sum()
    columns = float_columns(changed.group_by("place").aggregate(**totals))
    where = places(columns["place"].astype(np.int64), shape)
    if users is None:
        users = _cumulative(columns["entered"], where, shape)
    found = {}
    for name in names:
        sums = {part: _cumulative(columns[column(name, part)], where, shape) for part in parts[name]}
        found[name] = from_sums([users, *(sums[part] for part in PRODUCTS)], third=third_moments(sums))
    return found


def third_moments(sums: Mapping[str, Floats]) -> ThirdMoments | None:
    """Those among sums by product; None where they follow from y, or nobody asked for them."""
    if "yyy" not in sums:
        return None
    none = np.zeros_like(sums["yyy"])
    return ThirdMoments(*(sums.get(part, none) for part in THIRD_PRODUCTS))


def crosses(changed: ir.Table, names: Sequence[str], shape: Shape) -> dict[str, Cross]:
    """The sums over users who are in two allocations and in the same group of both; {} if there are none.

    Both allocations' values go on growing, as outcomes arrive, and users may come to either first, where the file goes
    back to earlier shares; each look has what it knows.
    """
    changed = _apart(changed, shape)
    units = changed.filter(changed.entered == 1).select("user", "g", earlier="period", first="cell")
    again = units.select("user", "g", later=units.earlier, second=units["first"])
    pairs = units.inner_join(again, ["user", "g"])
    pairs = pairs.filter(pairs.earlier < pairs.later).select("user", "g", "earlier", "later", "first", "second")
    added = ["entered", *(column(name, part) for name in names for part in ("y", "z"))]
    keys = ("user", "g", "earlier", "later", "first", "second", "look")
    nought = ibis.literal(0.0).cast("float64")
    rows = []
    for which, period in ((1, "earlier"), (2, "later")):
        mine = changed.select("user", "look", **{period: changed.period}, **_as_floats(changed, added))
        both = pairs.inner_join(mine, ["user", period])
        rows.append(
            both.select(
                *keys,
                **{f"{part}_{n}": both[part] if n == which else nought for part in added for n in (1, 2)},
            )
        )
    every = rows[0].union(rows[1])
    so_far = ibis.cumulative_window(group_by=["user", "earlier", "later"], order_by=every.look)
    grown = {f"now_{part}_{n}": every[f"{part}_{n}"].sum().over(so_far) for part in added for n in (1, 2)}
    every = every.mutate(**grown)

    def change(one: str, other: str) -> ir.FloatingValue:
        """How the product of two running sums changes."""
        now = every[f"now_{one}"], every[f"now_{other}"]
        return now[0] * now[1] - (now[0] - every[one]) * (now[1] - every[other])

    sums: dict[str, ir.Value] = {"n": change("entered_1", "entered_2").sum()}
    for name in names:
        y, z = column(name, "y"), column(name, "z")
        products = {
            "y": change(f"{y}_1", "entered_2"),
            "z": change(f"{z}_1", "entered_2"),
            "y2": change("entered_1", f"{y}_2"),
            "z2": change("entered_1", f"{z}_2"),
            "yy": change(f"{y}_1", f"{y}_2"),
            "yz": change(f"{y}_1", f"{z}_2"),
            "zy": change(f"{z}_1", f"{y}_2"),
            "zz": change(f"{z}_1", f"{z}_2"),
        }
        sums |= {column(name, part): product.sum() for part, product in products.items()}
    columns = float_columns(every.group_by("first", "second", "g", "look").aggregate(**sums))
    if not len(columns["n"]):
        return {}
    both_cells = np.stack([columns["first"].astype(int), columns["second"].astype(int)], axis=1)
    unique, index = np.unique(both_cells, axis=0, return_inverse=True)
    paired = Shape(shape.times, len(unique), shape.groups)
    where = (columns["look"].astype(int), index.reshape(-1), columns["g"].astype(int))
    n = _cumulative(columns["n"], where, paired)
    result = {}
    for name in names:
        found = [_cumulative(columns[column(name, part)], where, paired) for part in _CROSS_PRODUCTS]
        result[name] = Cross(unique[:, 0], unique[:, 1], n, *found)
    return result


def _as_floats(table: ir.Table, columns: Sequence[str]) -> dict[str, ir.Value]:
    return {name: table[name].cast("float64") for name in columns}


def counts(table: ir.Table, column: ir.IntegerValue, shape: Shape) -> Floats:
    """Cumulative sums of a column over `look`, `cell` and `g`: float64[times, cells, groups]."""
    table = table.mutate(counted=column)
    columns = float_columns(table.group_by("cell", "g", "look").aggregate(total=table.counted.sum()))
    where = (columns["look"].astype(int), columns["cell"].astype(int), columns["g"].astype(int))
    return _cumulative(columns["total"], where, shape)


def dense(values: Floats, where: Place, shape: Shape) -> Floats:
    """Values added up at their places: float64[times, cells, groups]."""
    result = np.zeros((shape.times, shape.cells, shape.groups))
    np.add.at(result, where, values)
    return result


def _cumulative(values: Floats, where: Place, shape: Shape) -> Floats:
    return dense(values, where, shape).cumsum(axis=0)
