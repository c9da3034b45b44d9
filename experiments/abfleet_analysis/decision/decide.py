"""The conclusion: a pure function of sums over users and the plan, replayed look by look. Knows no log and no clock.

Each treatment is judged by itself, see judge.py; the experiment's verdict is the first of theirs in a fixed order.
"""

import math
from collections.abc import Sequence

from abfleet_experiments.config import AnalysisPlan

from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.judge import Judge
from abfleet_analysis.decision.measurements import ALPHA, Measurements, measure
from abfleet_analysis.decision.planning import days_left
from abfleet_analysis.decision.verdicts import PRECEDENCE, Decision, GroupDecision, Verdict

__all__ = ["ALPHA", "conclude", "decide"]


def decide(evidence: Evidence, plan: AnalysisPlan, *, measured: bool = True) -> Decision:
    """What to do, why, and what would have been said at each look.

    Without `measured` the groups' tables of metrics stay empty, which saves the boundaries that no verdict needs.
    """
    return conclude(measure(evidence, plan), measured=measured)


def conclude(measurements: Measurements, *, measured: bool = True) -> Decision:
    """The decision that follows from what is measured."""
    evidence, ratio = measurements.evidence, measurements.ratio
    groups = tuple(Judge(measurements, treatment).decision(measured=measured) for treatment in measurements.treatments)
    looks = evidence.calendar.done
    history = tuple(_experiment_verdict(_there(measurements, groups, look), look) for look in range(looks))
    verdict, name = _experiment_verdict([(g, g.verdict) for g in groups], -1)
    reasons = next((g.reasons for g in groups if g.group == name), groups[0].reasons if groups else ())
    if not groups:
        reasons = ("only control has a share of the users, so there is nothing to compare",)
    elif name is None:
        reasons = next(g.reasons for g in groups if g.verdict is verdict)
    planned = max((g.users_planned for g in groups), default=math.nan)
    return Decision(
        verdict=verdict,
        group=name,
        reasons=reasons,
        history=history,
        groups=groups,
        sample_ratio=ratio.last,
        users_planned=planned,
        days_left=days_left(evidence, planned),
    )


def _there(
    measurements: Measurements, groups: Sequence[GroupDecision], look: int
) -> list[tuple[GroupDecision, Verdict]]:
    """The treatments that were there at a look, and the verdict on each."""
    pairs = zip(measurements.treatments, groups, strict=True)
    return [(group, group.history[look]) for treatment, group in pairs if treatment.since <= look]


def _experiment_verdict(found: list[tuple[GroupDecision, Verdict]], time: int) -> tuple[Verdict, str | None]:
    if not found:
        return Verdict.KEEP_RUNNING, None
    verdict = min((verdict for _, verdict in found), key=PRECEDENCE.index)
    groups = [group for group, its in found if its is verdict]
    if verdict in (Verdict.ROLL_BACK, Verdict.CHECK_FIRST):
        return verdict, groups[0].group
    if verdict is Verdict.SHIP:
        return verdict, max(groups, key=lambda group: group.lifts[time]).group
    return verdict, groups[0].group if len(groups) < len(found) or len(found) == 1 else None
