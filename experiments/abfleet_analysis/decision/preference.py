"""Which of two interleaved versions users prefer: a pure function of users' credits, replayed look by look.

The first that applies:

1. refuse: the log is broken, or one version has picked first more often than a fair coin allows;
2. prefer: the sign test of users has crossed its boundary at a look (abfleet_statistics/preference.py);
3. no preference: the horizon has ended; else keep running.

`plan.minimum` holds nothing back: which list is clicked does not hang on the day of the week as a rate does.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from abfleet_experiments.config import AnalysisPlan
from abfleet_process.counting import counted
from abfleet_statistics import srm
from abfleet_statistics.moments import Floats
from abfleet_statistics.preference import Preferences, PreferenceTest
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Calendar, DataQuality
from abfleet_analysis.decision.faults import of_lines
from abfleet_analysis.decision.verdicts import Decision, SampleRatio, Verdict

ALPHA: Final = 0.05
"""Two-sided: where users prefer neither version, one is called preferred in at most so many experiments."""
SINGLE_LOOK: Final = 0.025
"""On each side of an interval for one look."""
MOST_UNUSABLE: Final = 0.001
"""Of interleaved calls, whose teams do not fit their items."""


@dataclass(frozen=True, slots=True)
class InterleavedCalls:
    """The calls of an interleaving at the moment of the report.

    Attributes:
        merged: Calls with a list that was drafted from both versions' lists. identical: Of these, calls whose lists do
            not differ in what was shown.
        fallbacks: Calls that one version or the default answered alone. failures: Calls that nobody answered.
        other_versions: Calls of another pair than the experiment's. unusable: Calls whose teams do not fit their items.
    """

    merged: int = 0
    identical: int = 0
    fallbacks: int = 0
    failures: int = 0
    other_versions: int = 0
    unusable: int = 0

    @property
    def all(self) -> int:
        """All of them."""
        return self.merged + self.fallbacks + self.failures + self.other_versions + self.unusable


@dataclass(frozen=True, slots=True)
class ClickSums:
    """Clicks on merged lists, at the moment of the report, and sums over their users.

    Attributes:
        first, second, nobodys: Clicks on items of each team, and of none, as in identical lists.
        without_request: Clicks that name no call, and so no team. not_in_list: Clicks on an item that was not shown.
        users: Who have a merged list. With y = clicks, z = lists, c = credits for the first version less those for the
            second: sums over these users of products.
    """

    first: int = 0
    second: int = 0
    nobodys: int = 0
    without_request: int = 0
    not_in_list: int = 0
    users: int = 0
    z: float = 0.0
    yy: float = 0.0
    yz: float = 0.0
    zz: float = 0.0
    cc: float = 0.0
    cz: float = 0.0

    @property
    def all(self) -> int:
        """Clicks on items that were shown."""
        return self.first + self.second + self.nobodys


@dataclass(frozen=True, slots=True)
class PreferenceEvidence:
    """What is known of one interleaving. Times are the looks, and last the moment of the report.

    Attributes:
        versions: The first and the second one; credits are counted as first less second.
        users: int64[times], users with a call. differing: int64[times], those of them with a merged list in which the
            two versions' lists differ.
        first_picks: int64[times, 2], merged lists in which the first, or the second, version picked first where the
            lists begin to differ.
    """

    versions: tuple[str, str]
    calendar: Calendar
    preferences: Preferences
    users: NDArray[np.int64]
    differing: NDArray[np.int64]
    first_picks: NDArray[np.int64]
    calls: InterleavedCalls = InterleavedCalls()
    clicks: ClickSums = ClickSums()
    quality: DataQuality = field(default_factory=DataQuality)


@dataclass(frozen=True)
class PreferenceResult:
    """What an interleaving shows, at its newest look; before the first one, at the moment of the report.

    Values are mean signs, -1 to 1: above 0 where more users prefer the first version.

    Attributes:
        look: Number of the newest look; 0 before the first.
        sequential_interval: 95 %, of all looks together. interval: 95 %, for this look alone. nan where unknown.
        z: As far from no preference as a standard normal that is as seldom. boundary: What |z| must reach; nan before
            the first look that counts.
        draft: Merged lists by the version that picked first, and whether a coin can have decided that.
        values, lows, highs: float64[looks], the value and the interval of all looks, at each look.
    """

    evidence: PreferenceEvidence
    look: int
    value: float
    sequential_interval: tuple[float, float]
    interval: tuple[float, float]
    p_value: float
    z: float
    boundary: float
    draft: SampleRatio
    values: Floats
    lows: Floats
    highs: Floats

    @property
    def time(self) -> int:
        """Of the evidence, what is shown."""
        return self.look - 1 if self.look else len(self.evidence.users) - 1

    @cached_property
    def users(self) -> tuple[int, int, int]:
        """Users who prefer the first version, the second one, and none although their lists differed."""
        found = self.evidence.preferences
        first, second = int(found.first[self.time]), int(found.second[self.time])
        return first, second, int(self.evidence.differing[self.time]) - first - second

    def of(self, version: str, value: float) -> float:
        """A mean sign as the share of users with a preference who prefer this version."""
        return (1 + (value if version == self.evidence.versions[0] else -value)) / 2

    @property
    def leading(self) -> str:
        """The version that more users prefer; the first one where they are equal."""
        return self.evidence.versions[int(self.value < 0)]


def judge_preference(
    evidence: PreferenceEvidence, plan: AnalysisPlan, *, shown: bool = True
) -> tuple[Decision, PreferenceResult]:
    """The verdict at every look and now, and what it rests on.

    Without `shown` no interval is computed, which saves the boundaries that no verdict needs.
    """
    calendar, versions = evidence.calendar, evidence.versions
    fractions = tuple((look + 1) / calendar.planned for look in range(calendar.done))
    test = PreferenceTest(evidence.preferences, fractions, alpha=ALPHA)
    fair, draft = _draft(evidence)
    history: list[tuple[Verdict, str | None]] = []
    crossed: str | None = None
    for look in range(calendar.done):
        if not fair[look]:
            history.append((Verdict.REFUSE, None))
            continue
        side = test.crossed(look) if crossed is None else 0
        crossed = crossed if side == 0 else versions[int(side < 0)]
        last = look + 1 == calendar.planned
        open_yet = Verdict.NO_PREFERENCE if last else Verdict.KEEP_RUNNING
        history.append((open_yet if crossed is None else Verdict.PREFER, crossed))
    result = _result(evidence, test, draft, shown=shown)
    faults = [*of_lines(evidence.quality), *_of_drafts(evidence, draft)]
    verdict, version = history[-1] if history else (Verdict.KEEP_RUNNING, None)
    if faults:
        verdict, version = Verdict.REFUSE, None
    left = max(calendar.planned - calendar.done, 0) * calendar.look_days
    return (
        Decision(
            verdict=verdict,
            group=None,
            version=version,
            reasons=tuple(faults) or tuple(_reasons(result, verdict, version, history)),
            history=tuple(history),
            groups=(),
            sample_ratio=SampleRatio(True, math.nan, math.nan, *[(float(evidence.users[-1]),)] * 2),
            users_planned=math.nan,
            days_left=left if evidence.users[-1] else math.nan,
        ),
        result,
    )


def _draft(evidence: PreferenceEvidence) -> tuple[NDArray[np.bool_], SampleRatio]:
    """Whether a fair coin can have decided who picks first: bool[times], once it cannot never again; and the test."""
    half = np.full_like(evidence.first_picks, 0.5, dtype=np.float64)
    log_e = srm.log_e_value(evidence.first_picks.astype(np.float64), half)
    fair = np.maximum.accumulate(log_e) < -math.log(srm.ALPHA)
    statistic, degrees = srm.chi_square(evidence.first_picks[-1], half[-1])
    picks = evidence.first_picks[-1]
    ratio = SampleRatio(
        ok=bool(fair[-1]),
        p_value=float(srm.chi_square_p(statistic, degrees)) if picks.sum() else math.nan,
        e_value=math.exp(min(float(log_e[-1]), 700.0)),
        observed=tuple(map(float, picks)),
        expected=(picks.sum() / 2,) * 2,
    )
    return fair, ratio


def _of_drafts(evidence: PreferenceEvidence, draft: SampleRatio) -> list[str]:
    found, calls = [], evidence.calls
    if not draft.ok:
        picks = " and ".join(
            f"{version} in {counted(n, 'list')}" for version, n in zip(evidence.versions, draft.observed, strict=True)
        )
        found.append(
            f"the drafts are not fair: {picks} picked first, where {draft.expected[0]:,.0f} each are expected "
            f"(p = {draft.p_value:.2g}); lists of one kind are missing, or the coin is not fair"
        )
    if calls.unusable > 10 and calls.unusable > MOST_UNUSABLE * calls.merged:
        found.append(f"{counted(calls.unusable, 'call')} of {calls.all:,} have teams that do not fit their items")
    return found


def _result(evidence: PreferenceEvidence, test: PreferenceTest, draft: SampleRatio, *, shown: bool) -> PreferenceResult:
    found, looks = evidence.preferences, evidence.calendar.done
    time = looks - 1 if looks else -1
    boundary = test.boundary(looks - 1) if looks and shown else math.inf
    intervals = [test.interval(look) if shown else (math.nan, math.nan) for look in range(looks)]
    lows, highs = np.array(intervals).reshape(-1, 2).T
    return PreferenceResult(
        evidence=evidence,
        look=looks,
        value=found.value(time),
        sequential_interval=intervals[-1] if intervals else (math.nan, math.nan),
        interval=found.interval(time, SINGLE_LOOK) if shown else (math.nan, math.nan),
        p_value=found.p_value(time),
        z=found.z(time),
        boundary=boundary if math.isfinite(boundary) else math.nan,
        draft=draft,
        values=np.array([found.value(look) for look in range(looks)]),
        lows=lows,
        highs=highs,
    )


def _reasons(
    result: PreferenceResult, verdict: Verdict, version: str | None, history: list[tuple[Verdict, str | None]]
) -> list[str]:
    evidence = result.evidence
    users = counted(int(evidence.users[-1]), "user")
    if verdict is Verdict.PREFER and version is not None:
        other = next(one for one in evidence.versions if one != version)
        first = next(look for look, (said, _) in enumerate(history, start=1) if said is Verdict.PREFER)
        return [f"users prefer {version} to {other}, by look {first}: {preference_words(result, version)}"]
    if verdict is Verdict.NO_PREFERENCE:
        words = preference_words(result, result.leading)
        return [f"the horizon has ended after {users}, and no boundary has been crossed: {words}"]
    if not evidence.calls.all:
        return ["no call of it is in the log yet"]
    if not evidence.calls.merged:
        return [
            f"no list has been merged yet: of {counted(evidence.calls.all, 'call')} none has both versions' answers"
        ]
    if not evidence.differing[-1]:
        return [
            f"the two versions' lists have not differed yet, in {counted(evidence.calls.merged, 'call')} of {users}"
        ]
    return [f"no boundary has been crossed after {users}: {preference_words(result, result.leading)}"]


def preference_words(result: PreferenceResult, version: str) -> str:
    """How many of the users with a preference prefer a version, and the interval, as the end of a sentence."""
    first, second, undecided = result.users
    if not first + second:
        whose = counted(undecided, "user") + " whose lists differed"
        return f"none of {whose} has clicked more of one version's items than of the other's"
    mine = first if version == result.evidence.versions[0] else second
    low, high = sorted(result.of(version, bound) for bound in result.sequential_interval)
    known = (
        f"always-valid 95 % interval {low:.1%} to {high:.1%}"
        if math.isfinite(low) and math.isfinite(high)
        else "no interval before the first look"
    )
    share = mine / (first + second)
    return f"{share:.1%} of the {counted(first + second, 'user')} with a preference prefer {version} ({known})"
