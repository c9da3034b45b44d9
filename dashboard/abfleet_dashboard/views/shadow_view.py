"""Answers in the shadow beside those that users got: how alike they are, what they cost, where they differ most."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from abfleet_analysis.periods.allocation_periods import moment
from abfleet_analysis.shadow.compare import BOUNDS, AttributeValue, Latencies, ShadowComparison
from abfleet_analysis.shadow.words import NAMES
from abfleet_experiments.config import Config, Shadow
from abfleet_statistics.clusters import ClusteredMean
from markupsafe import Markup

from abfleet_dashboard.numbers import MINUS, UNKNOWN, counted, duration, instant, milliseconds, share, whole
from abfleet_dashboard.pictures.scales import Scale
from abfleet_dashboard.pictures.strip import strip, strip_axis
from abfleet_dashboard.situation import Situation

MEANINGS: Final[Mapping[str, str]] = {
    "overlap_at_1": "the first item is the same",
    "overlap_at_5": "share of the first five items that both lists have",
    "overlap_at_10": "share of the first ten items that both lists have",
    "rank_biased_overlap": "items that both lists have; the top of the list counts most",
    "kendall_tau_b": "order of the items that both lists have; 1 is the same order, \u22121 the reverse",
    "identical": "the same items in the same order",
}
"""What each measure of two lists says, beside its name."""
_LOWEST: Final = (0.0, -0.25, -0.5, -0.75, -1.0)


@dataclass(frozen=True, slots=True)
class LikenessRow:
    """A mean over requests, as text, with its 95 % interval drawn."""

    name: str
    meaning: str
    value: str
    interval: str
    requests: str
    strip: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonView:
    """One version in the shadow of one other, as values; `key` begins all ids of it on the page.

    Attributes:
        summary: Calls, users, how many were compared, and since when. notes: What could not be compared, and why.
        measures, axis: How alike the lists are. attributes: Overlap@10 by value of an attribute, on `attribute_axis`.
        costs: (what, shadow, primary) of response times, errors and coverage; `difference`: Of the mean response time.
        requests: (request id, rank-biased overlap, overlap@10) of those that differ most.
    """

    key: str
    version: str
    primary: str
    summary: str
    headline: str
    notes: tuple[str, ...]
    axis: Markup
    measures: tuple[LikenessRow, ...]
    costs: tuple[tuple[str, str, str], ...]
    difference: str
    statuses: str
    attribute_axis: Markup
    attributes: tuple[tuple[str, tuple[LikenessRow, ...]], ...]
    requests: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowView:
    """The page: what the file asks for, the comparisons, or in `empty` why there are none."""

    asked: tuple[str, ...]
    comparisons: tuple[ComparisonView, ...]
    empty: str
    problem: str
    synthetic: str
    made: str


def shadow_view(situation: Situation) -> ShadowView:
    """The view of the newest comparisons."""
    known = situation.shadow
    report = known.report
    return ShadowView(
        asked=shadow_sentences(situation.config),
        comparisons=tuple(_comparison(f"s{n}", one) for n, one in enumerate(report.comparisons)) if report else (),
        empty=_empty(situation),
        problem="" if known.problem is None else f"The shadow calls could not be compared: {known.problem}",
        synthetic=f"Left out: {counted(report.synthetic, 'synthetic call')}." if report and report.synthetic else "",
        made="" if known.made_at is None else f"Compared {instant(known.made_at, seconds=True)}.",
    )


def shadow_sentences(config: Config | None) -> tuple[str, ...]:
    """Which versions the file has asked in the shadow, one sentence each."""
    return () if config is None else tuple(_asked(one) for one in config.shadow)


def _asked(one: Shadow) -> str:
    of = f"calls that {' and '.join(one.of)} answered" if one.of else "calls that other versions answered"
    return f"{one.model} is asked in the shadow with {one.percent_bp / 100:g}\u00a0% of the {of}."


def _empty(situation: Situation) -> str:
    report = situation.shadow.report
    if report is None:
        return (
            ""
            if situation.shadow.problem
            else "The log is being read for shadow calls; this page shows them when that is done."
        )
    if report.comparisons:
        return ""
    if situation.config is not None and situation.config.shadow:
        return "The log has no shadow call yet. A line is written seconds after its call; a call that is shed has none."
    return "No version is asked in the shadow. The key shadow of the experiments file names a version."


def _comparison(key: str, one: ShadowComparison) -> ComparisonView:
    lowest = min(
        (_interval(one.measures[name], *BOUNDS[name])[0] for name in BOUNDS if one.measures[name].n), default=0.0
    )
    axis = Scale(next(low for low in _LOWEST if low <= max(lowest, -1.0)), 1.0)
    flat = Scale(0.0, 1.0)
    return ComparisonView(
        key=key,
        version=one.version,
        primary=one.primary,
        summary=_summary(one),
        headline=_headline(one),
        notes=tuple(_notes(one)),
        axis=strip_axis(axis, _mark),
        measures=tuple(
            _row(_begun(NAMES[name]), MEANINGS[name], one.measures[name], BOUNDS[name], axis) for name in BOUNDS
        ),
        costs=tuple(_costs(one)),
        difference=_difference(one.latency_difference),
        statuses=_failed(one.statuses),
        attribute_axis=strip_axis(flat, _mark),
        attributes=_attributes(one.by_attribute, flat),
        requests=tuple(
            (request.request_id, _number(request.rank_biased_overlap), _number(request.overlap_at_10))
            for request in one.differ_most
            if request.rank_biased_overlap < 1
        ),
    )


def _summary(one: ShadowComparison) -> str:
    first, last = moment(one.first_us), moment(one.last_us)
    calls, compared = counted(one.asked, "shadow call"), counted(one.compared, "pair")
    return (
        f"{calls} of {counted(one.users, 'user')}, {compared} of lists compared, "
        f"from {instant(first)} to {instant(last)} ({duration((last - first).total_seconds())})."
    )


def _headline(one: ShadowComparison) -> str:
    """The first thing to know, in a sentence."""
    if not one.compared:
        return "No pair of lists could be compared."
    same, common = one.measures["identical"].mean, one.measures["overlap_at_10"].mean
    return (
        f"{share(same)} of the answers are identical; on average the two lists share {share(common)} of their first "
        "ten items."
    )


def _failed(statuses: Mapping[str, int]) -> str:
    """The shadow calls without an answer, with their status."""
    failed = {status: count for status, count in statuses.items() if status != "OK"}
    if not failed:
        return ""
    which = ", ".join(f"{count:,} {status}" for status, count in failed.items())
    return f"{counted(sum(failed.values()), 'shadow call')} got no answer: {which}."


def _notes(one: ShadowComparison) -> Sequence[str]:
    found = []
    if one.without_answer:
        found.append(f"{counted(one.without_answer, 'call')} without the user's answer in this log.")
    if one.without_lists:
        found.append(f"{counted(one.without_lists, 'call')} without items in the log, on one side or both.")
    return found


def _costs(one: ShadowComparison) -> Sequence[tuple[str, str, str]]:
    def times(of: Latencies) -> tuple[str, ...]:
        return tuple(milliseconds(value) for value in (of.mean, of.p50, of.p95))

    names = ("Response time, mean", "Response time, p50", "Response time, p95")
    rows = list(zip(names, times(one.latency), times(one.primary_latency), strict=True))
    low, high = one.errors.bounded_interval(0.0, 1.0)
    errors = f"{share(one.errors.mean)} ({share(low)} to {share(high)})"
    theirs = "no calls" if one.primary_errors is None else share(one.primary_errors)
    items = ("Different items", whole(one.items), f"{whole(one.primary_items)}; {whole(one.items_of_both)} in both")
    return [*rows, ("Calls without an answer", errors, theirs), items]


def _difference(found: ClusteredMean) -> str:
    if not found.n:
        return ""
    low, high = found.interval()
    known = math.isfinite(low)
    between = f" (95\u00a0% interval of the difference {_signed(low)} to {_signed(high)})" if known else ""
    than = "longer" if found.mean >= 0 else "shorter"
    by = milliseconds(abs(found.mean))
    return (
        f"Of the {counted(found.n, 'request')} that both answered, the shadow took {by} {than} on "
        f"average{between}. A shadow call waits until the router has time; its time is measured from when it is sent."
    )


def _attributes(values: Sequence[AttributeValue], axis: Scale) -> tuple[tuple[str, tuple[LikenessRow, ...]], ...]:
    found: dict[str, list[LikenessRow]] = {}
    for one in values:
        meaning = f"identical: {share(one.identical.mean)}"
        found.setdefault(one.attribute, []).append(_row(one.value, meaning, one.overlap_at_10, (0.0, 1.0), axis))
    return tuple((name, tuple(rows)) for name, rows in found.items())


def _row(name: str, meaning: str, found: ClusteredMean, bounds: tuple[float, float], axis: Scale) -> LikenessRow:
    interval = _interval(found, *bounds)
    return LikenessRow(
        name=name,
        meaning=meaning,
        value=_number(found.mean),
        interval=f"{_number(interval[0])} to {_number(interval[1])}",
        requests=whole(found.n),
        strip=strip(axis, found.mean, interval),
    )


def _interval(found: ClusteredMean, low: float, high: float) -> tuple[float, float]:
    return found.bounded_interval(low, high) if found.n else (math.nan, math.nan)


def _begun(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", MINUS) if math.isfinite(value) else UNKNOWN


def _signed(value: float) -> str:
    return f"{value:+.2f}\u00a0ms".replace("-", MINUS)


def _mark(value: float, digits: int) -> str:
    return f"{value:.{digits + 1}f}".replace("-", MINUS)
