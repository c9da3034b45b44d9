"""What an interleaving's page says of users' preference: answers, rows, one picture."""

import math
from dataclasses import dataclass, replace

import numpy as np
from abfleet_analysis.decision.preference import ALPHA, PreferenceResult
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.details import MetricPath
from abfleet_analysis.report.interleaving import HEAD, preference_rows, preference_sentences, share_interval
from abfleet_analysis.report.report import ExperimentReport

from abfleet_dashboard.numbers import counted, share, spaced
from abfleet_dashboard.pictures import estimate as estimates
from abfleet_dashboard.pictures.picture import Picture


@dataclass(frozen=True, slots=True)
class PreferenceView:
    """The table of both versions, as text, and what to know beside it."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    path: Picture | None


def preference_view(report: ExperimentReport, key: str) -> PreferenceView | None:
    """The view of one report; None where its groups are compared."""
    result = report.preference
    if result is None:
        return None
    sentences = tuple(f"{_begun(spaced(text))}." for text in preference_sentences(result, report.plan))
    rows = tuple(tuple(map(spaced, row)) for row in preference_rows(result))
    return PreferenceView(tuple(map(_begun, HEAD)), rows, sentences, _path(report, result, key))


def _begun(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _path(report: ExperimentReport, result: PreferenceResult, key: str) -> Picture | None:
    """Users who prefer the second version, less those who prefer the first, at each look."""
    first, second = result.evidence.versions
    none = np.full(len(result.values), math.nan)
    path = MetricPath(
        "preference", "primary", "up", second, -result.values, -result.highs, -result.lows, none, none, none
    )
    title = f"Users who prefer {second}, less those who prefer {first}, of those with a preference"
    found = estimates.estimate(f"{key}-preference", title, path, report.gathered.looks.times[: result.look])
    return None if found is None else replace(found, csv="preference-over-time")


def preference_headline(report: ExperimentReport, result: PreferenceResult) -> str:
    """The verdict in one line, with the numbers that it rests on."""
    verdict, version = report.decision.verdict, report.decision.version
    if verdict is Verdict.PREFER and version is not None:
        return f"Users prefer {version}: {share(_share(result, version), 1)} of those with a preference"
    if verdict is Verdict.REFUSE:
        return "No conclusion: the data is broken"
    if verdict is Verdict.NO_PREFERENCE:
        return "No preference was found"
    return "Keep running: nothing is decided yet"


def preference_todo(report: ExperimentReport) -> str:
    """What the owner of the experiment should do now, while it runs."""
    return {
        Verdict.PREFER: (
            f"End the experiment. Where revenue, errors or response times matter, give {report.decision.version} "
            "an A/B test before everyone gets it: a preference says nothing of these."
        ),
        Verdict.NO_PREFERENCE: (
            "End the experiment and keep what there is; an A/B test of the two would need far more users."
        ),
        Verdict.REFUSE: "Find out what broke the data, fix it, and start again with a new salt. Ship nothing on this.",
    }.get(report.decision.verdict, "Leave everything as it is and look again later; looking early does no harm.")


def preference_winner(report: ExperimentReport, result: PreferenceResult) -> str:
    """Which version wins, or why none does yet."""
    verdict, version = report.decision.verdict, report.decision.version
    if verdict is Verdict.PREFER and version is not None:
        return f"{version}: its items are clicked by more users than those of {_other(result, version)}."
    if verdict is Verdict.REFUSE:
        return "Unknown: with data like this, any apparent winner may be an artefact of what is missing."
    if verdict is Verdict.NO_PREFERENCE:
        return "None. Users could not be shown to prefer either version in the time there was."
    if not math.isfinite(result.value):
        return "Not known yet: no user has a preference."
    if not result.value:
        return "Not decided yet. As many users prefer one version as the other."
    return f"Not decided yet. More users prefer {result.leading}, which may still be chance."


def preference_amounts(result: PreferenceResult) -> tuple[str, ...]:
    """By how much, in sentences."""
    first, second, undecided = result.users
    if not first + second:
        return ("Nobody has clicked more of one version's items than of the other's.",)
    numbers = ", ".join(
        f"{version} by {counted(users, 'user')}"
        for version, users in zip(result.evidence.versions, (first, second), strict=True)
    )
    return (f"Preferred: {numbers}; neither by {counted(undecided, 'user')} whose lists differed.",)


def preference_sureness(report: ExperimentReport, result: PreferenceResult) -> tuple[str, ...]:
    """How sure that is, and what it means."""
    if report.decision.verdict is Verdict.REFUSE:
        return ("Not at all: statistics describe chance, and this is not chance.",)
    found = []
    if report.decision.verdict is Verdict.PREFER:
        found.append(
            f"Where users prefer neither, one is called preferred in at most {share(ALPHA, 0)} of all experiments, "
            "at any number of looks."
        )
    version = report.decision.version or result.leading
    if (interval := share_interval(result, version)) != "-":
        text = spaced(interval).replace(" to ", " and ")
        found.append(
            f"At all looks together, the share of users who prefer {version} lies between {text}, in 95\u00a0% of all "
            "experiments."
        )
    return tuple(found) or ("Nothing is known yet.",)


def _share(result: PreferenceResult, version: str) -> float:
    return result.of(version, result.value)


def _other(result: PreferenceResult, version: str) -> str:
    return next(one for one in result.evidence.versions if one != version)
