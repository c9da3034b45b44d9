"""One metric among parts of the users: from sums over users to values, intervals and adjusted p. Knows no log.

The times of the moments are slices here: parts of the users, or of their time.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from abfleet_statistics.effects import Comparison, Estimator, compare, merged
from abfleet_statistics.moments import Floats, Moments
from abfleet_statistics.sequential import quantile, two_sided_p
from numpy.typing import NDArray

from abfleet_analysis.report.details import Slice

FEWEST_NONZERO: Final = 10
"""Users with a value other than 0 in each group; with fewer a sum is far from normal, and nothing is compared."""


def compared(
    moments: Moments,
    membership: Floats,
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    estimator: Estimator,
    negative: bool,
    users: NDArray[np.int64] | None = None,
) -> tuple[Slice, ...]:
    """Each slice of each treatment against control's, slice by slice.

    moments: float64[slices, cells, groups]; membership: float64[strata, cells]; groups: names, control first.
    negative: Whether a user's value may be below 0. users: int[slices, groups], different ones, where the moments count
    who came in several allocations in each.
    """
    in_each = np.broadcast_to(membership, (len(labels), *membership.shape))
    divisors = merged(in_each, moments.z).sum(axis=1) if estimator is Estimator.RATIO else None
    found: list[tuple[int, Slice, float]] = []
    for group in range(1, len(groups)):
        comparison = compare(moments, in_each, group, estimator=estimator, negative=negative)
        for index, label in enumerate(labels):
            one, p = _slice(comparison, index, label, groups[group])
            if users is not None:
                one = replace(one, users=int(users[index, group]), baseline_users=int(users[index, 0]))
            of = (one.users, one.baseline_users) if divisors is None else divisors[index, [group, 0]].tolist()
            one = replace(one, divisor=float(of[0]), baseline_divisor=float(of[1]))
            found.append((index, one, p))
    adjusted = benjamini_hochberg(np.array([p for _, _, p in found]))
    rows = [(index, replace(one, adjusted_p=float(p))) for (index, one, _), p in zip(found, adjusted, strict=True)]
    rows.sort(key=lambda row: row[0])  # stable, so that the groups keep their order
    return tuple(one for _, one in rows if one.users or one.baseline_users)


def described(rows: Iterable[Mapping[str, Any]], labels: Sequence[str], groups: Sequence[str]) -> tuple[Slice, ...]:
    """Each group's slices by themselves, for parts that are no fair comparison.

    rows: With `label`, `g` (an index into groups), `users`, and `y` and `of`, whose ratio is the value.
    """
    nothing = (math.nan, math.nan)
    found = {(row["label"], row["g"]): row for row in rows}
    return tuple(
        Slice(
            label,
            group,
            row["users"],
            0,
            row["y"] / row["of"] if row["of"] else math.nan,
            math.nan,
            math.nan,
            nothing,
            math.nan,
            float(row["of"]),
        )
        for label in labels
        for g, group in enumerate(groups)
        if (row := found.get((label, g))) is not None
    )


def benjamini_hochberg(p: Floats) -> Floats:
    """p adjusted for all that are finite: the false discovery rate at which each would stand out: float64[slices].

    Benjamini & Hochberg, J. R. Stat. Soc. B 1995: min over larger p of m p / rank.
    """
    adjusted = np.full(len(p), np.nan)
    finite = np.flatnonzero(np.isfinite(p))
    order = finite[np.argsort(p[finite], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def _slice(comparison: Comparison, index: int, label: str, group: str) -> tuple[Slice, float]:
    """The slice without its adjusted p, and its p; both nan where there is too little."""
    baseline, error = float(comparison.baseline[index]), float(comparison.standard_error[index])
    difference, relative = float(comparison.difference[index]), float(comparison.relative_difference[index])
    few = min(comparison.nonzero[index], comparison.baseline_nonzero[index]) < FEWEST_NONZERO
    if few or not (error > 0 and math.isfinite(relative)):
        relative, interval, p = math.nan, (math.nan, math.nan), math.nan
    else:
        low, high = comparison.relative_interval(quantile(0.975))
        interval = (float(low[index]), float(high[index]))
        p = float(two_sided_p(difference / error))
    users, baseline_users = round(float(comparison.users[index])), round(float(comparison.baseline_users[index]))
    value = float(comparison.value[index])
    return Slice(label, group, users, baseline_users, value, baseline, relative, interval, math.nan), p
