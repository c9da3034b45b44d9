"""What a report shows of an interleaving, beside its verdict: as JSON, as rows and as sentences. Decides nothing."""

import math
from collections.abc import Iterator, Sequence

from abfleet_experiments.config import AnalysisPlan
from abfleet_process.counting import counted

from abfleet_analysis.decision.ab_estimate import AbTestEstimate, ab_estimate
from abfleet_analysis.decision.preference import PreferenceResult

HEAD = ("version", "users who prefer it", "of users with a preference", "95 %, at all looks", "clicks on its items")
"""Of `preference_rows`."""


def preference_document(result: PreferenceResult, plan: AnalysisPlan) -> dict[str, object]:
    """The key `preference` of an experiment. Lists of two are in the order of `versions`."""
    evidence, (first, second, undecided) = result.evidence, result.users
    calls, clicks, estimate = evidence.calls, evidence.clicks, ab_estimate(evidence.clicks, plan)
    return {
        "versions": list(evidence.versions),
        "look": result.look or None,
        "value": _number(result.value),
        "sequential_interval": _numbers(result.sequential_interval),
        "interval": _numbers(result.interval),
        "p_value": _number(result.p_value),
        "z": _number(result.z),
        "boundary": _number(result.boundary),
        "users_preferring": [first, second],
        "users_without_preference": undecided,
        "users_differing": first + second + undecided,
        "calls": {
            "merged": calls.merged,
            "identical": calls.identical,
            "fallbacks": calls.fallbacks,
            "failures": calls.failures,
            "other_versions": calls.other_versions,
            "unusable": calls.unusable,
        },
        "clicks": {
            "credits": [clicks.first, clicks.second],
            "nobodys": clicks.nobodys,
            "without_request": clicks.without_request,
        },
        "draft": {
            "ok": result.draft.ok,
            "first_picks": [round(n) for n in result.draft.observed],
            "p_value": _number(result.draft.p_value),
            "e_value": _number(result.draft.e_value),
        },
        "ab_test": None
        if estimate is None
        else {
            "effect": _numbers(estimate.effect),
            "users": _numbers(estimate.users),
            "users_interval": _numbers(estimate.users_interval),
        },
        "path": [
            {"look": look, "value": _number(value), "sequential_interval": _numbers((low, high))}
            for look, (value, low, high) in enumerate(
                zip(result.values.tolist(), result.lows.tolist(), result.highs.tolist(), strict=True), start=1
            )
        ],
    }


def preference_rows(result: PreferenceResult) -> list[tuple[str, ...]]:
    """One row for each version, as text, under HEAD."""
    evidence, (first, second, _) = result.evidence, result.users
    credit = (evidence.clicks.first, evidence.clicks.second)
    return [
        (
            version,
            f"{users:,}",
            _percent(result.of(version, result.value)),
            share_interval(result, version),
            f"{clicks:,}",
        )
        for version, users, clicks in zip(evidence.versions, (first, second), credit, strict=True)
    ]


def share_interval(result: PreferenceResult, version: str) -> str:
    """The interval of all looks, of the share of users with a preference who prefer a version; - where unknown."""
    low, high = sorted(result.of(version, bound) for bound in result.sequential_interval)
    return f"{low:.1%} to {high:.1%}" if math.isfinite(low) and math.isfinite(high) else "-"


def preference_sentences(result: PreferenceResult, plan: AnalysisPlan) -> Iterator[str]:
    """What to know beside the table, with the population of each number; without a full stop."""
    evidence, (first, second, undecided) = result.evidence, result.users
    calls, clicks = evidence.calls, evidence.clicks
    differing = first + second + undecided
    yield (
        f"the lists of {counted(differing, 'user')} have differed: {first + second:,} have a preference, {undecided:,} "
        "have clicked on none of either version's items or on as many of both"
    )
    if calls.merged:
        yield (
            f"merged lists: {calls.merged:,}, of which {calls.identical:,} were identical and say nothing; clicks on "
            f"items of neither team: {clicks.nobodys:,}"
        )
    if calls.fallbacks or calls.failures:
        yield (
            f"left out, because not both versions answered: {counted(calls.fallbacks, 'fallback')} and "
            f"{counted(calls.failures, 'failed call')} of {calls.all:,}"
        )
    if calls.other_versions:
        yield f"left out, because the experiment had another pair of versions: {counted(calls.other_versions, 'call')}"
    if clicks.without_request:
        yield f"clicks without a request id, which are credit for nobody: {clicks.without_request:,}"
    if result.draft.ok and any(result.draft.observed):
        picks = ", ".join(f"{v} {n:,.0f}" for v, n in zip(evidence.versions, result.draft.observed, strict=True))
        yield f"drafts: fair (p = {result.draft.p_value:.3g}); picked first: {picks}"
    if (estimate := ab_estimate(clicks, plan)) is not None and differing:
        yield ab_sentence(estimate, int(evidence.users[-1]))


def ab_sentence(estimate: AbTestEstimate, users: int) -> str:
    """What an A/B test would need, beside the users of this experiment."""
    least, most = estimate.users
    if not all(map(math.isfinite, estimate.effect)):
        return "an A/B test cannot be planned from these credits, because nearly all clicks are on one version's items"
    small, large = estimate.effect
    return (
        f"an A/B test of the two would need some {_rounded(least):,} to {_rounded(most):,} users for the change of "
        f"clicks per list that these credits suggest ({small:.1%} to {large:.1%}, depending on how many items the "
        f"lists share); {counted(users, 'user')} are in this experiment"
    )


def _rounded(users: float) -> int:
    """To two digits: more are not known."""
    unit: int = 10 ** max(int(math.log10(max(users, 1))) - 1, 0)
    return round(users / unit) * unit


def _percent(share: float) -> str:
    return f"{share:.1%}" if math.isfinite(share) else "-"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [_number(value) for value in values]
