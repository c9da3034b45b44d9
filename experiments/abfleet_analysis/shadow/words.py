"""Comparisons in the shadow as plain JSON values, and as lines for people."""

import math
from collections.abc import Iterator
from typing import Any

from abfleet_experiments.config import time_text
from abfleet_process.counting import counted
from abfleet_statistics.clusters import ClusteredMean

from abfleet_analysis.periods.allocation_periods import moment
from abfleet_analysis.shadow.compare import BOUNDS, Latencies, ShadowComparison, ShadowReport

NAMES = {
    "overlap_at_1": "overlap@1",
    "overlap_at_5": "overlap@5",
    "overlap_at_10": "overlap@10",
    "rank_biased_overlap": "rank-biased overlap",
    "kendall_tau_b": "Kendall's tau-b",
    "identical": "identical answers",
}


def document(report: ShadowReport) -> dict[str, Any]:
    """Plain JSON values; intervals are of 95 %, clustered by user."""
    return {"comparisons": [_comparison(one) for one in report.comparisons], "synthetic": report.synthetic}


def _comparison(one: ShadowComparison) -> dict[str, Any]:
    return {
        "version": one.version,
        "primary": one.primary,
        "from": time_text(moment(one.first_us)),
        "to": time_text(moment(one.last_us)),
        "asked": one.asked,
        "users": one.users,
        "compared": one.compared,
        "without_answer": one.without_answer,
        "without_lists": one.without_lists,
        **{name: _mean(one.measures[name], *BOUNDS[name]) for name in BOUNDS},
        "coverage": {"items": one.items, "primary_items": one.primary_items, "items_of_both": one.items_of_both},
        "latency_ms": {
            "shadow": _latencies(one.latency),
            "primary": _latencies(one.primary_latency),
            "difference": _mean(one.latency_difference),
        },
        "errors": {"shadow": _mean(one.errors, 0.0, 1.0), "primary": one.primary_errors, "statuses": {**one.statuses}},
        "differ_most": [
            {
                "request_id": request.request_id,
                "rank_biased_overlap": _number(request.rank_biased_overlap),
                "overlap_at_10": _number(request.overlap_at_10),
            }
            for request in one.differ_most
        ],
        "by_attribute": [
            {
                "attribute": value.attribute,
                "value": value.value,
                "overlap_at_10": _mean(value.overlap_at_10, 0.0, 1.0),
                "identical": _mean(value.identical, 0.0, 1.0),
            }
            for value in one.by_attribute
        ],
    }


def _mean(found: ClusteredMean, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    bounded = low is not None and high is not None
    ends = found.bounded_interval(low, high) if bounded else found.interval()  # type: ignore[arg-type]
    if not found.n:
        ends = math.nan, math.nan
    return {"mean": _number(found.mean), "low": _number(ends[0]), "high": _number(ends[1]), "requests": found.n}


def _latencies(found: Latencies) -> dict[str, float | None]:
    return {"mean": _number(found.mean), "p50": _number(found.p50), "p95": _number(found.p95)}


def _number(value: float) -> float | None:
    """Six digits say more than is known; None for what has no value."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def lines(report: ShadowReport) -> Iterator[str]:
    """For people."""
    if not report.comparisons:
        yield "this log has no shadow calls; add `shadow` to the experiments file"
    for one in report.comparisons:
        yield from _lines(one)
        yield ""
    if report.synthetic:
        yield f"left out: {counted(report.synthetic, 'synthetic call')}"


def _lines(one: ShadowComparison) -> Iterator[str]:
    yield f"{one.version} in the shadow of {one.primary}, {_time(one.first_us)} to {_time(one.last_us)}"
    yield f"  {counted(one.asked, 'shadow call')} of {counted(one.users, 'user')}; compared: {one.compared:,}"
    if one.without_answer:
        yield f"  without the primary's answer in this log: {one.without_answer:,}"
    if one.without_lists:
        yield f"  without items in the log, on one side or both: {one.without_lists:,}"
    for name, words in NAMES.items():
        found = one.measures[name]
        if found.n:
            low, high = found.bounded_interval(*BOUNDS[name])
            of = "" if found.n == one.compared else f"  of {counted(found.n, 'request')}"
            yield f"  {words:<20} {found.mean:6.3f}  ({low:.3f} to {high:.3f}){of}"
    if one.compared:
        yield (
            f"  different items      {one.items:,} beside {one.primary_items:,} of {one.primary}; "
            f"{one.items_of_both:,} in both"
        )
    if one.latency_difference.n:
        mine, theirs = one.latency, one.primary_latency
        yield f"  latency p50, p95     {mine.p50:.1f}, {mine.p95:.1f} ms beside {theirs.p50:.1f}, {theirs.p95:.1f} ms"
    beside = "" if one.primary_errors is None else f" beside {one.primary_errors:.2%} of {one.primary}"
    bad = ", ".join(f"{n:,} {status}" for status, n in one.statuses.items() if status != "OK")
    yield f"  errors               {one.errors.mean:.2%}{beside}{f': {bad}' if bad else ''}"
    for request in one.differ_most[:3]:
        if request.rank_biased_overlap < 1:
            yield f"  differs most         request {request.request_id}: overlap@10 {request.overlap_at_10:.2f}"
    for value in one.by_attribute:
        found = value.overlap_at_10
        low, high = found.bounded_interval(0.0, 1.0)
        yield (
            f"  {value.attribute} = {value.value}: overlap@10 {found.mean:.3f} ({low:.3f} to {high:.3f}) "
            f"of {counted(found.n, 'request')}"
        )


def _time(at_us: int) -> str:
    return time_text(moment(at_us).replace(microsecond=0))
