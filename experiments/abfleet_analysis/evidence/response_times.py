"""Response times: quantiles with what they need, and which calls were slow. Ibis expressions over calls."""

from dataclasses import replace
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_statistics import quantiles
from abfleet_statistics.moments import Floats

from abfleet_analysis.decision.evidence import MetricEvidence
from abfleet_analysis.decision.metrics import RESPONSE_TIME_QUANTILE, MetricRule, MetricSource
from abfleet_analysis.evidence.sums import Shape
from abfleet_analysis.evidence.thresholds import Thresholds, at_each_time, thresholds
from abfleet_analysis.storage.fetching import columns_of, fetched_rows

LEARNT_FROM: Final = 1000
"""Control's first responses, from whose 95 % quantile a slow response is learnt; after them counting begins."""


def quantile_points(times: ir.Table, looks: int, groups: int) -> Thresholds:
    """Each group's quantile of response times at each time, or near it, from their histogram."""
    merged = times.group_by("look", "g", "bin").aggregate(n=times.n.sum(), total=times.total.sum())
    counts, totals = (dense[:, 0] for dense in _dense(merged.mutate(cell=0), Shape(looks, 1, groups)))
    points = []
    for index in range(groups):
        above = (1 - RESPONSE_TIME_QUANTILE) * counts[:, index].sum(axis=1)
        mine = at_each_time(counts[:, index], totals[:, index], np.where(above > 0, np.maximum(above, 1), 0))
        known = mine[np.isfinite(mine)]
        points.append(np.where(np.isfinite(mine), mine, known[0] if len(known) else 0.0))  # before the first call
    return thresholds(points)


def with_quantile(metric: MetricEvidence, membership: Floats, times: ir.Table | None, shape: Shape) -> MetricEvidence:
    """The metric with its quantile in each stratum, if it is one; times: the histogram by look, cell and group."""
    if metric.rule.source is not MetricSource.TIME_QUANTILE or times is None:
        return metric
    counts, totals = _dense(times, shape)
    scale = quantiles.quantile_scale(metric.moments, membership, counts, totals, probability=RESPONSE_TIME_QUANTILE)
    return replace(metric, quantile=scale)


def _dense(times: ir.Table, shape: Shape) -> tuple[Floats, Floats]:
    """How many calls a histogram has and their summed times, cumulative: float64[times, cells, groups, bins] each."""
    columns = columns_of(times)
    where = tuple(columns[name].astype(np.int64) for name in ("look", "cell", "g"))
    axes, bins = (shape.times, shape.cells, shape.groups), columns["bin"].astype(np.int64)
    counts, totals = (quantiles.dense(bins, where, columns[name].astype(np.float64), axes) for name in ("n", "total"))
    return counts, totals


def slow_calls(calls: ir.Table, rule: MetricRule, *, most: int) -> ir.Table | None:
    """Responses slower than the threshold; one learnt from control counts from then on only, in every group.

    most: Control has no more calls than this. None where it has too few to learn from.
    """
    timed = calls.filter(calls.timed)
    if rule.threshold_ms is not None:
        return timed.filter(timed.latency_ms > rule.threshold_ms)
    if most < LEARNT_FROM:
        return None
    learnt = timed.filter(timed.g == 0).order_by("at").limit(LEARNT_FROM)
    row = fetched_rows(
        learnt.aggregate(
            threshold=learnt.latency_ms.quantile(RESPONSE_TIME_QUANTILE), last=learnt["at"].max(), n=learnt.count()
        )
    )[0]
    if row["n"] < LEARNT_FROM:
        return None
    return timed.filter(timed["at"] > row["last"], timed.latency_ms > row["threshold"])


def histogram(table: ir.Table, keys: list[str]) -> ir.Table:
    """Timed calls by response time, in bins of 0.1 %."""
    timed = table.filter(table.timed)
    binned = timed.mutate(bin=(ibis.greatest(timed.latency_ms, 1e-6).ln() * quantiles.BINS_PER_E).floor().cast("int64"))
    return binned.group_by(*keys, "bin").aggregate(n=binned.count(), total=binned.latency_ms.sum())
