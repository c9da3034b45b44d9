"""From a log to the evidence of one interleaving, in the form that every report has, and what its verdict rests on."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from abfleet_experiments.config import INTERLEAVED, AnalysisPlan, Experiment

from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.excluded_time import ExcludedTime
from abfleet_analysis.decision.preference import PreferenceEvidence
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence
from abfleet_analysis.evidence.interleaved import pair_of, preference_evidence
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.log_quality import GroupFacts
from abfleet_analysis.periods.allocation_periods import (
    LoggedAllocation,
    Looks,
    allocation_events,
    find_allocations,
    looks_until,
    moment,
)

UNKNOWN_PAIR = ("the first version", "the second version")
"""Where neither the file nor a call names two."""


def is_interleaved(lines: LogTables, name: str, experiment: Experiment | None) -> bool:
    """Whether an experiment interleaves: as the file says, else as its newest call in the log was."""
    if experiment is not None:
        return experiment.interleave is not None
    newest = [max((row["newest"] for row in rows), default=-1) for rows in _rows(lines, name)]
    return newest[1] > newest[0]


def _rows(lines: LogTables, name: str) -> tuple[Sequence[dict[str, int]], Sequence[dict[str, int]]]:
    return lines.calls.allocated(name), lines.calls.interleaved(name)  # type: ignore[return-value]


def gather_preference(
    lines: LogTables,
    name: str,
    experiment: Experiment | None,
    plan: AnalysisPlan,
    as_of: datetime,
    *,
    excluded: ExcludedTime,
) -> tuple[GatheredEvidence, PreferenceEvidence]:
    """An interleaving's evidence as known at `as_of`. excluded: When calls do not count."""
    calls = lines.calls.interleaved(name)
    began = min((moment(row["oldest"]) for row in calls), default=as_of)
    looks = looks_until(began, as_of, plan)
    versions = (experiment.interleave if experiment is not None else pair_of(lines, name)) or UNKNOWN_PAIR
    found = preference_evidence(lines, name, versions, looks, excluded)
    allocations: list[LoggedAllocation] = []
    if calls:
        events = allocation_events(lines.all, name)
        allocations = find_allocations(calls, (INTERLEAVED,), experiment, events, as_of)
    return gathered_preference(found, looks, allocations), found


def gathered_preference(
    found: PreferenceEvidence, looks: Looks, allocations: Sequence[LoggedAllocation]
) -> GatheredEvidence:
    """The evidence in the form that every report has: one group, which is compared with none."""
    return GatheredEvidence(_evidence(found, looks), tuple(allocations), (_facts(found),), looks)


def _evidence(found: PreferenceEvidence, looks: Looks) -> Evidence:
    """One group that is compared with none, and no metric."""
    one, users = np.ones(1), found.users.astype(np.float64).reshape(-1, 1)
    return Evidence(
        groups=(INTERLEAVED,),
        weights=one,
        calendar=looks.calendar,
        membership=np.ones((len(users), 1, 1)),
        shares=np.ones((len(users), 1, 1)),
        new_users=users[:, None],
        users=users,
        metrics=(),
        bad_events={},
        quality=found.quality,
    )


def _facts(found: PreferenceEvidence) -> GroupFacts:
    calls, users = found.calls, int(found.users[-1])
    versions = " and ".join(found.versions)
    return GroupFacts(INTERLEAVED, versions, users, calls.all, calls.fallbacks, calls.failures, users)
