"""What happened between two statuses of a router: calls a second, shares, percentiles. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from abfleet_protos.admin_pb2 import GroupStatus, StatusResponse

NOBODY = "(no experiment)"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRate:
    """One group between two statuses.

    Attributes:
        share: Of all calls between the two, 0 to 1; None when there were none.
        p50_ms, p99_ms: Arrival to answer, interpolated inside a bucket; None without calls.
        calls, errors, fallbacks: Between the two.
    """

    experiment: str
    group: str
    model_version: str
    calls_per_s: float
    share: float | None
    p50_ms: float | None
    p99_ms: float | None
    calls: int
    errors: int
    fallbacks: int


@dataclass(frozen=True, slots=True)
class Rates:
    """All groups, in the router's order, and the sum of them."""

    groups: tuple[GroupRate, ...]
    total: GroupRate


def between(before: StatusResponse | None, after: StatusResponse) -> Rates:
    """What happened between two statuses of one router; since its start if there is no earlier one.

    A router that was started again in between counts from 0: then the earlier status is left out.
    """
    if before is not None and before.uptime_s >= after.uptime_s:
        before = None
    seconds = after.uptime_s - (before.uptime_s if before else 0.0)
    past = {_key(group): group for group in before.groups} if before else {}
    counted = [_since(past.get(_key(group)), group) for group in after.groups]
    total_calls = sum(one.calls for one in counted)
    groups = tuple(_rate(one, seconds, total_calls) for one in counted)
    return Rates(groups, _rate(_sum(counted), seconds, total_calls))


def percentile(bounds: Sequence[float], counts: Sequence[int], quantile: float) -> float | None:
    """The value below which a part of the observations lies; None without observations.

    `counts[i]` were in `(bounds[i - 1], bounds[i]]`, the last one above every bound. Inside a bucket values are taken
    as evenly spread, as Prometheus' histogram_quantile does; above the last bound, that bound is the answer.
    """
    total = sum(counts)
    if not total:
        return None
    rank = quantile * total
    running = list(accumulate(counts))
    index = next(index for index, reached in enumerate(running) if reached >= rank and counts[index])
    if index >= len(bounds):
        return bounds[-1]
    low = bounds[index - 1] if index else 0.0
    return low + (bounds[index] - low) * (rank - (running[index] - counts[index])) / counts[index]


@dataclass(frozen=True, slots=True)
class _Counted:
    experiment: str
    group: str
    model_version: str
    calls: int
    errors: int
    fallbacks: int
    bounds: Sequence[float]
    counts: Sequence[int]


def _key(group: GroupStatus) -> tuple[str, str, str]:
    return group.experiment, group.group, group.model_version


def _since(before: GroupStatus | None, after: GroupStatus) -> _Counted:
    calls, errors, fallbacks, counts = after.calls, after.errors, after.fallbacks, list(after.latency.counts)
    if before is not None:
        calls, errors, fallbacks = calls - before.calls, errors - before.errors, fallbacks - before.fallbacks
        counts = [new - old for new, old in zip(counts, before.latency.counts, strict=True)]
    return _Counted(*_key(after), calls, errors, fallbacks, after.latency.bounds_s, counts)


def _sum(groups: Sequence[_Counted]) -> _Counted:
    calls, errors, fallbacks = (
        (sum(values) for values in zip(*((g.calls, g.errors, g.fallbacks) for g in groups), strict=True))
        if groups
        else (0, 0, 0)
    )
    counts = [sum(column) for column in zip(*(group.counts for group in groups), strict=True)]
    return _Counted("", "", "", calls, errors, fallbacks, groups[0].bounds if groups else (), counts)


def _rate(counted: _Counted, seconds: float, total_calls: int) -> GroupRate:
    p50_s, p99_s = (percentile(counted.bounds, counted.counts, quantile) for quantile in (0.5, 0.99))
    return GroupRate(
        experiment=counted.experiment,
        group=counted.group,
        model_version=counted.model_version,
        calls_per_s=counted.calls / seconds if seconds > 0 else 0.0,
        share=counted.calls / total_calls if total_calls else None,
        p50_ms=None if p50_s is None else p50_s * 1000,
        p99_ms=None if p99_s is None else p99_s * 1000,
        calls=counted.calls,
        errors=counted.errors,
        fallbacks=counted.fallbacks,
    )
