"""When data is too broken to conclude anything from it; each fault is a plain sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from abfleet_log.clocks import DAY_US
from abfleet_process.counting import counted
from abfleet_statistics import srm, tails
from abfleet_statistics.effects import Estimator, compare, contrast_z, merged
from abfleet_statistics.moments import Floats
from abfleet_statistics.score_test import nearer_to_0, null_moments
from abfleet_statistics.sequential import two_sided_p

from abfleet_analysis.decision.evidence import DataQuality, Evidence
from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.decision.verdicts import SampleRatio

TWO_GROUPS_SHARE: Final = 0.01
UNREADABLE_SHARE: Final = 0.001
WRONG_CLOCK_SHARE: Final = 0.01
TOLERATED_COUNT: Final = 10
"""Shares alone would refuse a log of a hundred lines for one of them."""
MOST_NAMED: Final = 3
"""Routers that a sentence names."""
UNJOINED_P: Final = 0.001
FEWEST_EXPECTED: Final = 5.0
"""Below this a chi-square's p-value is far too small: one lost request of a group of 1 % would have 10⁻²³."""
BEFORE_P: Final = 0.001
NO_TRAFFIC_P: Final = 0.0005
COVERAGE_P: Final = 0.0001
"""Of the groups' impression coverages, by users; low, because every report of a month looks at it."""
COVERAGE_SHARE: Final = 0.01
"""By how much the difference of coverages must change what clicks are divided by; where a list has one impression, or
all of them have, it changes nothing."""


@dataclass(frozen=True, slots=True)
class SampleRatioPath:
    """The test of the groups' sizes at each time.

    Attributes:
        log_e: float64[times], summed over strata. broken: bool[times], whether E has ever reached 1/alpha.
        p: float64[times], of the chi-square, for one look.
    """

    log_e: Floats
    broken: Floats
    p: Floats
    last: SampleRatio


def sample_ratio_path(evidence: Evidence) -> SampleRatioPath:
    """The tests of sample-ratio mismatch, over the users who count and their first allocations."""
    observed = merged(evidence.membership, evidence.new_users)
    log_e = srm.log_e_value(observed, evidence.shares).sum(axis=1)
    statistic, degrees = srm.chi_square(observed, evidence.shares)
    taking_part = observed.sum(axis=2) > 0
    p = srm.chi_square_p((statistic * taking_part).sum(axis=1), (degrees * taking_part).sum(axis=1))
    broken = np.maximum.accumulate(log_e) >= -np.log(srm.ALPHA)
    total = evidence.shares[-1].sum(axis=1, keepdims=True)
    scaled = np.divide(evidence.shares[-1], total, out=np.zeros_like(evidence.shares[-1]), where=total > 0)
    expected = (observed[-1].sum(axis=1, keepdims=True) * scaled).sum(axis=0)
    last = SampleRatio(
        ok=not broken[-1],
        p_value=float(p[-1]),
        e_value=float(np.exp(min(log_e[-1], 700.0))),
        observed=tuple(observed[-1].sum(axis=0).tolist()),
        expected=tuple(expected.tolist()),
    )
    return SampleRatioPath(log_e, broken, p, last)


def sample_ratio_reason(groups: Sequence[str], ratio: SampleRatio) -> str:
    """The sentence for groups of the wrong size."""
    sizes = ", ".join(
        f"{name} has {counted(seen, 'user')} ({wanted:,.0f} expected)"
        for name, seen, wanted in zip(groups, ratio.observed, ratio.expected, strict=True)
    )
    return f"sample-ratio mismatch: {sizes} (p = {ratio.p_value:.2g}); users or log lines of a group are missing"


def of_lines(quality: DataQuality) -> list[str]:
    """What is wrong with the lines of a log, whatever they are compared for."""
    found = []
    if _above(quality.unreadable, quality.lines, UNREADABLE_SHARE):
        share = quality.unreadable / quality.lines
        found.append(f"{quality.unreadable:,} of {quality.lines:,} log lines ({share:.2%}) cannot be read")
    return found + _clocks(quality)


def log_faults(evidence: Evidence) -> list[str]:
    """What is wrong with the log as a whole."""
    quality, found = evidence.quality, []
    if _above(quality.users_in_two_groups, quality.users, TWO_GROUPS_SHARE):
        share = quality.users_in_two_groups / quality.users
        found.append(f"{quality.users_in_two_groups:,} users ({share:.1%}) were served in two groups of one allocation")
    found += of_lines(quality) + _unjoined(evidence.groups, quality)
    found += _coverage(evidence)
    users = evidence.users[-1] if evidence.newest_users is None else evidence.newest_users
    for name, weight, seen in zip(evidence.groups, evidence.weights, users, strict=True):
        if weight > 0 and seen == 0 and (1 - weight) ** users.sum() < NO_TRAFFIC_P:
            found.append(f"group {name} has a weight of {weight:.0%} and none of {counted(users.sum(), 'user')}")
    return found


