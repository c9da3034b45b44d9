"""Sums over users that every mean, ratio and standard error follows from.

Axes, everywhere in this package: [times, cells, groups]. Times are the looks, and last the moment of the report; all
sums are cumulative. A cell is a set of users that is kept or left out as one (see cells.py); a user is in at most one
cell of an allocation. Group 0 is the control. A user has a value y and a second one z: the denominator of a ratio, the
value before the experiment, or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cross:
    """Sums over the users of one group who are in two cells, that is in two allocations.

    Needed because a user who comes back makes two allocations' results agree: without it the standard error of their
    combination would be too small.

    Attributes:
        first, second: int[pairs], the cells.
        n, y, z: Users, and sums of their values in the first cell: float64[times, pairs, groups], as all that follow.
        y2, z2: Sums of their values in the second cell.
        yy, yz, zy, zz: Sums of products, the first factor from the first cell.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    n: Floats
    y: Floats
    z: Floats
    y2: Floats
    z2: Floats
    yy: Floats
    yz: Floats
    zy: Floats
    zz: Floats

    def __add__(self, other: "Cross") -> "Cross":
        if not (np.array_equal(self.first, other.first) and np.array_equal(self.second, other.second)):
            raise ValueError("sums of different pairs of cells cannot be added")
        sums = [getattr(self, f.name) + getattr(other, f.name) for f in fields(self)[2:]]
        return Cross(self.first, self.second, *sums)


@dataclass(frozen=True, slots=True)
class ThirdMoments:
    """Sums over users of products of three values, for a mean's skewness: float64[times, cells, groups] each."""

    yyy: Floats
    yyz: Floats
    yzz: Floats
    zzz: Floats

    def __add__(self, other: "ThirdMoments") -> "ThirdMoments":
        return ThirdMoments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


_SUMS: Final = ("n", "y", "z", "yy", "yz", "zz", "nonzero")


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over users: float64[times, cells, groups] each. Those of different users add with +.

    Attributes:
        n: Users. y, z, yy, yz, zz: Sums of values and of their products.
        nonzero: Users whose y is not 0.
        cross: Of users in two cells; None where there are none.
        third: Sums of products of three; None where they are not known, or follow from y because it is 0 or 1.
    """

    n: Floats
    y: Floats
    z: Floats
    yy: Floats
    yz: Floats
    zz: Floats
    nonzero: Floats
    cross: Cross | None = None
    third: ThirdMoments | None = None

    def __add__(self, other: "Moments") -> "Moments":
        cross = self.cross + other.cross if self.cross and other.cross else self.cross or other.cross
        third = self.third + other.third if self.third and other.third else None
        return from_sums([mine + theirs for mine, theirs in zip(self.sums(), other.sums(), strict=True)], cross, third)

    def sums(self) -> list[Floats]:
        """The sums, in the order of the attributes, without cross and third."""
        return [getattr(self, name) for name in _SUMS]


def from_sums(sums: Sequence[Floats], cross: Cross | None = None, third: ThirdMoments | None = None) -> Moments:
    """The moments with these sums, in the order of the attributes."""
    n, y, z, yy, yz, zz, nonzero = sums
    return Moments(n, y, z, yy, yz, zz, nonzero, cross, third)


def of_users(y: Floats, z: Floats | None = None) -> Moments:
    """The moments of one group's users, at one time, in one cell: y and z are float64[users]."""
    z = np.zeros_like(y) if z is None else z
    sums = (len(y), y.sum(), z.sum(), (y * y).sum(), (y * z).sum(), (z * z).sum(), (y != 0).sum())
    cubes = (y * y * y, y * y * z, y * z * z, z * z * z)
    third = ThirdMoments(*(np.array([[[float(value.sum())]]]) for value in cubes))
    return from_sums([np.array([[[float(value)]]]) for value in sums], third=third)


def side_by_side(groups: Sequence[Moments]) -> Moments:
    """Moments of single groups as those of one experiment, in the order given."""
    sums = [np.concatenate(parts, axis=2) for parts in zip(*(g.sums() for g in groups), strict=True)]
    thirds = [g.third for g in groups if g.third is not None]
    if len(thirds) < len(groups):
        return from_sums(sums)
    names = [f.name for f in fields(ThirdMoments)]
    return from_sums(
        sums, third=ThirdMoments(*(np.concatenate([getattr(t, name) for t in thirds], axis=2) for name in names))
    )


def proportions(users: Floats, converted: Floats) -> Moments:
    """The moments of a value that is 0 or 1, from counts: float64[times, cells, groups]."""
    none = np.zeros_like(converted)
    return Moments(users, converted, none, converted, none, none, converted)
