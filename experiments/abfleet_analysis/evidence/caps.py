"""Where a winsorised metric cuts users' values, look by look. Ibis expressions over what outcomes add to users.

At a quantile of all users' values; where that is 0, because fewer users than may be above it have a value at all, at
the same quantile of those who have one. Exact to 0.1 %.
"""

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_statistics import quantiles
from abfleet_statistics.moments import Floats

from abfleet_analysis.decision.evidence import Cap
from abfleet_analysis.evidence.thresholds import Thresholds, at_each_time, thresholds
from abfleet_analysis.storage.fetching import float_columns


def caps(added: ir.Table, column: str, users: Floats, groups: int, *, quantile: float) -> tuple[Thresholds, Cap | None]:
    """The cap at each time, the same for every group, and infinite where nothing is cut; and the last one.

    added: Rows with `user`, `period`, `look` and what is added to the user's value in `column`. users: float64[times].
    """
    columns = float_columns(_changes(added, column))
    look, bins = columns["look"].astype(np.int64), columns["bin"].astype(np.int64)
    where, shape = (look, look * 0, look * 0), (len(users), 1, 1)
    counts = quantiles.dense(bins, where, columns["n"], shape)[:, 0, 0]
    totals = quantiles.dense(bins, where, columns["total"], shape)[:, 0, 0]
    valued = counts.sum(axis=1)
    of_all = np.floor((1 - quantile) * users + 1e-9)
    above = np.where(valued > of_all, of_all, np.floor((1 - quantile) * valued + 1e-9))
    found = at_each_time(counts, totals, above)
    last = Cap(float(found[-1]), of_valued=not valued[-1] > of_all[-1]) if np.isfinite(found[-1]) else None
    return thresholds([found] * groups), last


def _changes(added: ir.Table, column: str) -> ir.Table:
    """How many users come to have, less how many cease to have, a value above 0, by look and bin of it."""
    by_look = added.filter(added[column] != 0).group_by("user", "period", "look").aggregate(more=added[column].sum())
    so_far = ibis.cumulative_window(group_by=["user", "period"], order_by="look")
    summed = by_look.mutate(now=by_look.more.sum().over(so_far))
    after = summed.select("look", value=summed.now, sign=ibis.literal(1.0))
    before = summed.select("look", value=summed.now - summed.more, sign=ibis.literal(-1.0))
    both = after.union(before)
    both = both.filter(both.value > 0)
    binned = both.mutate(bin=(both.value.ln() * quantiles.BINS_PER_E).floor().cast("int64"))
    return binned.group_by("look", "bin").aggregate(n=binned.sign.sum(), total=(binned.sign * binned.value).sum())