def before_faults(evidence: Evidence, rule: MetricRule, group: int) -> list[str | None]:
    """Whether the primary metric differed before the experiment began, when nothing had been changed yet.

    One for each time, of the users who are known then; None where it did not differ, or too few had an event to say so.
    The test is that of the metric itself, because a small group without an event has no variance of its own.
    """
    times, moments = len(evidence.membership), evidence.quality.before
    if moments is None:
        return [None] * times
    estimator = Estimator.MEAN if rule.estimator is Estimator.CUPED else rule.estimator
    periods = moments.n.shape[1]
    one_stratum_each = np.broadcast_to(np.eye(periods), (times, periods, periods))  # each allocation is a stratum
    comparison = compare(moments, one_stratum_each, group, estimator=estimator)
    null = null_moments(moments, one_stratum_each, group, estimator=estimator, binary=rule.binary)
    above, below = (nearer_to_0(null.z(sign), contrast_z(comparison, sign=sign)) for sign in (1, -1))
    z = np.fmax(np.fmax(above, below), 0.0)
    p = np.where(null.counts, two_sided_p(z), 1.0)
    return [
        f"{rule.name} of {evidence.groups[group]} differed from control in the 14 days before the experiment "
        f"(p = {one:.2g}): the groups already differed before it began"
        if one < BEFORE_P
        else None
        for one in p.tolist()
    ]


def _unjoined(groups: Sequence[str], quality: DataQuality) -> list[str]:
    if not len(quality.joined):
        return []
    table = np.stack([quality.unjoined, quality.joined])
    table = table[:, table.sum(axis=0) > 0]
    total = table.sum()
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return []
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / total
    if expected.min() >= FEWEST_EXPECTED:
        p = float(tails.chi_square_above(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))
    else:
        p = _uneven(table[0], table.sum(axis=0) / total)
    if not p < UNJOINED_P:
        return []
    totals = quality.joined + quality.unjoined
    shares = ", ".join(
        f"{name} {missing / total:.1%}"
        for name, missing, total in zip(groups, quality.unjoined, totals, strict=True)
        if total
    )
    rare = "outcomes without a request in the log are not equally frequent in all groups"
    return [f"{rare}: {shares} of the users with outcomes (p = {p:.2g})"]


def _uneven(counts: Floats, shares: Floats) -> float:
    """The p-value of counts: float64[groups], too small for a chi-square: exact, times how many groups there are."""
    n = int(counts.sum())
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    smallest = 1.0
    for count, share in zip(counts.astype(int), shares, strict=True):
        logs = log_factorial[n] - log_factorial - log_factorial[::-1] + k * np.log(share) + (n - k) * np.log1p(-share)
        chances = np.exp(logs)
        smallest = min(smallest, 2 * chances[: count + 1].sum(), 2 * chances[count:].sum())
    return float(min(1.0, smallest * len(counts)))


def _clocks(quality: DataQuality) -> list[str]:
    found = []
    if _above(quality.wrong_clock, quality.lines, WRONG_CLOCK_SHARE):
        share = quality.wrong_clock / quality.lines
        routers = f" (routers: {_named(quality.wrong_clock_routers)})" if quality.wrong_clock_routers else ""
        found.append(
            f"{quality.wrong_clock:,} of {quality.lines:,} log lines ({share:.1%}) have a time far from the rest of "
            f"the log{routers}: a clock was wrong, or a few calls were made long before or after the others"
        )
    for off in quality.routers_off:
        days, way = abs(off.ahead_us) / DAY_US, "ahead of" if off.ahead_us > 0 else "behind"
        if off.beside:
            found.append(f"the clocks of routers {off.router} and {off.beside} differ by {days:,.1f} days in all calls")
        else:
            found.append(f"the clock of router {off.router} is {days:,.1f} days {way} the others in all calls")
    return found


def _named(routers: Sequence[str]) -> str:
    more = len(routers) - MOST_NAMED
    return ", ".join(routers[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _coverage(evidence: Evidence) -> list[str]:
    """Groups of whose lists another share has impressions: ctr then compares lists of one with items of the other."""
    coverage, shares = evidence.quality.coverage, evidence.impression_coverage
    if coverage is None or shares is None:
        return []
    ctr = next(m.moments for m in evidence.metrics if m.rule.source is MetricSource.CLICKS)
    covered, answered, shown = (evidence.now(part).sum() for part in (coverage.y, coverage.z, ctr.z))
    more_items = (shown - answered) / covered if covered else 0.0
    found = []
    for group in range(1, len(evidence.groups)):
        null = null_moments(coverage, evidence.membership, group, estimator=Estimator.RATIO)
        z = max(float(null.z(sign)[-1]) for sign in (1, -1))
        changed = abs(shares[group] - shares[0]) * more_items * answered / shown if shown else 0.0
        p = float(two_sided_p(z))
        if null.counts[-1] and p < COVERAGE_P and changed > COVERAGE_SHARE:
            found.append(
                f"{shares[group]:.1%} of the lists of {evidence.groups[group]} have an impression, but {shares[0]:.1%} "
                f"of those of {evidence.groups[0]}, so their ctr cannot be compared (p = {p:.2g})"
            )
    return found


def _above(count: int, total: int, share: float) -> bool:
    return count > TOLERATED_COUNT and total > 0 and count > share * total
