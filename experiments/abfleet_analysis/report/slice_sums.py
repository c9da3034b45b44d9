"""Sums over the users of each slice, from one row for each user, allocation and slice.

The arrays have the axes of moments.py with slices in the place of times; slices do not add up, since a user may be in
several.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_statistics.moments import Cross, Floats, Moments, from_sums
from numpy.typing import NDArray

from abfleet_analysis.evidence.sums import Shape, dense
from abfleet_analysis.storage.fetching import float_columns

_CROSS: Final = ("n", "y", "z", "y2", "z2", "yy", "yz", "zy", "zz")


def slice_moments(table: ir.Table, shape: Shape, *, several_allocations: bool = False) -> Moments:
    """The moments of each slice. The table has `user`, `period`, `cell`, `g`, `slice`, `y` and `z`.

    shape: Its times are the slices. several_allocations: Whether a user may be in more than one.
    """
    y, z = table.y, table.z
    columns = float_columns(
        table.group_by("slice", "cell", "g").aggregate(
            n=table.count(),
            y=y.sum(),
            z=z.sum(),
            yy=(y * y).sum(),
            yz=(y * z).sum(),
            zz=(z * z).sum(),
            nonzero=(y != 0).cast("int64").sum(),
        )
    )
    where = (_whole(columns["slice"]), _whole(columns["cell"]), _whole(columns["g"]))
    parts = [dense(columns[name], where, shape) for name in ("n", "y", "z", "yy", "yz", "zz", "nonzero")]
    return from_sums(parts, _cross(table, shape) if several_allocations else None)


def some_slices(moments: Moments, slices: Sequence[int]) -> Moments:
    """The moments of these slices alone."""
    kept = from_sums([part[list(slices)] for part in moments.sums()])
    if moments.cross is None:
        return kept
    sums = [getattr(moments.cross, field.name)[list(slices)] for field in fields(Cross)[2:]]
    return replace(kept, cross=Cross(moments.cross.first, moments.cross.second, *sums))


def _cross(table: ir.Table, shape: Shape) -> Cross | None:
    """The sums over users who are in two allocations, in the same group and slice of both; None if nobody is."""
    later = table.select("user", "g", "slice", late=table.period, second=table.cell, y2=table.y, z2=table.z)
    both = table.inner_join(later, ["user", "g", "slice"]).filter(ibis._.period < ibis._.late)
    y, z, y2, z2 = both.y, both.z, both.y2, both.z2
    products = {"y": y, "z": z, "y2": y2, "z2": z2, "yy": y * y2, "yz": y * z2, "zy": z * y2, "zz": z * z2}
    columns = float_columns(
        both.group_by("cell", "second", "g", "slice").aggregate(
            n=both.count(), **{name: product.sum() for name, product in products.items()}
        )
    )
    if not len(columns["n"]):
        return None
    pairs, index = np.unique(
        np.stack([_whole(columns["cell"]), _whole(columns["second"])], axis=1), axis=0, return_inverse=True
    )
    where = (_whole(columns["slice"]), index.reshape(-1), _whole(columns["g"]))
    paired = Shape(shape.times, len(pairs), shape.groups)
    return Cross(pairs[:, 0], pairs[:, 1], *(dense(columns[name], where, paired) for name in _CROSS))


def _whole(values: Floats) -> NDArray[np.int64]:
    return values.astype(np.int64)
